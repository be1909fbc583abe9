"""Split a document into prompt, reasoning and answer: by the fields of the upload, else by markers in its text.

Markers match in any case. Reasoning begins at the first reasoning marker. The answer begins at the last answer marker
after that, because texts announce an answer several times and give it at the end. A marker belongs to the part it
opens. A marker that begins with a letter, such as "Answer:", counts only at the start of a line or a sentence, because
prose may contain it. A marker that begins with a sign, such as "####" or "<think>", counts anywhere.
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
    """The words that open the reasoning and the answer in a text without fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reasoning: tuple[Marker, ...] = setting(REASONING, "words that open the reasoning, at their first place")
    answer: tuple[Marker, ...] = setting(ANSWER, "words that open the answer, at their last place")


def segmented(documents: Iterable[Document], source: Source, markers: Markers) -> list[Document]:
    """Return the documents with segments from ``source``: "auto" (fields, else markers), "fields" or "none"."""
    if source == "auto":
        return [split_at_markers(document, markers) for document in documents]
    return list(documents) if source == "fields" else [replace(document, segments=()) for document in documents]


def split_at_markers(document: Document, markers: Markers) -> Document:
    """Return the document with segments from the markers in its text; unchanged if it has segments or no marker.

    Invariant: segments tile the text, none is empty. The prompt is the text before the first marker.
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
    """Return the rest of the line after the last answer marker of a text; None without a marker."""
    places = list(_places(text, markers.answer))
    return text[places[-1].end() :].strip().split("\n")[0].strip() if places else None


def _places(text: str, markers: Sequence[str]) -> Iterator[re.Match[str]]:
    """Return the matches of markers, from the start of the text on."""
    pattern = "|".join(re.escape(marker.strip()) for marker in markers)
    matches = re.finditer(pattern, text, re.IGNORECASE) if markers else ()
    return (place for place in matches if not place[0][0].isalpha() or _begins_sentence(text, place.start()))


def _begins_sentence(text: str, at: int) -> bool:
    """Return whether only blanks stand between ``at`` and the end of the line, sentence or tag before it."""
    while at and text[at - 1] in " \t\u3000":  # without a copy of all text before each marker
        at -= 1
    return not at or text[at - 1] in "\n\r.!?。！？；…”」』>*"
