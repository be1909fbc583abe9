"""All numbers and settings of a functional test, and its files."""

from __future__ import annotations

from functools import partial

import streamlit as st

from kvlab import injection as results
from kvlab import report
from kvlab.injection import Injection
from kvlab.language import current, mark, say
from kvlab.ui import downloads, share
from kvlab.ui.text import count, number

FILES = {  # ending of the name -> what is said of it, its kind, how it is made
    "function.html": (mark("HTML, one file with figures"), "text/html", report.function_html),
    "function.zip": (mark("ZIP of CSV and JSON"), "application/zip", report.function_archive),
    results.JSON_NAME: (results.JSON_NAME, "application/json", report.as_json),
}


def files(injection: Injection, shown: str) -> None:
    """One button; what it opens is made only when it is taken."""
    with st.popover(say("Report and files"), icon=":material/download:", key=f"files-{shown}", width="stretch"):
        for ending, (label, mime, make) in FILES.items():
            st.download_button(
                say(label),
                partial(share.made, make, injection, current()),
                f"{shown}-{ending}",
                mime,
                key=f"files-{ending}-{shown}",
                icon=":material/download:",
                width="stretch",
                on_click="ignore",
            )
        st.caption(say(share.ABOUT))


def panel(injection: Injection, shown: str) -> None:
    """``shown`` names the result in widgets and files."""
    frame = report.variants_table(injection)
    named = {name: report.function_heading(name) for name in frame.columns}
    columns = {name: number(named[name]) for name in frame.columns}
    columns |= {"variant": named["variant"], "n": count(named["n"]), "documents": count(named["documents"])}
    st.markdown(say("**Every variant at every prefix**"))
    downloads.table(frame, columns, f"{shown}-variants", f"all-{shown}", True)
    st.markdown(say("**Settings, data, versions, seconds**"))
    settings = report.settings_table(injection)
    headings = {name: say(name) for name in settings.columns}
    st.dataframe(settings, hide_index=True, height=420, column_config=headings, alt=say("Settings of this test"))
