"""Draw the choice of prompts: their source, how to cut them into parts, and whether they are a chat."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

from kvlab.errors import PromptError
from kvlab.language import Message, phrase, say
from kvlab.request import prompts, tables
from kvlab.request.align import PASTED, SAMPLES
from kvlab.request.formats import FORMATS, SPOKEN
from kvlab.request.guarded import guarded, memory_of
from kvlab.request.prompts import Reading
from kvlab.request.segments import Markers
from kvlab.request.uploads import EXTENSIONS, PACKED
from kvlab.results.safe_csv import neutral
from kvlab.shapes import Document
from kvlab.web.kept import Kept
from kvlab.web.widgets import SEGMENTS, choice, plain, segments, show_error, table_height

SOURCES = {"samples": phrase("Bundled samples"), "paste": phrase("Paste"), "upload": phrase("Upload")}
SUFFIXES = [suffix.removeprefix(".") for suffix in (*EXTENSIONS, PACKED)]
CACHED, CACHED_SECONDS = 256 * 2**20, 3600  # bytes of readings that the server caches, and how long
UPLOAD_MIB = prompts.LIMITS.bytes // 2**20
PREVIEW = 600  # characters of a part
PASTE_HELP = phrase("Separate prompts by an empty line.")
UPLOAD_HELP = phrase(
    ".txt and .md (prompts separated by blank lines), .jsonl, .json, .csv and .parquet (prompt or text, reasoning, "
    "answer; messages, ShareGPT, Alpaca, questions and answers), also packed as .gz"
)
BEGINS = {"reasoning": phrase("The reasoning begins with"), "answer": phrase("The answer begins with")}


class Pasted:
    """Text from the form, read as an upload is: within the same limits, and once."""

    name = "pasted.txt"

    def __init__(self, text: str):
        self._data = text.encode(errors="surrogatepass")  # half a character is refused as a file's is
        self.file_id = hashlib.sha256(self._data).hexdigest()

    def getvalue(self) -> bytes:
        return self._data


def documents() -> tuple[list[Document], str]:
    """Draw the choice of prompts; return the valid documents and their source."""
    source = segments(say("Prompts"), SOURCES, "form-source")
    try:
        if source == "samples":
            samples = prompts.samples()
            st.caption(
                say("{n} word problems in English and Chinese that no demo model was trained on.", n=len(samples))
            )
            return samples, SAMPLES
        if source == "paste":
            text = st.text_area(say("Your prompts"), key="form-pasted", height=150, placeholder=say(PASTE_HELP))
            return (shown(_parsed(Pasted(text), "reading")) if text.strip() else []), PASTED
        return uploaded("form-files", "form-file"), _named(st.session_state.get("form-files") or [])
    except PromptError as error:
        show_error(error)
        return [], ""


def uploaded(key: str, each: str) -> list[Document]:
    """Draw the upload of files; return the documents of all. ``each``: beginning of the keys of one file's widgets."""
    files = st.file_uploader(
        say("Prompt files"),
        type=SUFFIXES,
        accept_multiple_files=True,
        max_upload_size=UPLOAD_MIB,
        help=say(UPLOAD_HELP),
        key=key,
    )
    found: dict[str, Document] = {}
    names: set[str] = set()
    for number, file in enumerate(within(files)):
        try:
            if len(files) > 1:
                st.caption(plain(prompts.safe_name(file.name)))
            reading = read_upload(file, each if len(files) == 1 else f"{each}-{number}")
            for document in shown(fitting(reading, list(found.values()))):
                if document.text in found:
                    continue
                name = document.id if document.id not in names else f"{number + 1}/{document.id}"
                names.add(name)
                found[document.text] = replace(document, id=name)
        except PromptError as error:
            show_error(error)
    return list(found.values())


def _named(files: Sequence) -> str:
    """Name uploaded files: the only one, or the first and how many more."""
    names = [prompts.safe_name(file.name) for file in files]
    if len(names) < 2:
        return "".join(names)
    return f"{names[0]} + {len(names) - 1}"


def preview(documents: Sequence[Document]) -> None:
    """Draw the first document with its parts."""
    if not documents:
        return
    with st.expander(say("The first document"), icon=":material/visibility:"):
        first = documents[0]
        data = first.text.encode()
        parts = [(part.name, data[part.start : part.end].decode(errors="replace")) for part in first.segments]
        for name, text in parts or [("", first.text)]:
            if name:
                st.caption(say(SPOKEN[name]) if name in SPOKEN else plain(name))
            st.code(text[:PREVIEW] + ("…" if len(text) > PREVIEW else ""), language=None, wrap_lines=True)


def read_upload(upload, key: str) -> Reading:
    """Read an uploaded file; draw what may be overruled under keys that begin with ``key``. Raises PromptError.

    Where several columns may hold the prompts, ask which one; the likely one is chosen at first.
    """
    columns = _parsed(upload, "columns")
    name, column, answer = None, None, None
    if columns:
        with st.expander(say("How the file is read")):
            name, column, answer = overruled(key, columns)
    try:
        return _parsed(upload, "reading", name, column, answer)
    except PromptError as error:
        if error.kind != "prompts-no-column" or column is not None or not columns:
            raise
    likely = columns.index(tables.likely_column(columns))
    column = st.selectbox(say("Which column holds the prompts?"), columns, likely, key=f"{key}-which")
    return _parsed(upload, "reading", name, column, answer)


def overruled(key: str, columns: Sequence[str]) -> tuple[str, str | None, str | None]:
    """Draw the pickers of the format and of the fields with prompts and answers; return what was picked."""
    recognised = say("as recognised")
    name = choice(say("Read as"), FORMATS, f"{key}-format")
    prompt, answer = st.columns(2)
    with prompt:
        column = st.selectbox(say("Prompts"), columns, index=None, key=f"{key}-column", placeholder=recognised)
    with answer:
        said = st.selectbox(say("Answers"), columns, index=None, key=f"{key}-answer", placeholder=recognised)
    return name, column, said


def _parsed(upload, what: str, *asked: str | None) -> Any:
    """Return the columns or the reading of an uploaded file. Raises PromptError."""
    with st.spinner(say("Reading {name}…", name=plain(prompts.safe_name(upload.name)))):
        result = _read(upload.file_id, what, asked, upload)
    if isinstance(result, PromptError):
        raise result.with_traceback(None)
    return result


# Every rerun of the page calls this. The id of the upload is the cache key, so each file is read once.
def _read(file_id: str, what: str, asked: tuple[str | None, ...], upload) -> list[str] | Reading | PromptError:
    readings = _readings()
    result = readings.find((file_id, what, asked))
    if result is None:
        result = _read_anew(what, asked, upload)
        readings.keep((file_id, what, asked), result, memory_of(result))
    return result


def _read_anew(what: str, asked: tuple[str | None, ...], upload) -> list[str] | Reading | PromptError:
    try:
        if what == "columns":
            return guarded(prompts.tabular_columns, upload.name, upload.getvalue())
        name, column, answer = asked or (None, None, None)
        options = {"column": column, "answer": answer, "format": name or "auto"}
        return guarded(prompts.read_upload, upload.name, upload.getvalue(), **options)
    except PromptError as error:
        return error


@st.cache_resource(show_spinner=False)
def _readings() -> Kept:
    return Kept(CACHED, CACHED_SECONDS)


def within(files: Sequence) -> Sequence:
    """Return the uploaded files that fit the common limits; warn about the others."""
    limits, accepted, total = prompts.LIMITS, [], 0
    for file in files:
        total += file.size
        if len(accepted) == limits.files or total > limits.bytes_together:
            break
        accepted.append(file)
    if len(accepted) < len(files):
        st.warning(
            say(
                "At most {files} files of {most} MiB together are read: of these {n} ({size:.1f} MiB), the first "
                "{taken} are used. Remove some, or join and thin them out.",
                files=limits.files,
                most=limits.bytes_together // 2**20,
                n=len(files),
                size=sum(file.size for file in files) / 2**20,
                taken=len(accepted),
            ),
            icon=":material/content_cut:",
        )
    return accepted


def fitting(reading: Reading, others: Sequence[Document]) -> Reading:
    """Return ``reading`` if its text fits beside the ``others``: small files can hold much. Raises PromptError."""
    most = prompts.LIMITS.bytes_together
    size = sum(len(document.text.encode()) for document in (*others, *reading.documents))
    if size > most:
        raise PromptError(
            "prompts-too-much-text",
            expected=Message("at most {size:g} MiB of text in all documents together", size=most / 2**20),
            found=Message("{size:.1f} MiB with this file, which is left out", size=size / 2**20),
            remedy=Message("split the file, or keep a sample of its documents"),
        )
    return reading


def shown(reading: Reading) -> list[Document]:
    """Report the counts of a reading and its problems; return the valid documents."""
    words = [say("Prompts read: {n:,}", n=len(reading.documents))]
    if reading.duplicates:
        words.append(say("duplicates left out: {n:,}", n=reading.duplicates))
    if reading.cut:
        words.append(
            say("cut at {characters:,} characters: {n:,}", characters=prompts.LIMITS.characters, n=len(reading.cut))
        )
    st.caption(" · ".join(words))
    st.caption(plain(say("Read as {words}", words=say("; ").join(map(str, reading.recognised())))))
    if reading.turns:
        st.caption(say("Its turns are joined as plain text unless “Read as a chat” is on."))
    if reading.problems:
        st.warning(say("Not read as given: {n:,}. What was good is kept.", n=len(reading.problems)))
        rows = [{"where": str(p.where), "problem": neutral(str(p.message))} for p in reading.problems]
        headings = {"where": say("where"), "problem": say("problem")}
        st.dataframe(rows, hide_index=True, height=table_height(len(rows), 180), column_config=headings)
    return reading.documents


def parts() -> tuple[dict, bool]:
    """Draw the settings of parts and chat; return the fields of a request, and whether to read a chat."""
    with st.container():
        about = say(
            "Prompt: the user's message; reasoning and answer: the assistant's. Each model in its own template."
        )
        chat = st.toggle(say("Read as a chat"), key="form-chat", help=about)
        source = choice(say("Prompt, reasoning, answer"), SEGMENTS, "form-segments")
        written = {
            name: column.text_area(
                say(label),
                key=f"form-markers-{name}",
                height=110,
                disabled=source != "auto",
                help=say("One a line: {what}.", what=say(Markers.model_fields[name].description)),
            )
            for column, (name, label) in zip(st.columns(2), BEGINS.items(), strict=True)
        }
    markers = {name: [line for line in text.splitlines() if line.strip()] for name, text in written.items()}
    return {"segments": source, "markers": markers}, chat
