"""Prompt, reasoning and answer of a document: from the fields of the upload, else from markers in its text.

Markers are looked for without regard to case. Reasoning begins at the first marker of its list, the answer at the last
one of its own that comes after that: an answer is announced again and again, and given at the end. A marker belongs to
the part it opens. One that begins with a letter, such as "Answer:", counts only where a line or a sentence begins,
for prose may contain it; one that begins with a sign, such as "####" or "<think>", counts anywhere.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from kvlab.request.settings import setting
from kvlab.shapes import Document, Segment

Source = Literal["auto", "fields", "none"]
Marker = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]

REASONING = (
    *("<think>", "Let's think step by step", "Let us think step by step", "Reasoning:", "Solution:"),
    *("解：", "解:", "解答：", "解答:", "思考：", "思考:", "推理：", "推理:", "分析：", "分析:"),
    *("让我们一步一步", "我们一步一步"),
)
ANSWER = (
    *("####", "</think>", "Answer:", "Final answer:"),  # "####": GSM8K
    *("The answer is", "So the answer is", "Therefore, the answer is", "The final answer is"),
    *("答案：", "答案:", "答：", "答:", "回答：", "回答:", "最终答案", "答案是", "所以答案是", "因此答案是"),
)


class Markers(BaseModel):
    """What opens the reasoning and the answer in a text whose parts are not given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reasoning: tuple[Marker, ...] = setting(REASONING, "words that open the reasoning, at their first place")
    answer: tuple[Marker, ...] = setting(ANSWER, "words that open the answer, at their last place")


def segmented(documents: Iterable[Document], source: Source, markers: Markers) -> list[Document]:
    """Documents with the segments wanted: "auto" (fields, else markers), "fields" alone, or "none"."""
    if source == "auto":
        return [mark(document, markers) for document in documents]
    return list(documents) if source == "fields" else [replace(document, segments=()) for document in documents]


def mark(document: Document, markers: Markers) -> Document:
    """The document with segments from the markers in its text; one that has segments, or no marker, as it is.

    Invariant: segments tile the text, none is empty. What stands before the first marker is the prompt.
    """
    if document.segments:
        return document
    text = document.text
    reasoning = next(_places(text, markers.reasoning), None)
    after = reasoning.end() if reasoning else 0
    answers = [place.start() for place in _places(text, markers.answer) if place.start() >= after]
    starts = {"prompt": 0}
    if reasoning:
        starts["reasoning"] = reasoning.start()
    if answers:
        starts["answer"] = answers[-1]
    if len(starts) == 1:
        return document
    borders = [len(text[:start].encode()) for start in starts.values()] + [len(text.encode())]
    parts = [Segment(*part) for part in zip(starts, borders, borders[1:])]
    return replace(document, segments=tuple(part for part in parts if part.start < part.end))


def final_answer(text: str, markers: Markers) -> str | None:
    """What stands on the line behind the last answer marker of a text; None without a marker."""
    places = list(_places(text, markers.answer))
    return text[places[-1].end() :].strip().split("\n")[0].strip() if places else None


def _places(text: str, markers: Sequence[str]) -> Iterator[re.Match[str]]:
    """Where markers stand, from the start of the text on."""
    pattern = "|".join(re.escape(marker.strip()) for marker in markers)
    found = re.finditer(pattern, text, re.IGNORECASE) if markers else ()
    return (place for place in found if not place[0][0].isalpha() or _begins_sentence(text, place.start()))


def _begins_sentence(text: str, at: int) -> bool:
    """Nothing but blanks between ``at`` and the end of a line, sentence or tag before it."""
    before = text[:at].rstrip(" \t\u3000")
    return not before or before[-1] in "\n\r.!?。！？；…”」』>*"
