"""What a user can do to a run: stop, kill, resume. Each says what came of it."""

from __future__ import annotations

import streamlit as st

from kvlab.language import say
from kvlab.runs import training
from kvlab.runs.monitor import View
from kvlab.ui import live_words, outcome


def buttons(view: View) -> None:
    """Those that fit the run's state."""
    if view.state == "queued":
        label = say("Take out of the queue")
        if st.button(label, key=f"stop-{view.id}", icon=":material/stop_circle:", width="stretch"):
            outcome.of(view.id, lambda: training.stop(view.folder))
    elif view.active:
        _stop_and_kill(view)
    elif view.state in training.RESUMABLE:
        _resume(view)


def _stop_and_kill(view: View) -> None:
    left, right = st.columns(2)
    about = say("Finishes its step, saves a checkpoint, and ends.")
    if left.button(
        say("Stop"),
        key=f"stop-{view.id}",
        icon=":material/stop_circle:",
        disabled=view.stopping,
        help=about,
        width="stretch",
    ):
        outcome.of(view.id, lambda: training.stop(view.folder))
    right.button(
        say("Kill"),
        key=f"kill-{view.id}",
        icon=":material/dangerous:",
        on_click=_ask,
        args=(view, True),
        width="stretch",
    )


def question(view: View) -> None:
    """Kill asks first."""
    if view.state != "running" or not st.session_state.get(_asked(view)):
        return
    with st.container(border=True):
        st.markdown(say(live_words.ASKED_KILL))
        yes, no, _ = st.columns([1, 1, 3])
        if yes.button(say("Kill it now"), key=f"kill-yes-{view.id}", type="primary", width="stretch"):
            _ask(view, False)
            with st.spinner(say("Killing it, and waiting until it is gone…")):
                words = say("Killed: process {pid} and all that it started are gone.", pid=view.pid)
                outcome.of(view.id, lambda: training.kill(view.folder), words)
        label = say("Keep it running")
        no.button(label, key=f"kill-no-{view.id}", on_click=_ask, args=(view, False), width="stretch")


def _resume(view: View) -> None:
    saved = (view.folder / "checkpoint").is_dir()
    label = say("Resume from its last checkpoint") if saved else say("Start it again")
    about = "" if saved else say("It has no checkpoint yet: it begins anew, in the same folder.")
    if st.button(label, key=f"resume-{view.id}", icon=":material/resume:", help=about or None):
        outcome.of(view.id, lambda: training.resume(view.folder))


def _asked(view: View) -> str:
    return f"kill-asked-{view.id}"


def _ask(view: View, asks: bool) -> None:
    st.session_state[_asked(view)] = asks
