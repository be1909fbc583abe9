"""The Validation page: the form of a new run, or one run with its live view."""

import streamlit as st

from kvlab.language import phrase, say
from kvlab.runs import monitor, run_queue, store
from kvlab.runs.monitor import View
from kvlab.web.training import form, launch, live, words
from kvlab.web.widgets import plain

ABOUT = phrase(
    "A short training run answers one question: does distilling these teachers’ KV caches into this student work at "
    "all? It runs in a process of its own: close this page whenever you like, and come back for the verdict."
)
LISTED = 2  # runs named above the form


def page() -> None:
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    left.title(say("Validation"))
    launch.attend()
    run_id = st.query_params.get("run") or st.session_state.get(launch.CHOSEN)
    if run_id:
        right.button(say("New run"), icon=":material/add:", on_click=_new, width="stretch", key="validation-new")
        st.query_params["run"] = run_id
        st.session_state[launch.CHOSEN] = run_id
        live.panel(run_id)
        return
    st.markdown(say(ABOUT))
    views = [monitor.view(entry.folder) for entry in run_queue.entries(store.runs_root())]  # in order of arrival
    active = [view for view in views if view.active]
    for view in active[:LISTED]:
        _at_work(view)
    if len(active) > LISTED:
        st.caption(say("{n:,} more wait in the queue.", n=len(active) - LISTED))
    if launched := form.new_run():
        launch.show(launched)
        st.rerun()


def _new() -> None:
    st.session_state.pop(launch.CHOSEN, None)
    st.query_params.clear()


def _at_work(view: View) -> None:
    left, right = st.columns([5, 1], vertical_alignment="center")
    doing, icon = say("Waiting in the queue"), ":material/hourglass_top:"
    if view.state == "running":
        doing, icon = words.going_on(view), ":material/progress_activity:"
    left.info(say("{name}: {doing}", name=plain(words.name(view)), doing=plain(doing)), icon=icon)
    right.button(say("Show it"), key=f"show-{view.id}", on_click=launch.show, args=(view.id,), width="stretch")
