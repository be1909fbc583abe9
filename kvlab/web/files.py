"""Figures and results to take away."""

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from plotly.io import to_html

from kvlab.language import say
from kvlab.results.safe_csv import safe_csv


def figure_button(figure: go.Figure, name: str, key: str) -> None:
    """A figure as one HTML file that needs no network; made only when asked for."""
    st.download_button(
        say("Figure as HTML"),
        lambda: to_html(figure, include_plotlyjs=True),
        f"{name}.html",
        "text/html",
        key=f"figure-{key}",
        type="tertiary",
        icon=":material/download:",
        on_click="ignore",
    )


def table(frame: pd.DataFrame, columns: dict, name: str, key: str, unfolded: bool = False) -> None:
    """The numbers of a figure, to sort and to download. ``columns``: those shown, as st.dataframe has them, in their
    order."""
    with st.expander(say("The numbers as a table"), unfolded, icon=":material/table:", key=f"numbers-{key}"):
        st.dataframe(
            frame,
            hide_index=True,
            column_order=list(columns),
            column_config=columns,
            placeholder="–",
            height=min(300, 38 + 35 * max(1, len(frame))),
            alt=say("The numbers of the figure above"),
        )
        st.download_button(
            f"{name}.csv",
            lambda: safe_csv(frame),
            f"{name}.csv",
            "text/csv",
            key=f"csv-{key}",
            type="tertiary",
            icon=":material/download:",
            on_click="ignore",
        )
