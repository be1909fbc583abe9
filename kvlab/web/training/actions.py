"""What a user can do to runs: stop, kill, resume, launch again, delete. Each error is one message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from kvlab.errors import KvlabError, RunError
from kvlab.language import phrase, plural, say
from kvlab.request.prompts import RUN_PROMPTS
from kvlab.runs import store, training
from kvlab.runs.history import Row
from kvlab.runs.monitor import View
from kvlab.runs.training import again
from kvlab.web import outcome
from kvlab.web.training import share, table
from kvlab.web.training import words as live_words
from kvlab.web.training import words as runs_words
from kvlab.web.widgets import plain, show_error


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


_OUTCOME, _ASKED = "runs-outcome", "runs-asked"


@dataclass
class _Outcome:
    """What became of an action, and of which selection it was first said."""

    done: str = ""
    error: KvlabError | None = None
    said_of: list[str] | None = None


def show_outcome(selected: Sequence[Row]) -> None:
    """What became of the last action, until another one or another selection."""
    found, ids = st.session_state.get(_OUTCOME), [row.id for row in selected]
    if found is None:
        return
    if found.said_of not in (None, ids):
        forget()
        return
    found.said_of = ids
    if found.done:
        st.success(found.done, icon=":material/check_circle:")
    if found.error:
        show_error(found.error)


def forget() -> None:
    st.session_state.pop(_OUTCOME, None)


def for_one(row: Row) -> None:
    """Buttons side by side; what they ask is drawn by ``confirm``."""
    if row.kind not in store.COMPUTED:
        _course(row)
    if not row.active:
        _ask_first(say("Delete"), "delete", row, ":material/delete:")
    if row.kind not in store.COMPUTED:
        share.button(row.folder)


def for_several(rows: Sequence[Row]) -> None:
    ended = [row for row in rows if not row.active]
    with st.container(horizontal=True, key="run-actions"):
        if ended:
            several = len(ended) > 1
            label = say("Delete {n} runs", n=len(ended)) if several else say("Delete {name}", name=_short(ended[0]))
            if st.button(label, key="runs-delete", icon=":material/delete:"):
                st.session_state[_ASKED] = "delete", [row.id for row in ended]
        if st.button(say("Select none"), key="runs-none", icon=":material/deselect:"):
            table.select([])
            st.rerun()
    confirm(ended)


def _short(row: Row) -> str:
    return plain(row.name[:40])


def _course(row: Row) -> None:
    if row.active:
        about = say(STOP_HELP)
        if st.button(say("Stop"), key="run-stop", icon=":material/stop_circle:", disabled=row.stopping, help=about):
            _do(say("Asking it to stop…"), lambda: _stop(row))
        if row.state == "running":
            _ask_first(say("Kill"), "kill", row, ":material/dangerous:")
    elif row.state in training.RESUMABLE and st.button(
        say("Resume"), key="run-resume", icon=":material/resume:", type="primary", help=say(RESUME_HELP)
    ):
        _do(say("Queueing it…"), lambda: _resume_row(row))
    if st.button(say("Launch again"), key="run-again", icon=":material/replay:", help=say(AGAIN_HELP)):
        _do(say("Launching a new run…"), lambda: _again(row))


STOP_HELP = phrase("It finishes its step, saves a checkpoint and ends; a waiting run leaves the queue.")
RESUME_HELP = phrase("It goes on from its last checkpoint, or from the beginning if it has none.")
AGAIN_HELP = phrase("A new run with the same settings, from the beginning.")


def _ask_first(label: str, action: str, row: Row, icon: str) -> None:
    if st.button(label, key=f"run-{action}", icon=icon):
        st.session_state[_ASKED] = action, [row.id]


def confirm(rows: Sequence[Row]) -> None:
    """The question that was asked about these runs, until it is answered; another selection takes it back."""
    action, asked = st.session_state.get(_ASKED, (None, []))
    if action is None:
        return
    if asked != [row.id for row in rows] or (action == "kill" and not rows[0].active):
        del st.session_state[_ASKED]
        return
    names = plain(say(", ").join(runs_words.label(row) for row in rows))
    with st.container(border=True, key="run-question"):
        if action == "kill":
            words = say("**Kill {names}?** It ends at once; the steps since its last checkpoint are lost.", names=names)
            yes, no = say("Kill it"), say("Let it run")
        else:
            words = say(
                "**Delete {names}?** All files go with it, checkpoints too. This cannot be undone.", names=names
            )
            yes, no = say("Delete for good"), say("Keep")
        st.markdown(words)
        with st.container(horizontal=True):
            confirmed = st.button(yes, key="run-yes", type="primary")
            refused = st.button(no, key="run-no")
    if confirmed or refused:
        del st.session_state[_ASKED]
    if confirmed:
        if action == "kill":
            _do(say("Ending its processes…"), lambda: _kill(rows[0]))
        else:
            _do(say("Deleting…"), lambda: _delete(rows))
    if refused:
        st.rerun()


def _do(words: str, act: Callable[[], str]) -> None:
    """Act, and say at the next rerun how it went; ``act`` gives the words for that."""
    with st.spinner(words):
        try:
            found = _Outcome(done=act())
        except KvlabError as error:
            found = _Outcome(error=error)
    st.session_state[_OUTCOME] = found
    st.rerun()


def _stop(row: Row) -> str:
    if training.stop(row.folder) == "cancelled":
        return say("It was waiting, and is out of the queue.")
    return say("Asked to stop: it finishes its step, saves and ends.")


def _kill(row: Row) -> str:
    training.kill(row.folder)
    return say("Killed: its processes are gone.")


def _resume_row(row: Row) -> str:
    training.resume(row.folder)
    return say("Queued: it goes on when its device is free.")


def _again(row: Row) -> str:
    new = again(row.folder, (RUN_PROMPTS,))
    table.select([new])
    return say("Launched with the same settings: {id}", id=plain(new))


def _delete(rows: Sequence[Row]) -> str:
    """What can be deleted is. Raises the first error, with the number of those that are gone."""
    gone, errors = [], []
    for row in rows:
        try:
            training.delete(row.folder)
            gone.append(row.id)
        except KvlabError as error:
            if row.folder.exists() or row.folder.is_symlink():
                errors.append(error)
            else:  # somebody else was faster
                gone.append(row.id)
    table.drop(gone)
    if errors:
        found = errors[0].found
        if len(rows) > 1:
            found = say("{found} ({gone} of {asked} were deleted)", found=found, gone=len(gone), asked=len(rows))
        raise RunError(errors[0].kind, expected=errors[0].expected, found=found, remedy=errors[0].remedy)
    return plural(len(gone), "Deleted: {n} run.", "Deleted: {n} runs.")
