"""Numbers and figures to take away."""

from __future__ import annotations

import json

import plotly.graph_objects as go
import streamlit as st
from plotly.io import to_html

from kvlab import report, results
from kvlab.results import Alignment


def panel(alignment: Alignment, run_id: str) -> None:
    """All numbers as a table, the settings that made them, and both as files."""
    files = (
        ("heads.csv", lambda: results.heads_csv(alignment), "text/csv"),
        ("alignment.json", lambda: as_json(alignment), "application/json"),
        ("report.html", lambda: report.html(alignment), "text/html"),
    )
    for column, (name, make, mime) in zip(st.columns(len(files)), files, strict=True):
        stem, suffix = name.split(".")
        column.download_button(
            name,
            make,
            f"{stem}-{run_id}.{suffix}",
            mime,
            key=f"download-{name}",
            icon=":material/download:",
            width="stretch",
            on_click="ignore",
        )
    st.dataframe(alignment.table(), hide_index=True, height=360, alt="Every score of every head")
    left, right = st.columns(2)
    left.markdown("**Settings**")
    left.dataframe(_pairs({"prompts": alignment.prompts, **alignment.settings}), hide_index=True, height=360)
    right.markdown("**Data, versions, seconds**")
    flat = {k: v for k, v in alignment.data.items() if not isinstance(v, dict)}
    seconds = {k.removesuffix("_s").replace("_", " "): f"{v:.2f} s" for k, v in alignment.timings.items()}
    right.dataframe(_pairs({**flat, **alignment.versions, **seconds}), hide_index=True, height=360)


def _pairs(values: dict) -> list[dict[str, str]]:
    return [
        {"name": name.replace("_", " "), "value": f"{value:.4g}" if isinstance(value, float) else str(value)}
        for name, value in values.items()
    ]


def as_json(alignment: Alignment) -> str:
    return json.dumps(results.plain(alignment.to_dict()), ensure_ascii=False, indent=1, allow_nan=False)


def figure_button(figure: go.Figure, name: str, key: str) -> None:
    """A figure as one HTML file that needs no network; made only when asked for."""
    st.download_button(
        "Figure as HTML",
        lambda: to_html(figure, include_plotlyjs=True),
        f"{name}.html",
        "text/html",
        key=f"figure-{key}",
        type="tertiary",
        icon=":material/download:",
        on_click="ignore",
    )
