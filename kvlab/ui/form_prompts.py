"""The form's prompts: where they come from, how they are cut into parts, whether they are a chat."""

from __future__ import annotations

import streamlit as st

from kvlab import prompts
from kvlab.errors import PromptError
from kvlab.language import mark, say, translated
from kvlab.prompts import Reading
from kvlab.request import AnalysisRequest
from kvlab.safe_csv import neutral
from kvlab.segments import Markers
from kvlab.types import Document
from kvlab.ui.text import SEGMENTS, show_error
from kvlab.uploads import EXTENSIONS

SOURCES = {"samples": mark("Bundled samples"), "paste": mark("Paste"), "upload": mark("Upload")}
SUFFIXES = [suffix.removeprefix(".") for suffix in EXTENSIONS]
UPLOAD_MIB = prompts.LIMITS.bytes // 2**20
PASTE_HELP = mark("Separate prompts by an empty line.")
UPLOAD_HELP = mark(
    ".txt (prompts separated by blank lines), .jsonl (prompt or text, reasoning, answer), .csv, .parquet"
)
BEGINS = {"reasoning": mark("The reasoning begins with"), "answer": mark("The answer begins with")}


def documents() -> tuple[list[Document], str]:
    """The prompts that can be read, and where they came from in words."""
    source = st.segmented_control(
        say("Prompts"), list(SOURCES), format_func=lambda name: say(SOURCES[name]), key="form-source", required=True
    )
    try:
        if source == "samples":
            samples = prompts.samples()
            st.caption(
                say("{n} word problems in English and Chinese that no demo model was trained on.", n=len(samples))
            )
            return samples, AnalysisRequest.model_fields["prompts"].default
        if source == "paste":
            text = st.text_area(say("Your prompts"), key="form-pasted", height=150, placeholder=say(PASTE_HELP))
            if not text.strip():
                return [], "pasted"
            return shown(prompts.read_pasted(text)), "pasted"
        upload = st.file_uploader(say("Prompt file"), type=SUFFIXES, max_upload_size=UPLOAD_MIB, help=say(UPLOAD_HELP))
        if upload is None:
            return [], "upload"
        return shown(read_upload(upload, "form-column")), prompts.safe_name(upload.name)
    except PromptError as error:
        show_error(error)
        return [], ""


def read_upload(upload, key: str) -> Reading:
    """An uploaded file; of a table, with a picker of its column under ``key``. Raises PromptError."""
    data = upload.getvalue()
    columns = prompts.tabular_columns(upload.name, data)
    column = None
    if columns:
        usual = next((i for i, name in enumerate(columns) if name in ("prompt", "text")), None)
        column = st.selectbox(
            say("Column with the prompts"), columns, index=usual, key=key, placeholder=say("Choose an option")
        )
        if column is None:
            raise PromptError(
                "prompts-no-column",
                expected="the column that holds the prompts",
                found=f"{len(columns)} columns, none of them named prompt or text",
                remedy="choose one above",
            )
    return prompts.read_upload(upload.name, data, column=column)


def shown(reading: Reading) -> list[Document]:
    """Say what was read and what was not; the good documents."""
    words = [say("Prompts read: {n:,}", n=len(reading.documents))]
    if reading.duplicates:
        words.append(say("duplicates left out: {n:,}", n=reading.duplicates))
    if reading.cut:
        words.append(
            say("cut at {characters:,} characters: {n:,}", characters=prompts.LIMITS.characters, n=len(reading.cut))
        )
    st.caption(" · ".join(words))
    if reading.problems:
        st.warning(say("Not read as given: {n:,}. What was good is kept.", n=len(reading.problems)))
        rows = [{"where": translated(p.where), "problem": neutral(translated(p.message))} for p in reading.problems]
        st.dataframe(
            rows,
            hide_index=True,
            height=min(180, 38 + 35 * len(rows)),
            column_config={"where": say("where"), "problem": say("problem")},
        )
    return reading.documents


def parts() -> tuple[dict, bool]:
    """How prompts are cut into parts, and whether they are read as a chat."""
    with st.expander(say("Segments and chat")):
        chat = st.toggle(
            say("Read as a chat"),
            key="form-chat",
            help=say(
                "Prompt: the user's message; reasoning and answer: the assistant's. Each model in its own template."
            ),
        )
        source = st.selectbox(
            say("Prompt, reasoning, answer"),
            list(SEGMENTS),
            format_func=lambda name: say(SEGMENTS[name]),
            key="form-segments",
        )
        written = {
            name: column.text_area(
                say(label),
                key=f"form-markers-{name}",
                height=110,
                disabled=source != "auto",
                help=translated(f"One a line: {Markers.model_fields[name].description}."),
            )
            for column, (name, label) in zip(st.columns(2), BEGINS.items(), strict=True)
        }
    markers = {name: [line for line in text.splitlines() if line.strip()] for name, text in written.items()}
    return {"segments": source, "markers": markers}, chat
