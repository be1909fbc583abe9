"""Read uploads, pasted text and the bundled samples into Documents, and list what was refused and why.

Knows nothing of file formats (``uploads.py`` and ``tables.py`` do), tokenizers or models. Good documents are always
returned; refused, duplicate and cut ones are counted and named.
The kind of a Problem is the kind of its PromptError without ``prompts-``.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kvlab.errors import PromptError, system_reason
from kvlab.host.bundled import SAMPLES
from kvlab.language import Message
from kvlab.request import tables, uploads
from kvlab.request.documents import compose, new_id
from kvlab.request.uploads import Record, safe_name
from kvlab.shapes import Document, Segment

RUN_PROMPTS = "prompts.jsonl"  # in a run folder
AUTO_CALIBRATION_BELOW = 20  # documents; with fewer, a map fitted on them alone says little

_MIB = 2**20


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


def read_upload(filename: str, data: bytes, *, column: str | None = None, limits: Limits = LIMITS) -> Reading:
    """Read the documents of a .txt (separated by blank lines), .jsonl, .csv or .parquet file.

    ``prompt`` (with ``reasoning`` and ``answer``, if given) becomes a document with segments; ``text`` or any other
    ``column`` one without. Raises PromptError when the file cannot be read or nothing good is in it.
    """
    suffix = uploads.extension(filename)
    _check_size(len(data), limits, safe_name(filename))
    if column is not None and suffix not in tables.TABLES:
        raise PromptError(
            "prompts-no-column",
            expected=Message("no column for a {suffix} file", suffix=suffix),
            found=Message("the column {column}", column=uploads.shown(column)),
            remedy=Message("leave the column out, or choose a .csv or .parquet file"),
        )
    if suffix != ".parquet":
        uploads.check_text(data)
    if suffix == ".txt":
        return _collect(uploads.paragraphs(data), limits)
    if suffix == ".jsonl":
        return _collect(uploads.json_lines(data), limits)
    table = tables.open_table(suffix, data)
    chosen = tables.choose_column(table, column)
    records, names = tables.table_records(table, chosen), tables.named_columns(table)
    return _collect(records, limits, columns=names, column=chosen)


def read_pasted(text: str, *, limits: Limits = LIMITS) -> Reading:
    """Read the documents of pasted text, separated by blank lines. Raises PromptError as ``read_upload``."""
    data = text.encode(errors="surrogatepass")
    _check_size(len(data), limits, Message("the pasted text"))
    return _collect(uploads.paragraphs(data), limits)


def read_file(path: str | Path, column: str | None = None, *, limits: Limits = LIMITS) -> Reading:
    """Read a file of this machine as ``read_upload`` does. Raises ``prompts-not-found`` if there is none."""
    path = Path(path)
    uploads.extension(path.name)
    try:
        # Check before reading: a file may be over the limit, and a device or a pipe never ends.
        if path.is_file():
            _check_size(path.stat().st_size, limits, safe_name(path.name))
            return read_upload(path.name, path.read_bytes(), column=column, limits=limits)
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
    """Return the columns that a user can choose from; [] for files without columns (.txt, .jsonl)."""
    suffix = uploads.extension(filename)
    if suffix not in tables.TABLES:
        return []
    _check_size(len(data), LIMITS, safe_name(filename))
    if suffix == ".csv":
        uploads.check_text(data)
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
                fields = json.loads(line)
                segments = tuple(Segment(**segment) for segment in fields["segments"])
                documents.append(Document(fields["id"], fields["text"], segments))
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


def _check_size(size: int, limits: Limits, name: Message | str) -> None:
    if size > limits.bytes:
        raise PromptError(
            "prompts-too-large",
            expected=Message("at most {size:g} MiB ({bytes:,} bytes)", size=limits.bytes / _MIB, bytes=limits.bytes),
            found=Message("{size:.1f} MiB ({bytes:,} bytes) in {name}", size=size / _MIB, bytes=size, name=name),
            remedy=Message("split it, or keep a sample of its documents"),
        )
    if size == 0:
        raise uploads.empty(Message("0 bytes in {name}", name=name))


def _collect(records: Iterator[Record], limits: Limits, **table: Any) -> Reading:
    documents: list[Document] = []
    refusals: list[tuple[Message, PromptError]] = []
    notes: list[PromptError] = []
    cut: list[Cut] = []
    texts: set[str] = set()
    ids: set[str] = set()
    refused = duplicates = kept = 0
    for count, record in enumerate(records, 1):
        if count > limits.records:
            notes.append(_too_many_records(record.where, limits.records, duplicates))
            break
        try:
            text, segments, characters = compose(record, limits.characters)
        except PromptError as error:
            refused += 1
            if len(refusals) < limits.problems:
                refusals.append((record.where, error))
            if refused < limits.documents:
                continue
            notes.append(_stopped(record.where, refused))
            break
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
        name = new_id(record, ids)
        texts.add(text)
        ids.add(name)
        documents.append(Document(name, text, segments))
        if len(text) < characters:
            cut.append(Cut(name, record.where, characters, len(text)))
    if not documents:
        raise _nothing_good(refusals, refused)
    if refused > len(refusals):
        notes.append(_unlisted(refused - len(refusals)))
    refusals += [(Message("file"), note) for note in notes]
    problems = [Problem(where, error.kind.removeprefix("prompts-"), error.message) for where, error in refusals]
    return Reading(documents, problems, duplicates, cut, **table)


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
