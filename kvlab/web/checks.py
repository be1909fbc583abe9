"""The Checks page: the seven KV checks, run in the worker, and the environment."""

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import Message, say
from kvlab.web import backend
from kvlab.web.widgets import plain, show_error

ICONS = {"ok": ":material/check_circle:", "warn": ":material/warning:", "fail": ":material/cancel:"}


def page() -> None:
    st.title(say("Checks"))
    if not backend.ready():
        _wait_for_worker()
        return
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.subheader(say("The seven KV checks"))
        _seven()
    with right:
        st.subheader(say("Environment"))
        _environment()


@st.fragment(run_every=1.0)
def _wait_for_worker() -> None:
    if backend.ready():
        st.rerun()
    st.info(say("The checks run in the worker, which is starting (about 10 s)."), icon=":material/hourglass_top:")


def _seven() -> None:
    try:
        with st.spinner(say("Running the seven checks…")):
            outcomes = backend.ask("checks")
    except KvlabError as error:
        show_error(error)
        return
    failed = [outcome for outcome in outcomes if outcome["error"]]
    if failed:
        numbers = say(", ").join(str(outcome["number"]) for outcome in failed)
        st.error(say("{n} of {total} checks failed: {numbers}", n=len(failed), total=len(outcomes), numbers=numbers))
    else:
        seconds = sum(outcome["seconds"] for outcome in outcomes)
        st.success(say("All {n} checks passed in {seconds:.2f} s.", n=len(outcomes), seconds=seconds))
    for outcome in outcomes:
        icon = ICONS["fail" if outcome["error"] else "ok"]
        st.markdown(f"{icon} **{outcome['number']}. {say(outcome['title'])}**  \n{say(outcome['explanation'])}")
        if outcome["error"]:
            st.code(outcome["error"], language=None)
    st.caption(say("The same from a shell: `python -m kvlab check`, or `python tests/test_kv_fixes.py`."))
    st.button(say("Run again"), icon=":material/refresh:")


def _environment() -> None:
    try:
        with st.spinner(say("Looking at the environment…")):
            findings = _examined()
    except KvlabError as error:
        show_error(error)
        return
    for finding in findings:
        name, found = (plain(Message.read(finding[part])) for part in ("name", "found"))
        st.markdown(say("{mark} **{name}**: {found}", mark=ICONS[finding["status"]], name=name, found=found))
        if finding["remedy"] and finding["status"] != "ok":
            st.code(str(Message.read(finding["remedy"])), language="bash", wrap_lines=True)


@st.cache_data(show_spinner=False, ttl=300)
def _examined() -> list[dict]:
    return backend.ask("doctor")
