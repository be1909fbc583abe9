"""The Validation form's data: the bundled text, uploaded files, or a path on this machine."""

from __future__ import annotations

import streamlit as st

from kvlab import prompts
from kvlab.errors import PromptError
from kvlab.language import mark, say
from kvlab.train.config import DEMO_DATA, OWN_PROMPTS
from kvlab.types import Document
from kvlab.ui.form_prompts import SUFFIXES, UPLOAD_HELP, UPLOAD_MIB, read_upload, shown, within
from kvlab.ui.text import plain, show_error
from kvlab.ui.validation_fields import key

SOURCES = {"demo": mark("Bundled text"), "upload": mark("Upload"), "folder": mark("Folder on this machine")}


def chosen() -> tuple[str, list[Document]]:
    """The setting ``data``, and uploaded documents, which go into the run's folder."""
    source = st.segmented_control(
        say("Data"), list(SOURCES), format_func=lambda name: say(SOURCES[name]), key=key("source"), required=True
    )
    if source == "folder":
        about = say("A folder, or one file, of .txt, .jsonl, .csv or .parquet documents.")
        return st.text_input(say("Path"), key=key("folder"), placeholder="/data/my-documents", help=about), []
    if source == "upload":
        return OWN_PROMPTS, _uploaded()
    st.caption(say("Word problems in English and Chinese, made as they are needed; the held-out ones are others."))
    return DEMO_DATA, []


def _uploaded() -> list[Document]:
    files = st.file_uploader(
        say("Documents"),
        type=SUFFIXES,
        accept_multiple_files=True,
        max_upload_size=UPLOAD_MIB,
        help=say(UPLOAD_HELP),
        key="train-files",
    )
    documents: list[Document] = []
    for number, file in enumerate(within(files)):
        try:
            if len(files) > 1:
                st.caption(plain(prompts.safe_name(file.name)))
            documents += shown(read_upload(file, f"train-column-{number}"))
        except PromptError as error:
            show_error(error)
    return documents
