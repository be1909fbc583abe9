"""Turn a record of a file into one document: its parts, their exact byte spans, its id."""

import hashlib
from collections.abc import Iterable
from itertools import chain, count
from typing import Any

from kvlab.errors import PromptError
from kvlab.language import Message
from kvlab.request.uploads import Number, Record, kind_of, printable, shown
from kvlab.shapes import Document, Segment

PARTS = ("prompt", "reasoning", "answer")

_ID_LENGTH = 80  # characters


def compose(record: Record, limit: int) -> tuple[str, tuple[Segment, ...], int]:
    """Return the text cut at ``limit`` characters, its segments, and its length before the cut.

    A newline joins the parts and belongs to the part before it. Invariant: segments tile the text.
    Raises PromptError.
    """
    if isinstance(record.content, PromptError):
        raise record.content
    parts = _parts(record.content)
    text = "\n".join(part for _, part in parts)
    shortened = text[:limit]
    if not shortened.strip():
        raise _blank(parts[0][0])
    if parts[0][0] == "text":
        return shortened, (), len(text)
    size = len(shortened.encode())
    segments, start = [], 0
    for name, part in parts:
        end = start + len(part.encode()) + 1
        if start < size:
            segments.append(Segment(name, start, min(end, size)))
        start = end
    return shortened, tuple(segments), len(text)


def digest(documents: Iterable[Document]) -> str:
    """Return the SHA-256 of these documents in their order."""
    total = hashlib.sha256()
    for document in documents:
        total.update(repr(document).encode())
    return total.hexdigest()


def new_id(record: Record, taken: set[str]) -> str:
    """Return the record's own id if it is usable and new, else its place in the file, such as line-17."""
    given = record.content.get("id")
    if isinstance(given, str) and not (isinstance(given, Number) and not given.lstrip("-").isdigit()):
        given = printable(given).strip()
        if 0 < len(given) <= _ID_LENGTH and given not in taken:
            return given
    place = f"{record.unit}-{record.number}"
    names = chain([place], (f"{place}-{repeat}" for repeat in count(2)))  # a given id may be "line-17"
    return next(name for name in names if name not in taken)


def _parts(fields: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (name, text) of each part of a document, without blank optional parts."""
    main = next((name for name in ("prompt", "text") if fields.get(name) is not None), None)
    if main is None:
        names = [shown(name) for name in list(fields)[:10]]
        raise PromptError(
            "prompts-no-field",
            expected=Message('a field "prompt" or "text"'),
            found=Message("the fields {names}" if fields else "no field", names=names),
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
            expected=Message('text in "{name}" (or a number)' if name == "answer" else 'text in "{name}"', name=name),
            found=Message("{kind}: {value}", kind=kind_of(value), value=shown(value)),
            remedy=Message("put it in quotes") if number else Message("turn it into one string"),
        )
    if "\0" in value:
        raise PromptError(
            "prompts-nul-bytes",
            expected=Message('text in "{name}"', name=name),
            found=Message("a NUL character at character {place}", place=value.index(chr(0)) + 1),
            remedy=Message("remove it and load the file again"),
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = f"\\u{ord(value[error.start]):04x}"
        raise PromptError(
            "prompts-lone-surrogate",
            expected=Message('whole characters in "{name}"', name=name),
            found=Message("half of one ({code}) at character {place}", code=code, place=error.start + 1),
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
