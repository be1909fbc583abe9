"""One number per student layer and KV head, as a map whose cells can be clicked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from kvlab.language import say
from kvlab.plots.style import CELL_TEXT_UP_TO, STUDENT_COLOUR, layout
from kvlab.results import Alignment


@dataclass(frozen=True)
class Cell:
    """``words`` are written in it where there is room, ``mark`` always."""

    layer: int  # as numbered in the student
    head: int
    value: float | None  # None where nothing was measured
    words: str
    mark: str
    hover: str
    dark: bool  # white is easier to read on its colour than black


def cell_map(
    alignment: Alignment,
    cells: Sequence[Cell],
    colours: dict[str, Any],
    title: str,
    selected: tuple[int, int] | None = None,
    outline: str = STUDENT_COLOUR,
) -> go.Figure:
    """``colours``: what go.Heatmap takes (colorscale, zmin, zmax, colorbar); ``selected``: (layer, head), outlined.

    Invisible markers above the cells carry layer and head in ``customdata``, since heatmaps cannot be selected.
    """
    layers = [str(layer) for layer in alignment.student["kv_layers"]]
    heads = [str(head) for head in range(1 + max(cell.head for cell in cells))]
    values: list[list[float | None]] = [[None] * len(heads) for _ in layers]
    for cell in cells:
        values[layers.index(str(cell.layer))][cell.head] = cell.value
    legible = max(len(layers), len(heads)) <= CELL_TEXT_UP_TO
    gap = 2 if legible else 0
    figure = go.Figure(go.Heatmap(z=values, x=heads, y=layers, hoverinfo="skip", xgap=gap, ygap=gap, **colours))
    written = [cell for cell in cells if legible or cell.mark]
    figure.add_scatter(
        x=[str(cell.head) for cell in written],
        y=[str(cell.layer) for cell in written],
        mode="text",
        text=[(cell.words if legible else "") + cell.mark for cell in written],
        textfont={"color": ["#FFFFFF" if cell.dark else "#000000" for cell in written], "size": 13},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_scatter(
        x=[str(cell.head) for cell in cells],
        y=[str(cell.layer) for cell in cells],
        mode="markers",
        marker={"size": 28, "symbol": "square", "opacity": 0},
        customdata=[[cell.layer, cell.head] for cell in cells],
        text=[cell.hover for cell in cells],
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
    if selected is not None:
        row, column = layers.index(str(selected[0])), selected[1]
        box = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
        figure.add_shape(type="rect", **box, line={"color": outline, "width": 3})
    figure.update_xaxes(title=say("student KV head"), type="category", showgrid=False)
    figure.update_yaxes(title=say("student layer"), type="category", autorange="reversed", showgrid=False)
    height = min(640, max(260, 96 + 40 * len(layers)))
    return layout(
        figure, height, title={"text": title, "font": {"size": 15}}, hoverdistance=-1, clickmode="event+select"
    )
