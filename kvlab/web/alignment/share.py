"""What can be taken away of an analysis: one HTML file, one ZIP, the files that `align` writes; and its address."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import streamlit as st

from kvlab.language import current, phrase, say, speaking
from kvlab.results.alignment import data
from kvlab.results.alignment.archive import archive
from kvlab.results.alignment.data import Alignment
from kvlab.results.function.page import html_with_function
from kvlab.web.function import source

Result = TypeVar("Result")

FILES = {  # ending of the name -> what is said of it, its kind, how it is made
    "report.html": (phrase("HTML, one file with figures"), "text/html", None),
    "export.zip": (phrase("ZIP of CSV and JSON"), "application/zip", archive),
    data.CSV_NAME: (data.CSV_NAME, "text/csv", data.heads_csv),
    data.JSON_NAME: (data.JSON_NAME, "application/json", data.as_json),
}
ABOUT = phrase(
    "Figures, numbers, settings and versions; the files need no network. The address of this page opens the same "
    "analysis again, also after a restart of the server."
)


def button(alignment: Alignment, shown: str) -> None:
    """One button; what it opens is made only when it is taken. ``shown`` names the result in widgets and files."""
    with_function = partial(_report, shown=shown)
    with st.popover(say("Report and files"), icon=":material/download:", key=f"share-{shown}", width="stretch"):
        for ending, (label, mime, make) in FILES.items():
            st.download_button(
                say(label),
                partial(made, make or with_function, alignment, current()),
                f"{shown}-{ending}",
                mime,
                key=f"share-{ending}-{shown}",
                icon=":material/download:",
                width="stretch",
                on_click="ignore",
            )
        st.caption(say(ABOUT))


def _report(alignment: Alignment, shown: str) -> str:
    """With a section of the functional test that was started from this analysis, where there is one."""
    return html_with_function(alignment, None, source.of_analysis(shown))


def made(make: Callable[[Result], str | bytes], result: Result, language: str) -> str | bytes:
    """In the language in which the button was drawn: what makes the file knows no session."""
    with speaking(language):
        return make(result)
