"""A record of a file → one document: its parts, their exact byte spans, its id; and what tells documents apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from kvlab.errors import PromptError
from kvlab.language import Message
from kvlab.request.uploads import Number, Record, kind_of, printable, shown
from kvlab.shapes import Document, Segment

PARTS = ("prompt", "reasoning", "answer")

_ID_LENGTH = 80  # characters


def compose(record: Record, limit: int) -> tuple[str, tuple[Segment, ...], int]:
    """The text cut at ``limit`` characters, its segments, and how many characters it had. Raises PromptError.

    Parts are joined by a newline that belongs to the part before it. Invariant: segments tile the text.
    """
    if isinstance(record.content, PromptError):
        raise record.content
    parts = _parts(record.content)
    text = "\n".join(part for _, part in parts)
    kept = text[:limit]
    if not kept.strip():
        raise _blank(parts[0][0])
    if parts[0][0] == "text":
        return kept, (), len(text)
    kept_bytes = len(kept.encode())
    segments, start = [], 0
    for name, part in parts:
        end = start + len(part.encode()) + 1
        if start < kept_bytes:
            segments.append(Segment(name, start, min(end, kept_bytes)))
        start = end
    return kept, tuple(segments), len(text)


def digest(documents: Iterable[Document]) -> str:
    """SHA-256 of these documents as they are, in their order."""
    found = hashlib.sha256()
    for document in documents:
        found.update(repr(document).encode())
    return found.hexdigest()


def new_id(record: Record, taken: set[str]) -> str:
    """The given id where it can be used and is new, else the place in the file."""
    given = record.content.get("id")
    if isinstance(given, str) and not (isinstance(given, Number) and not given.lstrip("-").isdigit()):
        given = printable(given).strip()
        if 0 < len(given) <= _ID_LENGTH and given not in taken:
            return given
    place = record.where.replace(" ", "-")
    name, repeat = place, 1
    while name in taken:  # somebody's own id is "line-17"
        repeat += 1
        name = f"{place}-{repeat}"
    return name


def _parts(fields: dict[str, Any]) -> list[tuple[str, str]]:
    """The parts a document is made of, blank optional ones left out."""
    main = next((name for name in ("prompt", "text") if fields.get(name) is not None), None)
    if main is None:
        raise PromptError(
            "prompts-no-field",
            expected=Message('a field "prompt" or "text"'),
            found=Message("the fields {names}", names=", ".join(map(shown, list(fields)[:10])))
            if fields
            else Message("no field"),
            remedy=Message('rename the field with the document to "prompt"'),
        )
    names = PARTS if main == "prompt" else (main,)
    values = {name: _string(name, fields[name]) for name in names if fields.get(name) is not None}
    if not values[main].strip():
        raise _blank(main)
    return [(name, value) for name, value in values.items() if value.strip()]


def _string(name: str, value: Any) -> str:
    number = isinstance(value, Number)
    if not isinstance(value, str) or (number and name != "answer"):
        raise PromptError(
            "prompts-not-text",
            expected=Message('text in "{name}"{value}', name=name, value=" (or a number)" if name == "answer" else ""),
            found=Message("{kind_of}: {value}", kind_of=kind_of(value), value=shown(value)),
            remedy=Message("put it in quotes") if number else Message("turn it into one string"),
        )
    if "\0" in value:
        raise PromptError(
            "prompts-nul-bytes",
            expected=Message('text in "{name}"', name=name),
            found=Message("a NUL character at character {n}", n=value.index(chr(0)) + 1),
            remedy=Message("remove it and load the file again"),
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            "prompts-lone-surrogate",
            expected=Message('whole characters in "{name}"', name=name),
            found=Message(
                "half of one (\\u{ord}) at character {start}",
                ord=f"{ord(value[error.start]):04x}",
                start=error.start + 1,
            ),
            remedy=Message("write the text again from its source: an emoji was cut in two when it was saved"),
        ) from None
    return str(value)


def _blank(name: str) -> PromptError:
    return PromptError(
        "prompts-empty-document",
        expected=Message('a document with text in "{name}"', name=name),
        found=Message("nothing but blanks"),
        remedy=Message("fill it in or remove it"),
    )
