"""Figures and results to take away."""

from __future__ import annotations

import json

import plotly.graph_objects as go
import streamlit as st
from plotly.io import to_html

from kvlab import results
from kvlab.language import say
from kvlab.results import Alignment


def as_json(alignment: Alignment) -> str:
    return json.dumps(results.plain(alignment.to_dict()), ensure_ascii=False, indent=1, allow_nan=False)


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
