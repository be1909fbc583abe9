"""Remember the result of the last action on runs. A live view reruns every second and would lose it."""

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import Message
from kvlab.web.widgets import show_error


@dataclass
class _Outcome:
    result: object  # a Message, a KvlabError, or nothing to say
    beside: object = None  # what was shown with it first


def of(place: str, act: Callable[[], object], doing: str) -> None:
    """Act, remember the Message that ``act`` returns or the KvlabError that it raises, and run the page again.

    ``place``: where it is shown, such as a run's id. ``doing``: said meanwhile.
    """
    with st.spinner(doing):
        try:
            result = act()
        except KvlabError as error:
            result = error
    st.session_state[_key(place)] = _Outcome(result)
    st.rerun()


def show(place: str, beside: object = None) -> None:
    """Show the last result of a place. With something else ``beside`` it than at first, it is forgotten."""
    outcome = st.session_state.get(_key(place))
    if outcome is None:
        return
    if outcome.beside not in (None, beside):
        forget(place)
        return
    outcome.beside = beside
    if isinstance(outcome.result, KvlabError):
        show_error(outcome.result)
    elif isinstance(outcome.result, Message):
        st.success(str(outcome.result), icon=":material/check_circle:")


def forget(place: str) -> None:
    st.session_state.pop(_key(place), None)


def _key(place: str) -> str:
    return f"outcome-{place}"
