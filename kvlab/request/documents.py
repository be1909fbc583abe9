"""Turn a record of a file into one document: its parts, their exact byte spans, its id."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable
from itertools import chain, count
from typing import Any, NamedTuple

from kvlab.errors import PromptError
from kvlab.language import Message
from kvlab.request.formats import AUTO, DOMAINS, LANGUAGES, Cutting, Form, Part, cut
from kvlab.request.uploads import Number, Record, kind_of, printable, shown
from kvlab.shapes import Document, Segment

_ID_LENGTH = 80  # characters
_LABEL_LENGTH, _LETTERS = 40, 2_000  # characters: of a label, and read to tell the script
_ONE = ("system", "prompt")  # parts in a row that are one, such as an instruction and its input


class Composed(NamedTuple):
    """The text of a document, its segments, and what was read."""

    text: str
    segments: tuple[Segment, ...]
    characters: int  # before the cut
    cutting: Cutting


def compose(record: Record, limit: int, form: Form = AUTO) -> Composed:
    """Return a record as a document, its text cut at ``limit`` characters.

    A newline joins the parts and belongs to the part before it. Invariant: segments tile the text.
    Raises PromptError.
    """
    if isinstance(record.content, PromptError):
        raise record.content
    cutting = cut(record.content, form)
    parts = _texts(cutting.parts)
    text, borders = "", [0]
    for number, part in enumerate(parts):
        followed = number + 1 < len(parts) and parts[number + 1].apart
        piece = part.value + ("\n" if followed else "")
        text += piece
        borders.append(borders[-1] + len(piece.encode()))
    shortened = text[:limit]
    if not shortened.strip():
        raise _blank(parts[0].field)
    if [part.name for part in parts] == ["text"]:
        return Composed(shortened, (), len(text), cutting)
    size = len(shortened.encode())
    segments: list[Segment] = []
    for part, start, end in zip(parts, borders, borders[1:]):
        if start >= size:
            break
        if segments and part.name in _ONE and segments[-1].name == part.name:
            start = segments.pop().start
        segments.append(Segment(part.name, start, min(end, size)))
    return Composed(shortened, tuple(segments), len(text), cutting)


def labels_of(record: Record, text: str) -> tuple[str, str]:
    """Return the language and the domain of a document, as its record says, else by its letters and not at all."""
    said = [_said(record, names) for names in (LANGUAGES, DOMAINS)]
    return said[0] or script(text), said[1]


def _said(record: Record, names: Iterable[str]) -> str:
    found = (record.content.get(name) for name in names)
    said = (printable(value).strip() for value in found if isinstance(value, str) and not isinstance(value, Number))
    return next((value for value in said if 0 < len(value) <= _LABEL_LENGTH), "")


def script(text: str) -> str:
    """Name the script of most letters of a text, such as "latin" or "cjk"; Japanese is known by its kana.

    As Unicode names letters: LATIN SMALL LETTER A, CJK UNIFIED IDEOGRAPH-4E00, HIRAGANA LETTER A.
    """
    counted = Counter(unicodedata.name(c, "").partition(" ")[0].lower() for c in text[:_LETTERS] if c.isalpha())
    return max(counted, key=counted.get, default="")


def document_of(fields: dict[str, Any]) -> Document:
    """Return the document of its JSON, in which older ones have no labels. Raises KeyError and TypeError."""
    segments = tuple(Segment(**segment) for segment in fields["segments"])
    return Document(**{**fields, "segments": segments})


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


def _texts(parts: list[Part]) -> list[Part]:
    """Return the parts with checked text, without blank ones. Raises PromptError where a document has no beginning."""
    main = next((part for part in parts if part.name in ("prompt", "text")), None)
    checked = [part._replace(value=_string(part.field, part.value, part.name)) for part in parts]
    filled = [part for part in checked if part.value.strip()]
    if not filled or (main is not None and not any(part.name == main.name for part in filled)):
        raise _blank(main.field if main else "messages")
    return filled


def _string(name: str, value: Any, part: str) -> str:
    number, answers = isinstance(value, Number), part in ("answer", "assistant", "tool")
    if not isinstance(value, str) or (number and not answers):
        raise PromptError(
            "prompts-not-text",
            expected=Message('text in "{name}" (or a number)' if answers else 'text in "{name}"', name=name),
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
