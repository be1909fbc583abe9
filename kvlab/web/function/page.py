"""The Function page: choose or launch a functional test, watch it, read it."""

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import phrase, say
from kvlab.results.function import data as results
from kvlab.results.function.data import Injection
from kvlab.runs.monitor import View
from kvlab.web import backend, language, progress
from kvlab.web.function import form, heads, source, texts, verdict
from kvlab.web.widgets import plain, show_error

RUN, PICKER, FORM_OPEN, VIEW = "function-run", "function-picker", "function-form-open", "function-view"
VIEWS = {
    "verdict": (phrase("Against its controls"), verdict.panel),
    "heads": (phrase("Heads and layers"), heads.panel),
    "texts": (phrase("Texts"), texts.panel),
    "numbers": (phrase("Numbers and settings"), verdict.numbers),
}


def page() -> None:
    st.title(say("Can the student use the teacher’s cache?"))
    views = source.tests()
    run_id = _picker(views, _chosen(views))
    if st.session_state.get(FORM_OPEN):
        with st.container(border=True):
            launched = form.new_test()
        if launched:
            st.session_state[FORM_OPEN] = False
            open_run(launched)
            st.rerun()
    st.query_params["run"] = run_id
    try:
        if run_id != backend.SAMPLE:
            view = backend.view_of(run_id)
            if view.active:
                progress.running(run_id)
                return
            if not progress.ended(view):
                return
        injection = source.injection_of(run_id)
    except KvlabError as error:
        show_error(error)
        return
    _show(injection, run_id)


def open_run(run_id: str) -> None:
    """From now on the page shows this one."""
    st.session_state[RUN] = run_id
    st.session_state.pop(PICKER, None)
    st.query_params.clear()
    st.query_params["run"] = run_id


def _chosen(views: list[View]) -> str:
    """The test of the URL, else the last looked at, else one that is running, else the sample."""
    active = next((v.id for v in views if v.active), None)
    return st.query_params.get("run") or st.session_state.get(RUN) or active or backend.SAMPLE


def _picker(views: list[View], run_id: str) -> str:
    names = source.labels(views)
    names.setdefault(run_id, run_id)
    if st.session_state.get(PICKER) not in names:
        st.session_state[PICKER] = run_id
    language.keep_choice(PICKER)
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    left.selectbox(say("Functional test"), list(names), format_func=names.get, key=PICKER, on_change=_picked)
    is_open = st.session_state.get(FORM_OPEN, False)
    right.button(
        say("Close the form") if is_open else say("New test"),
        key="function-form-toggle",
        icon=":material/close:" if is_open else ":material/add:",
        on_click=_toggle_form,
        width="stretch",
    )
    return run_id


def _toggle_form() -> None:
    st.session_state[FORM_OPEN] = not st.session_state.get(FORM_OPEN, False)


def _picked() -> None:
    run_id = st.session_state[PICKER]
    st.session_state[RUN] = run_id
    st.query_params.clear()
    st.query_params["run"] = run_id


def _show(injection: Injection, run_id: str) -> None:
    said, taken = st.columns([4, 1], vertical_alignment="top")
    said.markdown(results.sentence(injection))
    with taken:
        verdict.files(injection, run_id)
    if not injection.reproduces:
        return
    for note in injection.notes:
        st.caption(plain(str(note)))
    wanted = st.session_state.get(VIEW, st.query_params.get("view"))
    st.session_state[VIEW] = wanted if wanted in VIEWS else "verdict"
    view = st.segmented_control(
        say("View"),
        list(VIEWS),
        format_func=lambda v: say(VIEWS[v][0]),
        key=VIEW,
        label_visibility="collapsed",
        required=True,
    )
    st.query_params["view"] = view
    VIEWS[view][1](injection, run_id)
