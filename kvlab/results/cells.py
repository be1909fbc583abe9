"""Draw one number per student layer and KV head, as a map with clickable cells."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kvlab.language import say
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.so_far import SoFar
from kvlab.results.function.data import Injection
from kvlab.results.style import CELL_TEXT_UP_TO, NO_GAIN_COLOUR, STUDENT_COLOUR, layout

BELOW = "−"
MAP_PIXELS = 448  # of the shorter side of a map with many cells


@dataclass(frozen=True)
class Cell:
    """One cell of a map. It shows ``words`` if there is room, and ``mark`` always."""

    layer: int  # as numbered in the student
    head: int
    value: float | None  # None where nothing was measured
    words: str
    mark: str
    hover: str
    dark: bool  # on its colour, white text is easier to read than black
    grey: bool = False  # drawn without the colour of its value


def cell_map(
    result: Alignment | Injection | SoFar,
    cells: Sequence[Cell],
    colours: dict[str, Any],
    title: str,
    selected: tuple[int, int] | None = None,
    outline: str = STUDENT_COLOUR,
) -> go.Figure:
    """Draw the map. ``colours``: colorscale, zmin, zmax, colorbar of go.Heatmap; ``selected``: (layer, head), outlined.

    Invisible markers above the cells carry layer and head in ``customdata``, because plotly cannot select heatmaps.
    """
    layers = [str(layer) for layer in result.student["kv_layers"]]
    row_of = {layer: row for row, layer in enumerate(result.student["kv_layers"])}
    heads = [str(head) for head in range(1 + max(cell.head for cell in cells))]
    values: list[list[float | None]] = [[None] * len(heads) for _ in layers]
    greys: list[list[float | None]] = [[None] * len(heads) for _ in layers]
    for cell in cells:
        (greys if cell.grey else values)[row_of[cell.layer]][cell.head] = cell.value
    most = max(len(layers), len(heads))
    legible = most <= CELL_TEXT_UP_TO
    # Each marker must stay inside its cell: where markers overlap, a click would select a neighbour.
    room = MAP_PIXELS // most
    gap = 2 if legible else 0
    figure = go.Figure(go.Heatmap(z=_array(values), x=heads, y=layers, hoverinfo="skip", xgap=gap, ygap=gap, **colours))
    if any(cell.grey for cell in cells):
        plain = {"colorscale": [[0, NO_GAIN_COLOUR], [1, NO_GAIN_COLOUR]], "showscale": False}
        figure.add_heatmap(z=_array(greys), x=heads, y=layers, hoverinfo="skip", xgap=gap, ygap=gap, **plain)
    if not legible:  # without its number, a cell below zero says so: printed in grey, its colour does not
        below = [cell for cell in cells if cell.value is not None and cell.value < 0 and not cell.grey]
        cells = [replace(cell, mark=BELOW) if cell in below else cell for cell in cells]
    labelled = [cell for cell in cells if legible or cell.mark]
    _write(figure, labelled, legible, min(13, room))
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
    """Return ``colours`` of cell_map around zero."""
    bar = {"title": {"text": title}, "thickness": 12}
    return {"colorscale": scale, "zmin": -limit, "zmax": limit, "colorbar": bar}


def _write(figure: go.Figure, cells: Sequence[Cell], legible: bool, size: int) -> None:
    """Write words and marks into the cells; if the cells are too small for words, only the marks."""
    # Plotly checks the colours of a list one by one, so draw many cells in one group per colour.
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
    """Return an array, which plotly does not check element by element; dtype object, so that a page gets a list."""
    return np.array(values, dtype=object)
