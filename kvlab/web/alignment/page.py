"""The Alignment page: choose or launch an analysis, watch it, read it."""

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import phrase, plural, say
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.sentences import sentence
from kvlab.runs.monitor import View
from kvlab.web import backend, language, places, progress
from kvlab.web.alignment import compare, form, fusion, heads, layers, share, tables, timeline
from kvlab.web.function import source
from kvlab.web.widgets import plain, show_error

VIEWS = {
    "heads": (phrase("Heads"), heads.panel),
    "layers": (phrase("Layers"), layers.panel),
    "timeline": (phrase("Timeline"), timeline.panel),
    "fusion": (phrase("Fusion"), fusion.panel),
    "compare": (phrase("Compare"), compare.panel),
    "numbers": (phrase("Numbers and settings"), tables.panel),
}


def page() -> None:
    st.title(say("Alignment"))
    views = backend.analyses()
    run_id = _picker(views, _chosen(views))
    if st.session_state.get("form-open"):
        with st.container(border=True):
            launched = form.new_analysis()
        if launched:
            st.session_state["form-open"] = False
            _open(launched)
            st.rerun()
    st.query_params["run"] = run_id
    if run_id != backend.SAMPLE:
        try:
            view = backend.view_of(run_id)
        except KvlabError as error:
            show_error(error)
            return
        if view.active:
            progress.running(run_id)
            return
        if not progress.ended(view):
            return
    try:
        alignment, shown = _of_teacher(run_id)
    except KvlabError as error:
        show_error(error)
        return
    _show(alignment, shown)


def _chosen(views: list[View]) -> str:
    """The analysis of the URL, else the last looked at, else one that is running, else the sample."""
    wanted = st.query_params.get("run") or st.session_state.get("run")
    active = next((v.id for v in views if v.active), None)
    return wanted or active or backend.SAMPLE


def _open(run_id: str) -> None:
    st.session_state["run"] = run_id
    st.session_state.pop("run-picker", None)
    st.query_params.clear()
    st.query_params["run"] = run_id


def _picker(views: list[View], run_id: str) -> str:
    names = backend.labels(views)
    names.setdefault(run_id, run_id)
    if st.session_state.get("run-picker") not in names:
        st.session_state["run-picker"] = run_id
    language.keep_choice("run-picker")
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    older = backend.not_listed()
    left.selectbox(
        say("Analysis"),
        list(names),
        format_func=names.get,
        key="run-picker",
        on_change=_picked,
        help=plural(
            older,
            "{n} older analysis is not listed here: open it from Runs.",
            "{n:,} older analyses are not listed here: open them from Runs.",
        )
        if older
        else None,
    )
    is_open = st.session_state.get("form-open", False)
    right.button(
        say("Close the form") if is_open else say("New analysis"),
        key="form-toggle",
        icon=":material/close:" if is_open else ":material/add:",
        on_click=_toggle_form,
        width="stretch",
    )
    return run_id


def _toggle_form() -> None:
    st.session_state["form-open"] = not st.session_state.get("form-open", False)


def _picked() -> None:
    run_id = st.session_state["run-picker"]
    st.session_state["run"] = run_id
    st.query_params.clear()
    st.query_params["run"] = run_id


def _of_teacher(run_id: str) -> tuple[Alignment, str]:
    """The result shown, and its name in widgets and files: of several teachers, that of the one picked."""
    alignment = backend.alignment_of(run_id)
    names = dict(enumerate(alignment.teachers, 1))
    if len(names) < 2:
        st.query_params.pop("teacher", None)
        return alignment, run_id
    key = f"teacher-{run_id}"
    if key not in st.session_state:
        wanted = st.query_params.get("teacher", "")
        st.session_state[key] = int(wanted) if wanted in map(str, names) else 1
    number = st.segmented_control(
        say("Teacher"), list(names), format_func=lambda n: f"{n} {names[n]}", key=key, required=True
    )
    st.query_params["teacher"] = str(number)
    return backend.alignment_of(run_id, number), backend.shown_name(run_id, number)


def _try_it(run_id: str) -> None:
    """The way from how alike the caches are to whether the student can use the teacher's."""
    if run_id == backend.SAMPLE:
        place, words = places.function(), say("Its functional test")
        st.page_link(place, label=words, icon=":material/science:", query_params={"run": run_id}, width="stretch")
        return
    if st.button(
        say("Test in function"),
        key=f"try-{run_id}",
        icon=":material/science:",
        width="stretch",
        help=say("Whether the student can use this projected cache: with the same models, prompts and settings."),
    ):
        try:
            launched = source.launch_like(run_id)
        except KvlabError as error:
            show_error(error)
            return
        st.session_state["function-run"] = launched
        st.switch_page(places.function(), query_params={"run": launched})


def _show(alignment: Alignment, shown: str) -> None:
    said, taken = st.columns([4, 1], vertical_alignment="top")
    said.markdown(sentence(alignment))
    with taken:
        share.button(alignment, shown)
        _try_it(shown)
    for note in alignment.notes:
        st.warning(plain(str(note)), icon=":material/info:")
    views = [name for name in VIEWS if name != "fusion" or alignment.fusion]
    by_address = st.query_params.get("view", "compare" if compare.WITH in st.query_params else None)
    wanted = st.session_state.get("view", by_address)
    st.session_state["view"] = wanted if wanted in views else "heads"
    view = st.segmented_control(
        say("View"),
        views,
        format_func=lambda v: say(VIEWS[v][0]),
        key="view",
        label_visibility="collapsed",
        required=True,
    )
    st.query_params["view"] = view
    if view != "compare":
        compare.forget()
    VIEWS[view][1](alignment, shown)
