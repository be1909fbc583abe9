"""Draw the whole document as one strip, coloured by the error of each student token."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from kvlab.language import say
from kvlab.results.alignment.data import Alignment, mean_of_heads
from kvlab.results.memo import once
from kvlab.results.style import R2_SCALE, SEGMENT_SHADE, STUDENT_COLOUR, layout

BINS = 240  # of the strip at most


def minimap(alignment: Alignment, number: int, window: tuple[int, int]) -> go.Figure:
    """Draw the mean R² per stretch of bytes. A click gives the stretch's first byte in ``customdata``."""
    document = alignment.inspected[number]
    length = max(1, len(document.text.encode()))
    width = -(-length // BINS)
    edges = np.arange(0, length + width, width)
    error = np.mean([token_error(alignment, number, kind) for kind in ("key", "value")], axis=0)
    ends = np.array([token.end for token in document.student_tokens])
    known = ~np.isnan(error) & (ends > 0)
    place = np.minimum((ends[known] - 1) // width, len(edges) - 2)
    count = np.bincount(place, minlength=len(edges) - 1)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, error[known], len(edges) - 1) / count
    mean = pd.Series(mean).bfill().to_numpy()  # where no token ends: the error of the token that covers these bytes
    shown = np.flatnonzero(~np.isnan(mean))
    figure = go.Figure(
        go.Bar(
            x=(edges[shown] + width / 2).tolist(),
            y=[1] * len(shown),
            width=width,
            marker={"color": (1 - mean[shown]).tolist(), "colorscale": R2_SCALE, "cmin": 0, "cmax": 1, "line_width": 0},
            customdata=[[int(edges[i]), float(1 - mean[i])] for i in shown],
            hovertemplate=say("from byte %{customdata[0]}: R² %{customdata[1]:.2f}, click to go there")
            + "<extra></extra>",
            showlegend=False,
        )
    )
    for name, first, last in document.segments:
        if last > first:
            shade = f"rgba(110,118,129,{0.2 + SEGMENT_SHADE.get(name, 0.1)})"
            figure.add_shape(type="rect", x0=first, x1=last, y0=1.08, y1=1.5, fillcolor=shade, line_width=0)
            figure.add_annotation(
                x=first, y=1.29, text=say(name), showarrow=False, xanchor="left", yanchor="middle", font={"size": 11}
            )
    box = {"x0": window[0], "x1": window[1], "y0": -0.06, "y1": 1.06}
    figure.add_shape(type="rect", **box, line={"color": STUDENT_COLOUR, "width": 3})
    figure.update_xaxes(
        range=[-0.005 * length, length * 1.005], showgrid=False, fixedrange=True, title=say("byte of the text (UTF-8)")
    )
    figure.update_yaxes(range=[-0.1, 1.55], visible=False, fixedrange=True)
    margin = {"l": 72, "r": 16, "t": 4, "b": 40}
    return layout(figure, 100, margin=margin, bargap=0, clickmode="event+select", dragmode=False)


@once
def token_error(alignment: Alignment, number: int, kind: str) -> np.ndarray:
    """Return the mean error [Ts] over heads of a document. Cached, because a large model has 4,096 heads."""
    return mean_of_heads(alignment.arrays[f"document.{number}.error.{kind}"])
