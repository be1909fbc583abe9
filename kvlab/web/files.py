"""Draw figures and tables with buttons that save them, and offer the files of a result."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from kvlab.language import current, phrase, say, speaking
from kvlab.results.boxes import boxes
from kvlab.results.rendering import figure_page
from kvlab.results.safe_csv import safe_csv
from kvlab.web.widgets import grid, plain, table_height

NO_BAR = {"displayModeBar": False}
MOVING = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}  # dragging moves the figure
LABEL = phrase("SVG, PNG, HTML")
ABOUT = phrase(
    "Figures, numbers, settings and versions; the files need no network. The address of this page opens the same "
    "analysis again, also after a restart of the server."
)


def chart(figure: go.Figure, key: str, alt: str, name: str = "", config: dict = NO_BAR) -> None:
    """Draw a figure, and with ``name`` the button that saves it; without, its place draws that button elsewhere."""
    st.plotly_chart(figure, key=key, config=config, alt=alt)
    if name:
        figure_button(figure, name, key)


def drawing(figure: go.Figure, alt: str, width: int) -> None:
    """Draw a figure without plotly. ``width``: of its place on a computer, in pixels."""
    st.html(boxes(figure, alt, width))


def figure_button(figure: go.Figure | Callable[[], go.Figure], name: str, key: str, label: str = LABEL) -> None:
    """Offer a figure as one HTML file that needs no network and saves it as SVG or PNG.

    A function that draws the figure runs only on a click.
    """
    drawn = figure if callable(figure) else lambda: figure
    page = partial(_spoken, lambda draw: figure_page(draw(), name), drawn, current())
    look = {"type": "tertiary", "help": say("One file without network; its buttons save an SVG or a PNG for print.")}
    download(say(label), page, f"{name}.html", "text/html", f"figure-{key}", **look)


def download(label: str, make: Callable[[], str | bytes], name: str, mime: str, key: str, **look: Any) -> None:
    """Offer a file. ``make`` runs only on a click."""
    st.download_button(label, make, name, mime, key=key, icon=":material/download:", on_click="ignore", **look)


def table(frame: pd.DataFrame, columns: dict, name: str, key: str, unfolded: bool = False) -> None:
    """Draw the numbers of a figure, to sort and download. ``columns``: the ones shown, in this order."""
    with st.expander(say("The numbers as a table"), unfolded, icon=":material/table:", key=f"numbers-{key}"):
        height = table_height(max(1, len(frame)), 300)
        grid(frame, columns, say("The numbers of the figure above"), height, column_order=list(columns))
        file = f"{name}.csv"
        download(plain(file), partial(safe_csv, frame), file, "text/csv", f"csv-{key}", type="tertiary")


def reports(result: Any, shown: str, kinds: dict[str, tuple[str, str, Callable]], key: str) -> None:
    """Draw one button with all files. ``kinds``: file name ending -> label, MIME type, function of the result."""
    with st.popover(say("Report and files"), icon=":material/download:", key=f"{key}-{shown}", width="stretch"):
        for ending, (label, mime, make) in kinds.items():
            written = partial(_spoken, make, result, current())
            download(say(label), written, f"{shown}-{ending}", mime, f"{key}-{ending}-{shown}", width="stretch")
        st.caption(say(ABOUT))


def _spoken(make: Callable[[Any], str | bytes], result: Any, language: str) -> str | bytes:
    """Make a file in the language of its button: downloads run outside the session, which holds the language."""
    with speaking(language):
        return make(result)
