"""The note on one run: plain text in a box, kept in the run's folder."""

from __future__ import annotations

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import say
from kvlab.runs import notes
from kvlab.runs.history import Row
from kvlab.ui import runs_actions
from kvlab.ui.text import show_error


def panel(row: Row) -> None:
    box, begun, seen = (f"note-{part}-{row.id}" for part in ("box", "begun", "seen"))
    on_disk = notes.read(row.folder)
    if box not in st.session_state:
        st.session_state[box] = st.session_state[begun] = on_disk
    error = st.session_state.pop(f"note-error-{row.id}", None)
    with st.form(f"note-form-{row.id}", border=False):
        st.text_area(
            say("Note"),
            key=box,
            height=110,
            max_chars=notes.LIMIT,
            placeholder=say("What this run was for, what came out"),
            help=say(
                "Plain text, kept as {file} in the run’s folder, shown in the history and in the report.",
                file=notes.NOTES,
            ),
        )
        st.form_submit_button(say("Save note"), on_click=_save, args=(row, box, begun, seen), icon=":material/save:")
    if error:
        show_error(error)
    if on_disk != st.session_state[begun]:
        # What is being typed here is not replaced: the box would lose it.
        st.caption(say("Written meanwhile in another window or by hand:"))
        st.code(on_disk or say("(no note)"), language=None, wrap_lines=True)
        st.button(say("Take that one"), key=f"note-take-{row.id}", on_click=_take, args=(row, box, begun))
    st.session_state[seen] = on_disk


def _save(row: Row, box: str, begun: str, seen: str) -> None:
    runs_actions.forget()
    try:
        notes.write(row.folder, st.session_state[box], before=st.session_state.get(seen))
    except KvlabError as error:
        st.session_state[f"note-error-{row.id}"] = error
        return
    st.session_state[begun] = st.session_state[box] = notes.read(row.folder)


def _take(row: Row, box: str, begun: str) -> None:
    st.session_state[box] = st.session_state[begun] = notes.read(row.folder)
