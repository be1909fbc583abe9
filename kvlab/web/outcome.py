"""Remember the result of the last action on runs. A live view reruns every second and would lose it."""

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import Message
from kvlab.web.widgets import plain, show_error


@dataclass
class _Outcome:
    result: object  # a Message, a KvlabError, or None
    beside: object = None  # the value that it was first shown with


def of(place: str, act: Callable[[], object], doing: str) -> None:
    """Run ``act``, remember the Message it returns or the KvlabError it raises, and rerun the page.

    ``place``: where to show the result, such as a run's id. ``doing``: shown meanwhile.
    """
    with st.spinner(doing):
        try:
            result = act()
        except KvlabError as error:
            result = error
    keep(place, result)
    st.rerun()


def keep(place: str, result: object) -> None:
    """Remember a result that came by itself, as ``of`` remembers that of an action."""
    st.session_state[_key(place)] = _Outcome(result)


def show(place: str, beside: object = None) -> None:
    """Show the last result of a place. Forget it once ``beside`` changes."""
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
        st.success(plain(outcome.result), icon=":material/check_circle:")


def forget(place: str) -> None:
    st.session_state.pop(_key(place), None)


def _key(place: str) -> str:
    return f"outcome-{place}"
