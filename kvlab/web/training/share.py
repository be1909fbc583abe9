"""Download a run: its report in a language and a format, its figures, and the files behind it."""

from pathlib import Path

import plotly.graph_objects as go
import streamlit as st

from kvlab.language import LANGUAGES, current, phrase, say
from kvlab.results.training.facts import gather
from kvlab.results.training.report import drawn
from kvlab.results.training.write import text_of
from kvlab.runs import store
from kvlab.web.files import download, figure_button
from kvlab.web.training import source

REPORTS = {
    "html": (phrase("HTML, one file with figures"), "text/html"),
    "md": ("Markdown", "text/markdown"),
    "json": ("JSON", "application/json"),
}
FIGURES = {  # as kvlab.results.training.report draws them
    "loss": phrase("Loss terms"),
    "memory": phrase("Memory in use"),
    "router": phrase("Weight of each teacher"),
    "held out": phrase("Held-out numbers"),
}
FILES = {
    store.CONFIG: "text/yaml",
    "metrics.jsonl": "text/plain",
    "memory.jsonl": "text/plain",
    "verdict.json": "application/json",
    "training.log": "text/plain",
}


def language_of_report(key: str) -> str:
    """Draw the choice of a report's language, at first that of the page, and return it."""
    label = say("Language of the report")
    picked = st.segmented_control(
        label, list(LANGUAGES), format_func=LANGUAGES.get, default=current(), key=f"{key}-{current()}"
    )
    return picked or current()


def button(folder: Path) -> None:
    """Draw one button that opens the downloads. A click on a download makes its file."""
    run_id = folder.name
    with st.popover(say("Report and files"), icon=":material/download:", key=f"take-{run_id}"):
        language = language_of_report(f"take-in-{run_id}")
        for form, (label, mime) in REPORTS.items():
            _take(say(label), lambda form=form: text_of(gather(folder), form, language), folder, f"report.{form}", mime)
        steps = source.of(folder).steps()
        if steps.rows:
            st.caption(say("Figures for print, in the language of the page"))
        for name, label in FIGURES.items() if steps.rows else ():
            if name != "router" or "router.0" in steps.columns:
                figure_button(
                    lambda name=name: _figure(folder, name), name.replace(" ", "-"), f"{name}-{run_id}", label
                )
        files = [name for name in FILES if (folder / name).is_file() and not (folder / name).is_symlink()]
        if files:
            st.caption(say("What the run wrote"))
        for name in files:
            _take(name, (folder / name).read_bytes, folder, name, FILES[name])


def _figure(folder: Path, name: str) -> go.Figure:
    return drawn(gather(folder))[name]() or go.Figure()


def _take(label: str, make, folder: Path, name: str, mime: str) -> None:
    download(label, make, f"{folder.name}-{name}", mime, f"take-{name}-{folder.name}", width="stretch")
