"""One number per student layer and KV head, as a map whose cells can be clicked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kvlab.language import say
from kvlab.results.alignment.data import Alignment
from kvlab.results.function.data import Injection
from kvlab.results.style import CELL_TEXT_UP_TO, STUDENT_COLOUR, layout

MAP_PIXELS = 448  # of the shorter side of a map with many cells


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
    result: Alignment | Injection,
    cells: Sequence[Cell],
    colours: dict[str, Any],
    title: str,
    selected: tuple[int, int] | None = None,
    outline: str = STUDENT_COLOUR,
) -> go.Figure:
    """``colours``: what go.Heatmap takes (colorscale, zmin, zmax, colorbar); ``selected``: (layer, head), outlined.

    Invisible markers above the cells carry layer and head in ``customdata``, since heatmaps cannot be selected.
    """
    layers = [str(layer) for layer in result.student["kv_layers"]]
    row_of = {layer: row for row, layer in enumerate(result.student["kv_layers"])}
    heads = [str(head) for head in range(1 + max(cell.head for cell in cells))]
    values: list[list[float | None]] = [[None] * len(heads) for _ in layers]
    for cell in cells:
        values[row_of[cell.layer]][cell.head] = cell.value
    most = max(len(layers), len(heads))
    legible = most <= CELL_TEXT_UP_TO
    # Of many cells, each must stay inside its own: of markers that overlap, a click would take a neighbour's.
    room = MAP_PIXELS // most
    gap = 2 if legible else 0
    figure = go.Figure(go.Heatmap(z=_array(values), x=heads, y=layers, hoverinfo="skip", xgap=gap, ygap=gap, **colours))
    written = [cell for cell in cells if legible or cell.mark]
    _write(figure, written, legible, min(13, room))
    figure.add_scatter(
        x=_array([heads[cell.head] for cell in cells]),
        y=_array([layers[row_of[cell.layer]] for cell in cells]),
        mode="markers",
        marker={"size": min(28, room), "symbol": "square", "opacity": 0},
        customdata=_array([[cell.layer, cell.head] for cell in cells]),
        text=_array([cell.hover for cell in cells]),
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
    if selected is not None:
        row, column = row_of[selected[0]], selected[1]
        box = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
        figure.add_shape(type="rect", **box, line={"color": outline, "width": 3})
    figure.update_xaxes(title=say("student KV head"), type="category", showgrid=False)
    figure.update_yaxes(title=say("student layer"), type="category", autorange="reversed", showgrid=False)
    height = min(640, max(260, 96 + 40 * len(layers)))
    return layout(
        figure, height, title={"text": title, "font": {"size": 15}}, hoverdistance=-1, clickmode="event+select"
    )


def diverging(scale: str, limit: float, title: str) -> dict[str, Any]:
    """``colours`` of cell_map around zero."""
    bar = {"title": {"text": title}, "thickness": 12}
    return {"colorscale": scale, "zmin": -limit, "zmax": limit, "colorbar": bar}


def _write(figure: go.Figure, cells: Sequence[Cell], legible: bool, size: int) -> None:
    """Words and marks, or of cells too small for words the marks alone."""
    # Plotly checks a list of colours one by one: of many cells, those of one colour are drawn together.
    groups = [cells] if legible else [[c for c in cells if c.dark], [c for c in cells if not c.dark]]
    for group in filter(None, groups):
        colours = ["#FFFFFF" if cell.dark else "#000000" for cell in group]
        figure.add_scatter(
            x=_array([str(cell.head) for cell in group]),
            y=_array([str(cell.layer) for cell in group]),
            mode="text",
            text=_array([(cell.words if legible else "") + cell.mark for cell in group]),
            textfont={"color": colours if legible else colours[0], "size": size},
            hoverinfo="skip",
            showlegend=False,
        )


def _array(values: list) -> np.ndarray:
    """Plotly looks into every element of a list, but takes an array as it is. Of objects: a page gets it as a list."""
    return np.array(values, dtype=object)
