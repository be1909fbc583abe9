"""What came of what was last done to a run: kept, as in a moving view the next look comes at once."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.web.widgets import show_error


def of(run_id: str, act: Callable[[], object], words: str = "") -> None:
    """Act, keep ``words`` or the KvlabError for the next looks, and look again."""
    found: str | KvlabError = words
    try:
        act()
    except KvlabError as error:
        found = error
    st.session_state[_key(run_id)] = found
    st.rerun()


def show(run_id: str) -> None:
    """Nothing when there are no words to it."""
    found = st.session_state.get(_key(run_id))
    if isinstance(found, KvlabError):
        show_error(found)
    elif found:
        st.success(found, icon=":material/check_circle:")


def forget(run_id: str) -> None:
    """The run begins anew."""
    st.session_state.pop(_key(run_id), None)


def _key(run_id: str) -> str:
    return f"outcome-{run_id}"
