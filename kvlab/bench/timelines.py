"""Compare timelines by byte borders with re-encoding every student token alone, as some peers do.

The other side decodes each student token and encodes that piece with the teacher's tokenizer; its last piece stands
for the student token. Where a word is cut in two, the teacher gets other tokens than in the text. The result depends on
the student token only, so a table over the vocabulary would serve as well; a detail of the row measures that too.
"""

from functools import cache
from statistics import median

import numpy as np
import torch

from kvlab.bench.pair import documents, tokenizers
from kvlab.bench.row import FASTER, Row, in_turn, timed
from kvlab.models.tokens import tokenize
from kvlab.request.time_rules.floor import floor


def byte_borders(device: torch.device, quick: bool) -> Row:
    teacher, student = tokenizers()
    count, characters, rounds = (2, 200, 1) if quick else (12, 8_000, 9)
    texts = [document.text for document in documents(count, characters)]

    def by_bytes() -> int:
        maps = [floor(tokenize(teacher, text), tokenize(student, text)) for text in texts]
        return sum(len(time_map.columns) for time_map in maps)

    def token_by_token() -> int:
        return sum(len(reencoded(teacher, student, text)[1]) for text in texts)

    def from_table() -> int:
        pieces = cache(lambda token: _pieces(teacher, student, token))
        return sum(len(reencoded(teacher, student, text, pieces)[1]) for text in texts)

    by_bytes()  # fills the tables of token bytes, which live as long as a tokenizer
    measured = in_turn(by_bytes, token_by_token, device, rounds)
    tabled = in_turn(by_bytes, from_table, device, rounds)
    return timed(
        "byte alignment of token timelines",
        "re-encoding token by token",
        measured,
        FASTER,
        20.0,
        faster_than_reencoding_with_a_table=median(other.clock / ours.clock for ours, other in tabled),
        documents=len(texts),
        student_tokens=token_by_token(),
    )


def reencoded(teacher, student, text: str, pieces=None) -> tuple[np.ndarray, np.ndarray]:
    """Return per student token the teacher id that stands for it, and its place in the re-encoded timeline."""
    pieces = pieces or (lambda token: _pieces(teacher, student, token))
    chosen, place, length = [], [], 0
    for token in student(text, verbose=False)["input_ids"]:
        teacher_ids = pieces(token)
        length += len(teacher_ids)
        chosen.append(teacher_ids[-1] if teacher_ids else -1)
        place.append(length - 1)
    return np.array(chosen), np.array(place)


def _pieces(teacher, student, token: int) -> list[int]:
    return teacher(student.decode([token]), add_special_tokens=False)["input_ids"]
