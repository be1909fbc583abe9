"""Choose the language of a session from the address, else its switch, else the browser."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from kvlab import language
from kvlab.language import LANGUAGES, say

PARAMETER = "lang"  # in the address
CHOSEN = "language"  # in the session
SCRIPTS = {name: f"document.documentElement.lang = '{name}'" for name in LANGUAGES}
SPOKEN = {name: f"<script>{script}</script>" for name, script in SCRIPTS.items()}


def of_session() -> str | None:
    """Return the language of this session; None outside a session."""
    if get_script_run_ctx(suppress_warning=True) is None:
        return None
    return st.session_state.get(CHOSEN)


def begin() -> None:
    """Set the language of the session. Call it first on every rerun, before any text."""
    asked = st.query_params.get(PARAMETER)
    if asked in LANGUAGES:
        st.session_state[CHOSEN] = asked
    elif CHOSEN not in st.session_state:
        st.session_state[CHOSEN] = _of_browser()


def switch() -> None:
    """Draw the control in the header, and tell screen readers the language."""
    st.html(SPOKEN[st.session_state[CHOSEN]], unsafe_allow_javascript=True)
    with st.container(key="language-switch"):
        st.segmented_control(
            say("Language"),
            list(LANGUAGES),
            default=st.session_state[CHOSEN],
            required=True,
            format_func=LANGUAGES.get,
            key=f"language-{st.session_state[CHOSEN]}",
            on_change=_choose,
            label_visibility="collapsed",
        )


def _choose() -> None:
    chosen = st.session_state[f"language-{st.session_state[CHOSEN]}"]
    st.session_state[CHOSEN] = st.query_params[PARAMETER] = chosen


def keep_choice(key: str, default: Any = None) -> None:
    """Set a widget's value again before drawing it; the first value is ``default``.

    Otherwise, after a switch of language, the browser sends a choice back in the old language's words.
    """
    st.session_state[key] = st.session_state.get(key, default)


def keep_in_address() -> None:
    """Write the language into the address. Call it last, because pages clear the address.

    Leave out the browser's own language: every change of the address adds a step to the browser's Back.
    """
    chosen = st.session_state[CHOSEN]
    if chosen != _of_browser() and st.query_params.get(PARAMETER) != chosen:
        st.query_params[PARAMETER] = chosen


def zone() -> str:
    """Return the time zone of the browser; UTC where it does not say."""
    return st.context.timezone or "UTC"


def local_time(moment: datetime, form: str = "%Y-%m-%d %H:%M") -> str:
    """Write a moment in the time of the browser."""
    with suppress(ValueError, LookupError, OSError):  # a name that this machine does not know
        try:
            local = moment.astimezone(ZoneInfo(zone()))
        except OverflowError:  # a damaged status: the first or the last day that there is
            local = moment
        return f"{local:{form}}" + (" UTC" if zone() == "UTC" else "")
    return f"{moment.astimezone(UTC):{form}} UTC"


def _of_browser() -> str:
    return "zh" if (st.context.locale or "").lower().startswith("zh") else language.DEFAULT


language.ask(of_session)
