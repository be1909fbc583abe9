"""The Checks page: the seven KV checks, run in the worker, and the environment."""

from __future__ import annotations

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.ui import backend
from kvlab.ui.text import show_error

MARK = {"ok": ":material/check_circle:", "warn": ":material/warning:", "fail": ":material/cancel:"}


def page() -> None:
    st.title("Checks")
    if not backend.ready():
        _wait_for_worker()
        return
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.subheader("The seven KV checks")
        _seven()
    with right:
        st.subheader("Environment")
        _environment()


@st.fragment(run_every=1.0)
def _wait_for_worker() -> None:
    if backend.ready():
        st.rerun()
    st.info("The checks run in the worker, which is starting (about 10 s).", icon=":material/hourglass_top:")


def _seven() -> None:
    try:
        with st.spinner("Running the seven checks…"):
            outcomes = backend.ask("checks")
    except KvlabError as error:
        show_error(error)
        return
    failed = [o for o in outcomes if o["error"]]
    if failed:
        st.error(f"{len(failed)} of {len(outcomes)} checks failed: {', '.join(str(o['number']) for o in failed)}")
    else:
        seconds = sum(o["seconds"] for o in outcomes)
        st.success(f"所有测试通过! All {len(outcomes)} checks passed in {seconds:.2f} s.")
    for outcome in outcomes:
        mark = MARK["fail" if outcome["error"] else "ok"]
        st.markdown(f"{mark} **{outcome['number']}. {outcome['title']}**  \n{outcome['explanation']}")
        if outcome["error"]:
            st.code(outcome["error"], language=None)
    st.caption("The same from a shell: `python -m kvlab check`, or `python tests/test_kv_fixes.py`.")
    st.button("Run again", icon=":material/refresh:")


def _environment() -> None:
    try:
        findings = _examined()
    except KvlabError as error:
        show_error(error)
        return
    for finding in findings:
        st.markdown(f"{MARK[finding['status']]} **{finding['name']}**: {finding['found']}")
        if finding["remedy"] and finding["status"] != "ok":
            st.code(finding["remedy"], language="bash", wrap_lines=True)


@st.cache_data(show_spinner="Looking at the environment…", ttl=300)
def _examined() -> list[dict]:
    return backend.ask("doctor")
