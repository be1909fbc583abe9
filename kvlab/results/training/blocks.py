"""What a report is made of, before it is Markdown or HTML: headings, tables, lists, and what others wrote.

A text is a string of the project's own words, a ``Quoted``, or a tuple of both. A renderer escapes every one of them:
nothing in a run's files can become markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any


@dataclass(frozen=True)
class Quoted:
    """To the letter: a name, a path, a setting, a message of the machine; in no language of the report's."""

    text: str


Text = str | Quoted | tuple[str | Quoted, ...]


@dataclass(frozen=True)
class Heading:
    text: Text
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: Text


@dataclass(frozen=True)
class Table:
    names: Sequence[Text]
    rows: Sequence[Sequence[Text]]


@dataclass(frozen=True)
class Items:
    """A list; each item is one or more texts, one under the other."""

    items: Sequence[Sequence[Text]]
    numbered: bool = False


@dataclass(frozen=True)
class Verbatim:
    """Several lines to the letter. ``language``: of the code, for whoever colours it."""

    text: str
    language: str = "text"


@dataclass(frozen=True)
class Figure:
    """A figure of kvlab.results.training.figures by its name, for renderers that can draw."""

    name: str


Block = Heading | Paragraph | Table | Items | Verbatim | Figure


def fill(template: str, **values: Any) -> tuple[str | Quoted, ...]:
    """``template.format(**values)``, in which what is Quoted stays so."""
    parts: list[str | Quoted] = []
    for literal, name, form, _ in Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            value = values[name]
            inner = value if isinstance(value, tuple) else (value,)
            parts += [one if isinstance(one, Quoted) else format(one, form or "") for one in inner]
    return tuple(part for part in parts if part != "")


def pieces(text: Text) -> tuple[str | Quoted, ...]:
    return text if isinstance(text, tuple) else (text,)
