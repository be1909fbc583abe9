"""Pick the run that a page shows, and the teacher and view of its result. The address holds all three."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import say
from kvlab.results.alignment.data import Alignment
from kvlab.runs.monitor import View
from kvlab.web import backend, language, progress
from kvlab.web.widgets import plain, segments, show_error


@dataclass(frozen=True)
class Keys:
    """Keys of the session: the run last shown, its picker, whether the form is open, and the button that opens it."""

    run: str
    picker: str
    form_open: str
    toggle: str

    def open_run(self, run_id: str) -> None:
        """Show this run from now on."""
        st.session_state[self.run] = run_id
        st.query_params.clear()
        st.query_params["run"] = run_id

    def toggle_form(self) -> None:
        st.session_state[self.form_open] = not st.session_state.get(self.form_open, False)


def finished(
    title: str,
    keys: Keys,
    views: Sequence[View],
    names: dict[str, str],
    label: str,
    new: str,
    form: Callable[[], str | None],
    help_text: str | None = None,
) -> str | None:
    """Draw the title, the picker, the form and the progress of the picked run. Return its id once it has a result.

    The run is the one in the URL, else the last shown, else an active one, else the latest result, else the sample.
    ``names``: run id -> label. ``new``: the label of the button that opens the form. ``form`` returns the id of a run
    that it launched.
    """
    run_id = st.query_params.get("run") or st.session_state.get(keys.run) or latest(views)
    names.setdefault(run_id, run_id)
    _draw(title, keys, names, run_id, label, new, help_text)
    if st.session_state.get(keys.form_open):
        with st.container(border=True):
            launched = form()
        if launched:
            st.session_state[keys.form_open] = False
            st.session_state.pop(keys.picker, None)
            keys.open_run(launched)
            st.rerun()
    st.query_params["run"] = run_id
    if run_id == backend.SAMPLE:
        return run_id
    try:
        view = backend.view_of(run_id)
    except KvlabError as error:
        show_error(error)
        return None
    if view.active:
        progress.running(run_id)
        return None
    return run_id if progress.ended(view) else None


def latest(views: Sequence[View]) -> str:
    """Return the id of an active run, else of the latest with a result, else the sample; ``views``: newest first."""
    active = next((view.id for view in views if view.active), None)
    return active or next((view.id for view in views if view.state == "done"), backend.SAMPLE)


def _draw(
    title: str, keys: Keys, names: dict[str, str], run_id: str, label: str, new: str, help_text: str | None
) -> None:
    if st.session_state.get(keys.picker) not in names:
        st.session_state[keys.picker] = run_id
    language.keep_choice(keys.picker)
    heading, left, right = st.columns([2, 6, 2], vertical_alignment="center")
    heading.title(title)
    left.selectbox(
        label,
        list(names),
        label_visibility="collapsed",
        format_func=names.get,
        key=keys.picker,
        on_change=lambda: keys.open_run(st.session_state[keys.picker]),
        help=help_text,
    )
    is_open = st.session_state.get(keys.form_open, False)
    right.button(
        say("Close the form") if is_open else new,
        key=keys.toggle,
        icon=":material/close:" if is_open else ":material/add:",
        on_click=keys.toggle_form,
        width="stretch",
    )


def of_teacher(run_id: str, label: str, parameter: str, first: int = 1) -> tuple[Alignment, str]:
    """Return a result and its name in widgets and files. Draw a picker, first at ``first``, for several teachers."""
    alignment = backend.alignment_of(run_id)
    names = dict(enumerate(alignment.teachers, 1))
    if len(names) < 2:
        st.query_params.pop(parameter, None)
        return alignment, run_id
    key = f"{parameter.replace('_', '-')}-{run_id}"
    if key not in st.session_state:
        wanted = st.query_params.get(parameter, "")
        st.session_state[key] = int(wanted) if wanted in map(str, names) else first
    words = {n: f"{n} {plain(name)}" for n, name in names.items()}
    number = st.segmented_control(label, list(names), format_func=words.get, key=key, required=True)
    st.query_params[parameter] = str(number)
    return backend.alignment_of(run_id, number), backend.shown_name(run_id, number)


def view(label: str, views: dict[str, tuple[str, Any]], key: str, parameter: str, default: str | None = None) -> str:
    """Draw a switch of ``views`` (name -> words, panel). Return the one chosen in this session, else in the address."""
    wanted = st.session_state.get(key) or st.query_params.get(parameter, default)
    st.session_state[key] = wanted if wanted in views else next(iter(views))
    words = {name: words for name, (words, _) in views.items()}
    name = segments(label, words, key, label_visibility="collapsed")
    st.query_params[parameter] = name
    return name
