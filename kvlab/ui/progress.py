"""What is going on: stage, count, elapsed, remaining, Cancel. Read from the run folder, once a second."""

from __future__ import annotations

import streamlit as st

from kvlab.errors import KvlabError, RunError
from kvlab.prompts import RUN_PROMPTS
from kvlab.runs import store
from kvlab.runs.monitor import View
from kvlab.ui import backend, places
from kvlab.ui.text import show_error
from kvlab.ui.warm import worker

UNFINISHED = "unfinished.safetensors"  # align.unfinished.NAME, which needs torch


def banner(on_alignment_page: bool) -> None:
    """On other pages: word of an analysis that is running, with the way to it."""
    if on_alignment_page:
        return
    active = next((view for view in backend.analyses() if view.active), None)
    if active is not None:
        _banner(active.id)


@st.fragment(run_every=2.0)
def _banner(run_id: str) -> None:
    view = _view(run_id)
    if view is None or not view.active:
        st.rerun()
    left, right = st.columns([5, 1], vertical_alignment="center")
    left.info(f"Analysis {view.name}: {_phase(view)}", icon=":material/progress_activity:")
    if right.button("Show it", key="banner-show", width="stretch"):
        st.session_state["run"] = run_id
        st.switch_page(places.alignment(), query_params={"run": run_id})


def _view(run_id: str) -> View | None:
    try:
        return backend.view_of(run_id)
    except RunError:
        return None


@st.fragment(run_every=0.5)
def running(run_id: str) -> None:
    """The progress of one analysis; the whole page runs again when it has ended."""
    view = _view(run_id)
    if view is None or not view.active:
        st.rerun()
    left, right = st.columns([5, 1], vertical_alignment="center")
    left.progress(view.share or 0.0, text=_phase(view))
    if right.button("Cancel", key=f"cancel-{run_id}", width="stretch", icon=":material/stop_circle:"):
        with st.spinner("Asking the worker to stop…"):
            worker().cancel(backend.folder_of(run_id))
        st.rerun()


def _phase(view: View) -> str:
    """Stage, count, elapsed and remaining in words."""
    if view.state == "queued":
        return "waiting for the worker" + ("" if backend.ready() else " — it is still starting (about 10 s)")
    words = [f"{view.phase or 'starting'} {view.done} of {view.total}" if view.total > 1 else view.phase or "starting"]
    if view.elapsed_s is not None:
        words.append(f"{view.elapsed_s:.0f} s elapsed")
    if view.phase_remaining_s is not None:
        words.append(f"about {view.phase_remaining_s:.0f} s left in this stage")
    if view.overdue:
        words.append(f"no word for {view.silent_s:.0f} s: one long step, or stuck")
    return " · ".join(words)


def ended(view: View) -> bool:
    """Say how an analysis that gave no result ended; True when there is a result to show."""
    if view.state == "done":
        return True
    if view.state == "cancelled":
        st.info("This analysis was cancelled.")
    else:
        st.subheader("This analysis was lost" if view.state == "lost" else "This analysis failed")
        try:
            show_error(KvlabError.from_dict(view.error))
        except (KeyError, TypeError):
            st.error("No reason was recorded. Its folder may be damaged; run the analysis again.")
    _again(view)
    return False


def _again(view: View) -> None:
    """The way on, when the folder still holds what was asked for."""
    if not {store.CONFIG, RUN_PROMPTS} <= set(view.files):
        return
    saved = UNFINISHED in view.files
    label, icon = ("Continue", ":material/resume:") if saved else ("Run again", ":material/replay:")
    about = (
        "What had been read is kept: the analysis goes on from there."
        if saved
        else "With the same prompts and settings, from the beginning."
    )
    if st.button(label, key=f"again-{view.id}", icon=icon, type="primary", help=about):
        try:
            backend.again(view.folder)
        except KvlabError as error:
            show_error(error)
            return
        st.rerun()
    st.caption(about)
