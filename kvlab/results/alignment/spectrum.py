"""Draw the spectrum of one head: how much of each principal direction of its keys or values is explained."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kvlab.language import say
from kvlab.results.alignment.data import Alignment
from kvlab.results.style import KIND_COLOUR, NEUTRAL, layout

TOP, BOTTOM = {"row": 1, "col": 1}, {"row": 2, "col": 1}
COLUMNS = ("share", "error", "se", "error_identity")


def spectrum_table(alignment: Alignment, kind: str, layer: int, head: int) -> pd.DataFrame | None:
    """Return one row per principal direction, the largest first; None if the analysis has no spectrum."""
    if f"spectrum.{kind}.share" not in alignment.arrays:
        return None
    position = alignment.layer_position(layer)
    columns = {name: alignment.arrays[f"spectrum.{kind}.{name}"][position, head].astype(float) for name in COLUMNS}
    frame = pd.DataFrame({"direction": np.arange(1, len(columns["share"]) + 1)} | columns)
    frame.insert(2, "cumulative", frame["share"].cumsum())
    return frame[frame["share"].notna()].reset_index(drop=True)


def spectrum(alignment: Alignment, kind: str, layer: int, head: int) -> go.Figure:
    """Draw R² along each direction with its standard error, and of the teacher's token; the share beneath."""
    frame = spectrum_table(alignment, kind, layer, head)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.62, 0.38], vertical_spacing=0.08)
    figure.add_bar(
        **TOP,
        x=frame["direction"],
        y=1 - frame["error"],
        error_y={"type": "data", "array": frame["se"].fillna(0), "thickness": 1.2},
        marker_color=KIND_COLOUR[kind],
        name=say("teacher"),
        hovertemplate=say("direction %{x}: R² %{y:.3f}") + "<extra></extra>",
    )
    figure.add_scatter(
        **TOP,
        x=frame["direction"],
        y=1 - frame["error_identity"],
        mode="markers",
        marker={"symbol": "line-ew-open", "size": 11, "color": NEUTRAL, "line": {"width": 2.5}},
        name=say("teacher’s token"),
        hovertemplate=say("direction %{x}: teacher’s token %{y:.3f}") + "<extra></extra>",
    )
    figure.add_bar(
        **BOTTOM,
        x=frame["direction"],
        y=frame["share"],
        marker_color=NEUTRAL,
        showlegend=False,
        hovertemplate=say("direction %{x}: %{y:.2%} of the variance") + "<extra></extra>",
    )
    figure.add_hline(y=0, **TOP, line={"width": 1.5, "color": NEUTRAL})
    low = 1 - float(np.nanquantile(frame[["error", "error_identity"]].to_numpy(), 0.95)) * 1.1
    figure.update_yaxes(title=say("held-out R²"), range=[max(min(low, -0.15), -1.0), 1.0], **TOP)
    figure.update_yaxes(title=say("share of variance"), tickformat=".0%", rangemode="tozero", **BOTTOM)
    figure.update_xaxes(range=[0.4, len(frame) + 0.6])
    figure.update_xaxes(title=say("principal direction of the student head, largest first"), **BOTTOM)
    return layout(figure, 380, bargap=0.25)
