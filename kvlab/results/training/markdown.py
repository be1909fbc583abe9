"""The gathered report of a run as Markdown. It knows no word itself: see kvlab.results.training.sections."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from kvlab.results.training.blocks import Figure, Heading, Items, Paragraph, Quoted, Table, Text, Verbatim, pieces
from kvlab.results.training.sections import sections

# What CommonMark, GitHub's tables, links and mathematics would read as markup within a line.
MARKUP = re.compile(r"[\\`*_\[\]<>|~&$@]|(?<=\w):(?=//)|(?<=www)\.", re.IGNORECASE)
BLOCK_START = re.compile(r"^(\s*\d*)([#+=.)-])(?=[\s#=-]|$)")  # a heading, a list, a rule


def markdown(report: dict[str, Any], language: str = "en") -> str:
    """The whole report of kvlab.results.training.facts.gather, without its figures; ``language``: "en" or "zh"."""
    written = (_block(block) for block in sections(report, language) if not isinstance(block, Figure))
    return "\n\n".join(written) + "\n"


def _block(block: Heading | Paragraph | Table | Items | Verbatim) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_text(text)}"
        case Paragraph(text):
            return _text(text, starts=True)
        case Table(names, rows):
            return _table(names, rows)
        case Items(items, numbered):
            sign = "1." if numbered else "-"
            return "\n".join(f"{sign} " + f"\n{' ' * (len(sign) + 1)}".join(map(_begun, item)) for item in items)
        case Verbatim(text, language):
            fence = "`" * max(3, _longest_ticks(text) + 1)
            return f"{fence}{language}\n{text}\n{fence}"


def _begun(text: Text) -> str:
    return _text(text, starts=True)


def _text(text: Text, starts: bool = False) -> str:
    """One line. ``starts``: it begins a block, where a sign such as # would be more than a sign."""
    written = "".join(_code(part.text) if isinstance(part, Quoted) else _escaped(part) for part in pieces(text))
    return BLOCK_START.sub(r"\1\\\2", written) if starts else written


def _escaped(words: str) -> str:
    return MARKUP.sub(lambda found: "\\" + found.group(), _one_line(words))


def _code(text: str) -> str:
    """A code span, in which nothing is read as markup."""
    text = " ".join(text.split()) or " "
    ticks = "`" * (_longest_ticks(text) + 1)
    pad = " " if text[0] == "`" or text[-1] == "`" else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def _table(names: Sequence[Text], rows: Sequence[Sequence[Text]]) -> str:
    lines = [[_cell(name) for name in names], ["---"] * len(names), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: Text) -> str:
    """Within a code span too a bar would end the cell."""
    parts = [_code(p.text).replace("|", "\\|") if isinstance(p, Quoted) else _escaped(p) for p in pieces(text)]
    return "".join(parts)


def _longest_ticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _one_line(text: str) -> str:
    """Without line breaks; the spaces at its ends stay, for it may be a part of a line."""
    return re.sub(r"\s+", " ", text)
