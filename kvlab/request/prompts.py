"""Read uploads (pasted text is one) and the bundled samples into Documents, and list what was refused and why.

Knows nothing of file formats (``uploads.py`` and ``tables.py`` do), tokenizers or models. Good documents are always
returned; refused, duplicate and cut ones are counted and named.
The kind of a Problem is the kind of its PromptError without ``prompts-``.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kvlab.errors import PromptError, system_reason
from kvlab.host.bundled import SAMPLES
from kvlab.language import Message
from kvlab.request import formats, tables, uploads
from kvlab.request.documents import compose, document_of, labels_of, new_id
from kvlab.request.formats import AUTO, Form, Format
from kvlab.request.uploads import Record, safe_name
from kvlab.shapes import Document

RUN_PROMPTS = "prompts.jsonl"  # in a run folder
TEXTS = (".txt", ".md")  # paragraphs, without fields
OBJECTS = {".jsonl": uploads.json_lines, ".json": uploads.json_file}
AUTO_CALIBRATION_BELOW = 20  # documents; with fewer, a map fitted on them alone says little

_MIB = 2**20
_NAMES = 100  # of fields that no document has


@dataclass(frozen=True)
class Limits:
    """The limits of an upload."""

    bytes: int = 64 * _MIB  # of a file
    files: int = 20  # in one form
    bytes_together: int = 128 * _MIB  # of all files in one form
    documents: int = 10_000
    records: int = 200_000  # that are read to find the documents: most are then duplicates
    characters: int = 100_000  # of a document: 20,000 tokens and more
    text: int = 64 * _MIB  # UTF-8 bytes of all documents: a compressed file may hold far more than its size
    segments: int = 500_000  # of all documents: a chat may have as many turns as characters
    problems: int = 200  # listed one by one; the others are only counted


LIMITS = Limits()


@dataclass(frozen=True)
class Problem:
    """A part of an upload that was rejected or changed."""

    where: Message  # "line 17", "row 3", "paragraph 4" or "file"
    kind: str  # stable short name: "broken-json"
    message: Message  # expected, found, what to do


@dataclass(frozen=True)
class Cut:
    """A document that was longer than the limit; lengths in characters."""

    id: str
    where: Message
    characters: int
    kept: int


@dataclass(frozen=True)
class Reading:
    """The result of reading an upload: documents, and everything rejected or changed."""

    documents: list[Document]
    problems: list[Problem] = field(default_factory=list)
    duplicates: int = 0  # documents left out because an earlier one has the same text
    cut: list[Cut] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)  # of a table
    column: str | None = None  # of a table: the column that holds the prompts
    formats: dict[str, int] = field(default_factory=dict)  # format -> its documents
    parts: list[str] = field(default_factory=list)  # the names of the segments
    left_out: list[str] = field(default_factory=list)  # fields that no document has
    places: list[Message] = field(default_factory=list)  # of a folder: the files that were read

    @property
    def turns(self) -> bool:
        """Return whether documents are chats, with roles."""
        return any(part in formats.ROLES for part in self.parts)

    def recognised(self) -> list[Message]:
        """Say what was read as what: the format, how many documents, and their parts or roles."""
        said = list(self.places)
        for name, count in self.formats.items():
            what = {"format": Message(formats.FORMATS[name])}
            said.append(Message.plural(count, "{format}, {n} document", "{format}, {n:,} documents", **what))
        listed = {"names": [Message(formats.SPOKEN[part]) for part in self.parts]}
        if self.turns:
            said.append(Message.plural(len(self.parts), "{n} role: {names}", "{n} roles: {names}", **listed))
        elif self.parts:
            said.append(Message.plural(len(self.parts), "{n} part: {names}", "{n} parts: {names}", **listed))
        if self.left_out:
            said.append(Message("not read: {names}", names=[uploads.shown(name) for name in self.left_out[:20]]))
        return said


def read_upload(
    filename: str,
    data: bytes,
    *,
    column: str | None = None,
    answer: str | None = None,
    format: Format = "auto",
    form: Form = AUTO,
    limits: Limits = LIMITS,
) -> Reading:
    """Read the documents of a .txt or .md file (separated by blank lines), or of a .jsonl, .json, .csv or .parquet one.

    The names of the fields tell the format (``formats.py``), unless ``format``, ``column`` and ``answer`` or ``form``
    say it. A format with parts becomes a document with segments; ``text`` or any other ``column`` one without. Each
    file may be packed (.gz).
    Raises PromptError when the file cannot be read or nothing good is in it.
    """
    suffix = uploads.extension(filename)
    _check_size(len(data), limits, safe_name(filename))
    data = uploads.unpacked(filename, data, limits.bytes)
    _check_size(len(data), limits, safe_name(filename))
    if form == AUTO:
        form = Form(format, column, answer)
    elif column is not None:
        form = replace(form, column=column)
    if form != AUTO and suffix in TEXTS:
        raise PromptError(
            "prompts-no-column",
            expected=Message("no column and no format for a {suffix} file", suffix=suffix),
            found=Message("the column {column}", column=uploads.shown(column))
            if column
            else Message("the format {format}", format=form.format),
            remedy=Message("leave them out, or choose a .jsonl, .json, .csv or .parquet file"),
        )
    if suffix != ".parquet":
        uploads.check_text(data)
    if suffix in TEXTS:
        return _collect(uploads.paragraphs(data), limits)
    if suffix in OBJECTS:
        return _collect(OBJECTS[suffix](data), limits, form)
    return read_table(tables.open_table(suffix, data), form, limits)


def read_table(table: tables.Table, form: Form, limits: Limits) -> Reading:
    """Read the documents of a table. Raises PromptError as ``read_upload``."""
    chosen = tables.choose_column(table, form)
    names = tables.named_columns(table)
    reads = form if chosen in (None, "prompt", "text") else replace(form, column=chosen)
    wanted = tables.wanted_columns(table, chosen, form)
    records = tables.table_records(table, chosen, wanted)
    unread = [name for name in names if name not in wanted]
    return _collect(records, limits, reads, unread, columns=names, column=chosen)


def read_file(path: str | Path, column: str | None = None, *, form: Form = AUTO, limits: Limits = LIMITS) -> Reading:
    """Read a file of this machine as ``read_upload`` does. Raises ``prompts-not-found`` if there is none."""
    path = Path(os.path.expanduser(path))
    uploads.extension(path.name)
    try:
        # Check before reading: a file may be over the limit, and a device or a pipe never ends.
        if path.is_file():
            _check_size(path.stat().st_size, limits, safe_name(path.name))
            return read_upload(path.name, path.read_bytes(), column=column, form=form, limits=limits)
        reason = Message("a folder or a device") if path.exists() else Message("no such file")
    except OSError as error:
        reason = system_reason(error)
    raise PromptError(
        "prompts-not-found",
        expected=Message("a file at {path}", path=uploads.shown(str(path))),
        found=reason,
        remedy=Message("check the path and the permissions"),
    )


def tabular_columns(filename: str, data: bytes) -> list[str]:
    """Return the columns or fields that a user can choose from; [] for files without any (.txt, .md)."""
    suffix = uploads.extension(filename)
    if suffix in TEXTS:
        return []
    _check_size(len(data), LIMITS, safe_name(filename))
    data = uploads.unpacked(filename, data, LIMITS.bytes)
    _check_size(len(data), LIMITS, safe_name(filename))
    if suffix != ".parquet":
        uploads.check_text(data)
    if suffix in OBJECTS:
        record = next(OBJECTS[suffix](data), None)
        names = list(record.content) if record and isinstance(record.content, dict) else []
        return [name for name in names if len(name) <= tables.COLUMNS][: tables.COLUMNS]
    return tables.named_columns(tables.open_table(suffix, data))


def samples(limit: int | None = None) -> list[Document]:
    """Read the first ``limit`` bundled sample prompts, English and Chinese, each with all three parts."""
    return read_file(SAMPLES).documents[:limit]


def calibration_documents(calibration: str, documents: Sequence[Document]) -> list[Document]:
    """Return the bundled samples that are not among the prompts, when the request's ``calibration`` wants them."""
    if calibration == "none" or (calibration == "auto" and len(documents) >= AUTO_CALIBRATION_BELOW):
        return []
    texts = {document.text for document in documents}
    return [replace(d, id=f"sample/{d.id}") for d in samples() if d.text not in texts]


def write_prompts(documents: Iterable[Document], path: str | Path) -> None:
    """Write one JSON line per document with its segments; ``read_prompts`` returns the same documents."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for document in documents:
            file.write(json.dumps(asdict(document), ensure_ascii=False) + "\n")


def read_prompts(path: str | Path) -> list[Document]:
    """Read the documents of ``write_prompts``. Raises ``prompts-not-found`` or ``prompts-broken-file``."""
    documents = []
    try:
        with open(path, "rb") as file:
            for line in file:
                documents.append(document_of(json.loads(line)))
    except OSError as error:
        raise PromptError(
            "prompts-not-found",
            expected=Message("the prompts of a run at {path}", path=uploads.shown(str(path))),
            found=system_reason(error),
            remedy=Message("choose another run, or start it again"),
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise PromptError(
            "prompts-broken-file",
            expected=Message("one document per line in {path}", path=uploads.shown(str(path))),
            found=Message("line {line}, which is none ({reason})", line=len(documents) + 1, reason=error),
            remedy=Message("the file was changed or only half written: start the run again"),
        ) from None
    return documents


def _check_size(size: int, limits: Limits, name: str) -> None:
    if size > limits.bytes:
        raise PromptError(
            "prompts-too-large",
            expected=Message("at most {size:g} MiB ({bytes:,} bytes)", size=limits.bytes / _MIB, bytes=limits.bytes),
            found=Message("{size:.1f} MiB ({bytes:,} bytes) in {name}", size=size / _MIB, bytes=size, name=name),
            remedy=Message("split it, or keep a sample of its documents"),
        )
    if size == 0:
        raise uploads.empty(Message("0 bytes in {name}", name=name))


def _collect(
    records: Iterator[Record], limits: Limits, form: Form = AUTO, unread: Iterable[str] = (), **table: Any
) -> Reading:
    documents: list[Document] = []
    refusals: list[tuple[Message, PromptError]] = []
    notes: list[PromptError] = []
    cut: list[Cut] = []
    texts: set[str] = set()
    ids: set[str] = set()
    read_as: Counter[str] = Counter()
    parts: dict[str, None] = {}
    unused, used = dict.fromkeys(unread), set()
    refused = duplicates = kept = pieces = 0
    for count, record in enumerate(records, 1):
        if count > limits.records:
            notes.append(_too_many_records(record.where, limits.records, duplicates))
            break
        try:
            made = compose(record, limits.characters, form)
        except PromptError as error:
            refused += 1
            if len(refusals) < limits.problems:
                refusals.append((record.where, error))
            if refused < limits.documents:
                continue
            notes.append(_stopped(record.where, refused))
            break
        text = made.text
        used |= made.cutting.used
        for field_name, value in record.content.items():
            if field_name not in unused and value not in (None, "", [], {}):
                unused[field_name] = None
        if text in texts:
            duplicates += 1
            continue
        if len(documents) == limits.documents:
            notes.append(_too_many(record.where, limits.documents))
            break
        kept += len(text.encode())
        if kept > limits.text:
            notes.append(_too_much_text(record.where, limits.text, len(documents)))
            break
        pieces += len(made.segments)
        if pieces > limits.segments:
            notes.append(_too_many_segments(record.where, limits.segments, len(documents)))
            break
        name = new_id(record, ids)
        texts.add(text)
        ids.add(name)
        documents.append(Document(name, text, made.segments, *labels_of(record, text)))
        read_as[made.cutting.format] += 1
        for segment in made.segments:
            parts[segment.name] = None
        if len(text) < made.characters:
            cut.append(Cut(name, record.where, made.characters, len(text)))
    if not documents:
        raise _nothing_good(refusals, refused)
    if refused > len(refusals):
        notes.append(_unlisted(refused - len(refusals)))
    refusals += [(Message("file"), note) for note in notes]
    problems = [Problem(where, error.kind.removeprefix("prompts-"), error.message) for where, error in refusals]
    recognised = {"formats": dict(read_as), "parts": [name for name in formats.SPOKEN if name in parts]}
    left_out = [name for name in unused if name not in used and name not in formats.LABELS][:_NAMES]
    left_out = [name[: tables.COLUMNS] for name in left_out]
    return Reading(documents, problems, duplicates, cut, **table, **recognised, left_out=left_out)


def _too_many(where: Message, limit: int) -> PromptError:
    return PromptError(
        "prompts-too-many-documents",
        expected=Message("at most {n:,} documents", n=limit),
        found=Message("more: the first {n:,} are kept, nothing from {where} on was read", n=limit, where=where),
        remedy=Message("load the rest as another file if it is needed"),
    )


def _too_many_records(where: Message, limit: int, duplicates: int) -> PromptError:
    return PromptError(
        "prompts-too-many-records",
        expected=Message("at most {n:,} paragraphs, lines or rows to read", n=limit),
        found=Message("more, {n:,} of them duplicates; nothing from {where} on was read", n=duplicates, where=where),
        remedy=Message("remove the duplicates, or split the file"),
    )


def _too_much_text(where: Message, limit: int, kept: int) -> PromptError:
    return PromptError(
        "prompts-too-much-text",
        expected=Message("at most {size:g} MiB of text in all documents together", size=limit / _MIB),
        found=Message(
            "more: the first {n:,} documents are kept, nothing from {where} on was read", n=kept, where=where
        ),
        remedy=Message("split the file, or keep a sample of its documents"),
    )


def _too_many_segments(where: Message, limit: int, kept: int) -> PromptError:
    return PromptError(
        "prompts-too-many-segments",
        expected=Message("at most {n:,} turns or parts in all documents together", n=limit),
        found=Message(
            "more: the first {n:,} documents are kept, nothing from {where} on was read", n=kept, where=where
        ),
        remedy=Message("split the file, or keep a sample of its documents"),
    )


def _stopped(where: Message, refused: int) -> PromptError:
    return PromptError(
        "prompts-too-many-problems",
        expected=Message("mostly good documents"),
        found=Message("{n:,} that cannot be read; nothing after {where} was read", n=refused, where=where),
        remedy=Message("mend the file and load it again"),
    )


def _unlisted(count: int) -> PromptError:
    return PromptError(
        "prompts-more-problems",
        expected=Message("few problems"),
        found=Message("{n:,} more than are listed", n=count),
        remedy=Message("mend the listed ones and load the file again"),
    )


def _nothing_good(refusals: list[tuple[Message, PromptError]], refused: int) -> PromptError:
    """Return the error of a file without a good document, with its first reasons; its kind is theirs if they agree."""
    if not refusals:
        return uploads.empty(Message("only blank lines or a header"))
    first = refusals[0][1]
    reasons = Message("{where}: {problem}", where=refusals[0][0], problem=first.found)
    for where, error in refusals[1:3]:
        reasons = Message("{reasons}; {where}: {problem}", reasons=reasons, where=where, problem=error.found)
    alike = all(error.kind == first.kind for _, error in refusals)
    summary = Message(
        "no good document ({refused:,} refused). {reasons}; and more"
        if refused > 3
        else "no good document ({refused:,} refused). {reasons}",
        refused=refused,
        reasons=reasons,
    )
    kind = first.kind if alike else "prompts-nothing-good"
    return PromptError(kind, expected=first.expected, found=summary, remedy=first.remedy)
