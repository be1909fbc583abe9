"""How a run ended: its verdict, or why it has none and what to do."""

from __future__ import annotations

from typing import Any

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import say
from kvlab.runs import store, training
from kvlab.runs.failures import advise
from kvlab.runs.monitor import View
from kvlab.web.training import launch
from kvlab.web.training import source as live_source
from kvlab.web.training import words as live_words
from kvlab.web.training.source import Source
from kvlab.web.widgets import plain, show_error

MAY_BE_MEMORY = ("out-of-memory", "run-killed")  # kinds of an error that less memory may mend


def outcome(view: View, source: Source) -> None:
    """The end of a run in words."""
    if view.state == "done":
        _verdict(view, source)
    elif view.state == "cancelled":
        _cancelled(view)
    else:
        st.markdown(f"**:red[{say(live_words.ENDS[view.state])}]**")
        _error(view.error)


def _verdict(view: View, source: Source) -> None:
    state, report = source.verdict(), source.report()
    before, after = (part if isinstance(part, dict) else {} for part in (report.get("before"), report.get("after")))
    words = live_words.verdict(state, source.checkpoints(None), view)
    box = {"pass": st.success, "fail": st.error}.get(state, st.warning)
    icon = ":material/check_circle:" if state == "pass" else ":material/cancel:"
    box(say(" ").join([words, live_words.change(before, after)]), icon=icon)
    told = [live_words.cross_entropy(before, after), live_words.function(report.get("functional"))]
    told.append(_router(view, source))
    if told := [text for text in told if text]:
        st.caption(say(" ").join(told))


def _router(view: View, source: Source) -> str:
    teachers, steps = view.config.get("teachers") or (), source.steps()
    if len(teachers) < 2 or not steps.rows:
        return ""
    weights = [steps.column(f"router.{number}")[-1] for number in range(len(teachers))]
    shares = say(", ").join(
        f"{plain(str(name))} {weight:.0%}" for name, weight in zip(teachers, weights) if weight == weight
    )
    return say("Weights of the teachers in the last step: {shares}.", shares=shares) if shares else ""


def _cancelled(view: View) -> None:
    cause = store.read_status(view.folder).get("cause")
    killed = isinstance(cause, dict) and cause.get("kind") == "run-killed-by-user"
    gone = training.gone(view.folder)
    told = [
        live_words.cancelled(view, killed),
        say("Its process is gone.") if gone else say("Its process is about to end."),
    ]
    st.info(say(" ").join(told), icon=":material/stop_circle:")


def _error(error: dict[str, Any] | None) -> None:
    try:
        show_error(KvlabError.from_dict(error))
    except (KeyError, TypeError):
        st.markdown(say(live_words.NO_REASON))


def again(view: View) -> None:
    """The button of a run of its own with the settings that may do better, where such are known."""
    changes = changes_of(view) if view.state in ("failed", "lost") else {}
    if not changes:
        return
    label = say("Launch again with {settings}", settings=live_words.settings(changes))
    if st.button(label, key=f"again-{view.id}", type="primary", icon=":material/play_arrow:"):
        try:
            run_id = launch.again(view.folder, view.config, changes)
        except KvlabError as error:
            show_error(error)
            return
        launch.show(run_id)
        st.rerun()


def changes_of(view: View) -> dict[str, Any]:
    """As the run itself recorded them; of one that the system killed, which it cannot record, for want of memory."""
    error = view.error or {}
    changes = error.get("changes")
    if isinstance(changes, dict) and changes:
        return changes
    killed = error.get("kind") == "out-of-memory" or "SIGKILL" in str(error.get("found"))
    settings = live_source.settings_of(view.config)
    if view.state == "lost" and error.get("kind") in MAY_BE_MEMORY and killed and settings:
        return advise(MemoryError(), settings, view.phase)["changes"]
    return {}
