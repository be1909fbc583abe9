"""The two-minute walk-through: a card in the corner for who is new, until it is dismissed for good."""

from __future__ import annotations

import json
from contextlib import suppress

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import say
from kvlab.runs import store
from kvlab.ui.walk_steps import STEPS

AT = "walk-step"  # in the session: the number of the step shown, None before the first
LEADING = "walk-leading"
CLOSED = "walk-closed"
DISMISSED = "walk-through-dismissed"  # in runs/: whoever uses this server has seen it


def card() -> None:
    """Drawn last, over the page."""
    if st.session_state.get(CLOSED) or (AT not in st.session_state and _dismissed()):
        return
    with st.container(key="walk", border=True):
        at = st.session_state.get(AT)
        if at is None:
            _invitation()
        else:
            _step(at)


def lead() -> None:
    """To the page of the step that was asked for. Called once the pages are known, before one is drawn."""
    if st.session_state.pop(LEADING, False):
        st.switch_page(STEPS[st.session_state[AT]].place())


def again() -> None:
    """The way back to it, at the end of every page."""
    st.button(say("Walk-through"), icon=":material/tour:", type="tertiary", key="walk-again", on_click=_start)


def _invitation() -> None:
    st.markdown(say("**New here?** Two minutes through kvlab, on the bundled sample."))
    with st.container(horizontal=True):
        st.button(say("Start"), type="primary", key="walk-start", on_click=_go, args=(0,))
        st.button(say("Never show again"), key="walk-never", on_click=_dismiss)


def _step(at: int) -> None:
    step = STEPS[at]
    st.markdown(f"**{at + 1}/{len(STEPS)} · {say(step.title)}**  \n{say(step.words)}")
    with st.container(horizontal=True):
        if at:
            st.button(say("Back"), key="walk-back", on_click=_go, args=(at - 1,))
        if at + 1 < len(STEPS):
            st.button(say("Next"), type="primary", key="walk-next", on_click=_go, args=(at + 1,))
            st.button(say("Close"), key="walk-close", on_click=_close)
        else:
            st.button(say("Done"), type="primary", key="walk-done", on_click=_dismiss)


def _start() -> None:
    st.session_state[CLOSED] = False
    st.session_state[AT] = None


def _go(at: int) -> None:
    """A callback: what a page shows can only be set before the page is drawn."""
    st.session_state[AT] = at
    st.session_state[LEADING] = True
    for name, value in STEPS[at].state.items():
        st.session_state[name] = value


def _close() -> None:
    st.session_state[CLOSED] = True


def _dismiss() -> None:
    _close()
    with suppress(KvlabError):  # on a full disk it is dismissed for this session only
        root = store.runs_root()
        with store.disk_errors(root):
            root.mkdir(parents=True, exist_ok=True)
            store.replace(root / DISMISSED, json.dumps({"at": store.timestamp()}).encode() + b"\n")


def _dismissed() -> bool:
    return (store.runs_root() / DISMISSED).exists()
