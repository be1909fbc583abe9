"""Read text formats: bytes of a .txt or .jsonl file → records, each with its place in the file.

Knows nothing of tables (``tables.py``), documents (``documents.py``) or limits (``prompts.py``). A record that cannot
be read carries its error, and the reader continues: one bad line never costs the others.
"""

import codecs
import gzip
import io
import json
import re
import reprlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import PurePath
from typing import Any

from kvlab.errors import PromptError
from kvlab.language import Message, phrase

EXTENSIONS = (".txt", ".md", ".jsonl", ".json", ".csv", ".parquet")
PACKED = ".gz"  # may follow each of them

# UTF-32 before UTF-16: the little-endian byte order mark of the first begins with that of the second.
_WIDE_BOMS = {"UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "UTF-16": (codecs.BOM_LE, codecs.BOM_BE)}
_MAGIC = (
    (b"PK\x03\x04", phrase("a zip archive (.zip, .xlsx, .docx)")),
    (b"\x89PNG\r\n\x1a\n", phrase("a PNG image")),
    (b"\xff\xd8\xff", phrase("a JPEG image")),
    (b"\x1f\x8b", phrase("gzip-compressed data")),
    (b"\x28\xb5\x2f\xfd", phrase("zstd-compressed data")),
    (b"\xfd7zXZ\x00", phrase("xz-compressed data")),
    (b"%PDF-", phrase("a PDF")),
    (b"\x7fELF", phrase("a program")),
    (b"SQLite format 3\x00", phrase("an SQLite database")),
)
_PLACES = {
    "line": phrase("line {n}"),
    "row": phrase("row {n}"),
    "item": phrase("item {n}"),
    "paragraph": phrase("paragraph {n}"),
}
# What text that is not UTF-8 may be instead: Python's name -> the name that iconv and people know. Where the text alone
# cannot tell, the first is believed.
_ENCODINGS = {
    "gb18030": "GBK",
    "big5": "Big5",
    "cp1252": "Windows-1252",
    "shift_jis": "Shift-JIS",
    "euc_kr": "EUC-KR",
    "cp1251": "Windows-1251",
}
_FEWEST = 3  # bytes that are not ASCII, below which nothing is guessed
_SAMPLE = 20_000  # bytes that are not UTF-8 that the guess looks at, in whole lines
_LONGEST = 4 * 2**20  # bytes of a line that the guess looks at
_KINDS = {
    "Number": phrase("a number"),
    "str": phrase("a string"),
    "bool": phrase("true or false"),
    "list": phrase("a list"),
    "dict": phrase("an object"),
    "NoneType": phrase("null"),
}
# Messages of Python's JSON reader.
_JSON_PROBLEMS = (
    phrase("Expecting value"),
    phrase("Expecting property name enclosed in double quotes"),
    phrase("Expecting ':' delimiter"),
    phrase("Expecting ',' delimiter"),
    phrase("Extra data"),
    phrase("Illegal trailing comma before end of array"),
    phrase("Illegal trailing comma before end of object"),
    phrase("Invalid control character at"),
    phrase("Invalid \\escape"),
    phrase("Invalid \\uXXXX escape"),
    phrase("Unterminated string starting at"),
)
# Control characters, line separators, text-direction overrides and lone surrogates, which no name may hold.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
JQ = "jq -c '.[]' old.json > new.jsonl"
EXAMPLE = '{"prompt": "2 + 2 = ?", "reasoning": "Two and two.", "answer": "4"}'
_NAME_LENGTH = 80  # characters
_JUDGED = 100_000  # lines that tell text from other data
_FILLED = re.compile(rb"[^ \t\r\n\v\f]")  # what makes a line more than blank

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 40


class Number(str):
    """A number with its spelling in the file (``42.0`` stays ``42.0``)."""

    __repr__ = str.__str__


@dataclass(frozen=True)
class Record:
    """The content of one place of a file: its fields by name, or the error that prevents reading them."""

    unit: str  # "line" | "row" | "paragraph"
    number: int
    content: dict[str, Any] | PromptError

    @property
    def where(self) -> Message:
        return Message(_PLACES[self.unit], n=self.number)


def printable(text: str) -> str:
    """Return ``text`` without control characters, lone surrogates and text-direction overrides."""
    return _UNPRINTABLE.sub("", text)


def shown(value: object) -> str:
    """Quote ``value`` for an error message: escaped, at most 60 characters."""
    quoted = _short.repr(value)
    return quoted if len(quoted) <= 60 else quoted[:57] + "..."


def safe_name(filename: str) -> str:
    """Return a name to show and to store: no folders, no control or shell characters, at most 80 characters."""
    base = re.sub(r'[<>:"|?*]', "_", printable(re.split(r"[/\\]", filename)[-1])).strip(" .")
    if not base:
        return "upload"
    suffix = PurePath(base).suffix[:_NAME_LENGTH]
    return base.removesuffix(suffix)[: _NAME_LENGTH - len(suffix)] + suffix


def extension(filename: str) -> str:
    """Return the extension of a readable file, in lower case, without ``.gz``. Raises ``prompts-unknown-extension``."""
    suffix = PurePath(safe_name(filename).lower().removesuffix(PACKED)).suffix
    if suffix not in EXTENSIONS:
        raise PromptError(
            "prompts-unknown-extension",
            expected=Message("a file ending in {extensions}, or one of these and .gz", extensions=list(EXTENSIONS)),
            found=shown(safe_name(filename)),
            remedy=Message("save the prompts in one of these formats and rename the file accordingly"),
        )
    return suffix


def unpacked(filename: str, data: bytes, limit: int) -> bytes:
    """Return the content of a ``.gz`` file, at most one byte more than ``limit``; other files as they are.

    Raises ``prompts-broken-gzip``.
    """
    if not safe_name(filename).lower().endswith(PACKED):
        return data
    try:
        with gzip.open(io.BytesIO(data)) as file:
            return file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise PromptError(
            "prompts-broken-gzip",
            expected=Message("a file packed by gzip"),
            found=Message("data that cannot be unpacked ({reason})", reason=str(error)[:120]),
            remedy=Message("pack it again, or give the file as it was before"),
        ) from None


def check_text(data: bytes) -> None:
    """Refuse data that is not text. Raises ``prompts-utf16`` or ``prompts-binary``."""
    for encoding, boms in _WIDE_BOMS.items():
        if data.startswith(boms):
            raise PromptError(
                "prompts-utf16",
                expected=Message("text in UTF-8"),
                found=Message("text in {encoding} (its byte order mark at byte 0)", encoding=encoding),
                remedy=Message(
                    "save the file as UTF-8, or: iconv -f {encoding} -t UTF-8 old.txt > new.txt", encoding=encoding
                ),
            )
    kind = next((Message(name) for magic, name in _MAGIC if data.startswith(magic)), None)
    if data.startswith(b"PAR1") and data.endswith(b"PAR1"):
        kind = Message("a Parquet table")
    elif kind is None and _is_mostly_unreadable(data):
        kind = Message("a NUL byte at byte offset {offset}, and most lines are not UTF-8 text", offset=data.index(0))
    if kind is not None:
        raise PromptError(
            "prompts-binary",
            expected=Message("text in UTF-8"),
            found=Message("binary data: {kind}", kind=kind),
            remedy=Message(
                "unpack or export it to one of {extensions}; if it is text in UTF-16: iconv -f UTF-16LE -t "
                "UTF-8 old.txt > new.txt",
                extensions=list(EXTENSIONS),
            ),
        )


def paragraphs(data: bytes) -> Iterator[Record]:
    """Yield paragraphs separated by blank lines, as ``text`` fields; CRLF becomes LF.

    A line that cannot be read becomes a record of its own; the other lines of its paragraph stay.
    """
    count, inside, good, encoding = 0, False, [], Encoding(data)
    for number, offset, line in lines(data, blank=False):
        text = None
        try:
            text = decode(line, number, offset, encoding)
        except PromptError as error:
            yield Record("line", number, error)
        if text is not None and not text.strip():
            if good:
                yield Record("paragraph", count, {"text": "\n".join(good)})
            inside, good = False, []
            continue
        if not inside:
            inside, count = True, count + 1
        if text is not None:
            good.append(text)
    if good:
        yield Record("paragraph", count, {"text": "\n".join(good)})


def json_lines(data: bytes) -> Iterator[Record]:
    """Yield one JSON object per line. Skips blank lines; numbers keep their spelling."""
    encoding = Encoding(data)
    for number, offset, line in lines(data, blank=False):
        if not line.strip():
            continue
        try:
            content = _json_object(decode(line, number, offset, encoding))
        except PromptError as error:
            content = error
        yield Record("line", number, content)


def json_file(data: bytes) -> Iterator[Record]:
    """Yield the objects of a JSON file: of its array, of the only array in its object, or of one object per line."""
    first, *others = list(islice((line for _, _, line in lines(data, blank=False) if line.strip()), 2)) or [b""]
    if others and not first.lstrip().startswith(b"["):
        try:
            _json.decode(first.decode())
        except (ValueError, RecursionError):
            pass
        else:
            yield from json_lines(data)
            return
    try:
        text = _whole_text(data)
        yield from _items(text) if text.lstrip().startswith("[") else _members(text)
    except PromptError as error:
        yield Record("item", 1, error)


def _whole_text(data: bytes) -> str:
    encoding = Encoding(data)
    return "\n".join(decode(line, number, offset, encoding) for number, offset, line in lines(data, blank=False))


def _items(text: str) -> Iterator[Record]:
    """Yield the items of a JSON array one by one, so that a broken one costs only what follows it."""
    place, number = _past(text, text.index("[") + 1), 0
    while place < len(text) and text[place] != "]":
        number += 1
        try:
            value, end = _json.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            yield Record("item", number, _broken_json(text[place : place + 200], error))
            return
        yield Record("item", number, value if isinstance(value, dict) else _no_object(value))
        place = _past(text, end)
        if text[place : place + 1] not in (",", "]"):
            yield Record("item", number + 1, _broken_json(text[place : place + 200], ValueError(_UNENDED)))
            return
        place = _past(text, place + 1) if text[place] == "," else place


_UNENDED = Message("the array does not end, or a comma is missing")
_JSON_BLANK = re.compile(r"[ \t\n\r]*")


def _past(text: str, place: int) -> int:
    """Return the place after blanks."""
    return _JSON_BLANK.match(text, place).end()


def _members(text: str) -> Iterator[Record]:
    """Yield the objects in the only array of a JSON object, else the object itself."""
    try:
        value = _json.decode(text)
    except (ValueError, RecursionError) as error:
        yield Record("item", 1, _broken_json(text, error))
        return
    if not isinstance(value, dict):
        yield Record("item", 1, _no_object(value))
        return
    arrays = [inner for inner in value.values() if isinstance(inner, list) and inner and isinstance(inner[0], dict)]
    chat = any(isinstance(value.get(name), list) for name in ("messages", "conversations", "conversation"))
    items = arrays[0] if len(arrays) == 1 and not chat else [value]
    for number, item in enumerate(items, 1):
        yield Record("item", number, item if isinstance(item, dict) else _no_object(item))


def _no_object(value: object) -> PromptError:
    return PromptError(
        "prompts-not-object",
        expected=Message("an array of JSON objects"),
        found=Message("{kind}: {value}", kind=kind_of(value), value=shown(value)),
        remedy=Message("write each document as an object, for example: {example}", example=EXAMPLE),
    )


def _broken_json(text: str, error: ValueError | RecursionError) -> PromptError:
    return PromptError(
        "prompts-broken-json",
        expected=Message("an array of JSON objects"),
        found=Message("{line} ({reason})", line=shown(text), reason=_json_reason(error)),
        remedy=Message("mend it there; a program such as jq shows the place: jq . old.json"),
    )


def lines(data: bytes, blank: bool = True) -> Iterator[tuple[int, int, bytes]]:
    """Yield the lines of a file: number from 1, byte offset, bytes without the line end and the UTF-8 mark.

    Without ``blank``, of blank lines in a row only the first is sure to come: a file may consist of millions.
    """
    file, offset, number = io.BytesIO(data), 0, 0
    for line in file:
        number += 1
        start = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
        yield number, offset + start, line[start:].removesuffix(b"\n").removesuffix(b"\r")
        offset += len(line)
        if not blank and not line.strip():
            filled = _FILLED.search(data, offset)
            following = data.rfind(b"\n", offset, filled.start()) + 1 if filled else len(data)
            if following > offset:
                number += data.count(b"\n", offset, following)
                offset = file.seek(following)


class Encoding:
    """The encoding of a file that is not UTF-8, guessed when first asked for, from what is not UTF-8 in it."""

    def __init__(self, data: bytes):
        self._data = data

    @cached_property
    def name(self) -> str | None:
        """Return the name that people and iconv know, or None if nothing fits."""
        from charset_normalizer import from_bytes

        sample = b""
        for _, _, line in lines(self._data, blank=False):
            if len(line) <= _LONGEST and not line.isascii() and 0 not in line and not _is_utf8(line):
                sample += line + b"\n"
            if len(sample) > _SAMPLE:
                break
        if sum(byte > 0x7F for byte in sample) < _FEWEST:
            return None
        matches = list(from_bytes(sample, cp_isolation=list(_ENCODINGS)))
        best = min((match.chaos for match in matches), default=0.0)
        fits = {name for match in matches if match.chaos == best for name in match.could_be_from_charset}
        name = next((name for name in _ENCODINGS if name in fits), None)
        if name == "cp1252" and not any(0x80 <= byte < 0xA0 for byte in sample):
            return "ISO-8859-1"
        return _ENCODINGS.get(name)


def decode(line: bytes, number: int, offset: int, encoding: Encoding | None = None) -> str:
    """Decode one of ``lines``. Raises ``prompts-nul-bytes`` or ``prompts-wrong-encoding`` with its place."""
    if 0 in line:
        place = offset + line.index(0)
        raise PromptError(
            "prompts-nul-bytes",
            expected=Message("text"),
            found=Message("a NUL byte at byte offset {offset} (line {line})", offset=place, line=number),
            remedy=Message("remove it and load the file again; this line is left out, the others are kept"),
        )
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        place = Message("at byte offset {offset} (line {line})", offset=offset + error.start, line=number)
        raise wrong_encoding(line[error.start], place, encoding.name if encoding else None) from None


def wrong_encoding(byte: int, place: Message, encoding: str | None = None) -> PromptError:
    found = {"byte": f"{byte:02X}", "place": place, "encoding": encoding}
    return PromptError(
        "prompts-wrong-encoding",
        expected=Message("text in UTF-8"),
        found=Message("byte 0x{byte} {place}, which is not UTF-8; the text looks like {encoding}", **found)
        if encoding
        else Message("byte 0x{byte} {place}, which is not UTF-8", **found),
        remedy=Message("save the file as UTF-8, or: iconv -f {encoding} -t UTF-8 old.txt > new.txt", encoding=encoding)
        if encoding
        else Message("save the file as UTF-8; Chinese text from Windows: iconv -f GBK -t UTF-8 old.txt > new.txt"),
    )


def _is_mostly_unreadable(data: bytes) -> bool:
    """Return whether data has NUL bytes and over half of its non-blank lines, as far as it looks, are not text."""
    if 0 not in data:
        return False
    filled = unreadable = 0
    for _, _, line in islice(lines(data, blank=False), _JUDGED):
        filled += bool(line.strip())
        unreadable += 0 in line or not _is_utf8(line)
    return unreadable * 2 > filled


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _no_constant(name: str) -> None:
    raise ValueError(Message("{name} is not JSON", name=name))


# Keep numbers as text: Python's int() refuses over 4,300 digits and float() rounds.
_json = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=_no_constant)


def _json_object(line: str) -> dict[str, Any]:
    remedy = Message("write each document on its own line, for example: {example}", example=EXAMPLE)
    if line.lstrip().startswith("["):
        remedy = Message("turn the JSON array into one object per line: {command}", command=JQ)
    try:
        value = _json.decode(line)
    except (ValueError, RecursionError) as error:
        raise PromptError(
            "prompts-broken-json",
            expected=Message("one JSON object per line"),
            found=Message("{line} ({reason})", line=shown(line), reason=_json_reason(error)),
            remedy=remedy,
        ) from None
    if not isinstance(value, dict):
        raise PromptError(
            "prompts-not-object",
            expected=Message("one JSON object per line"),
            found=Message("{kind}: {value}", kind=kind_of(value), value=shown(line)),
            remedy=remedy,
        )
    return value


def _json_reason(error: ValueError | RecursionError) -> Message:
    if isinstance(error, RecursionError):
        return Message("brackets nested too deep")
    if isinstance(error, json.JSONDecodeError):
        problem = Message(error.msg) if error.msg in _JSON_PROBLEMS else error.msg
        return Message("{problem} at character {character}", problem=problem, character=error.colno)
    return Message.read(error.args[0])


def kind_of(value: object) -> Message:
    """Name the kind of a value in the words of a file's author: "a list", "a number", ..."""
    name = type(value).__name__
    return Message(_KINDS[name]) if name in _KINDS else Message("a {type}", type=name)


def empty(found: Message) -> PromptError:
    """Return the error of a file in which no document begins."""
    return PromptError(
        "prompts-empty",
        expected=Message("at least one document"),
        found=found,
        remedy=Message("choose a file with text in it"),
    )
