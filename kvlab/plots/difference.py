"""Two analyses compared: R² of B minus R² of A per student head, on a scale with zero in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import plotly.graph_objects as go

from kvlab.difference import HeadDifference
from kvlab.language import current, say, speaking
from kvlab.plots.cells import Cell, cell_map
from kvlab.plots.style import DIFFERENCE_SCALE, KIND_NAME, VERDICT_MARKS, written
from kvlab.results import Alignment

LEAST_RANGE = 0.02  # of the colours; a smaller range would paint noise
OUTLINE = "#009E73"  # the student's orange would not be seen on this map's
# Shares of the range from which white is easier to read than black: orange is brighter than purple.
WHITE_ON_ORANGE, WHITE_ON_PURPLE = 0.79, 0.62


def difference_heatmap(
    alignment: Alignment, differences: Sequence[HeadDifference], kind: str, selected: tuple[int, int] | None = None
) -> go.Figure:
    """K and V share one range. ``alignment``: either of the two; “=” within two standard errors of none."""
    limit = max([LEAST_RANGE, *(abs(head.difference) for head in differences if isfinite(head.difference))])
    with speaking(current()):  # asked once, not for every word of thousands of cells
        cells = _cells([head for head in differences if head.kind == kind], limit)
    colours = {
        "colorscale": DIFFERENCE_SCALE,
        "zmin": -limit,
        "zmax": limit,
        "colorbar": {"title": {"text": say("R² of B<br>− R² of A")}, "thickness": 12},
    }
    title = say("{kind}: R² of B − R² of A, held out", kind=KIND_NAME[kind])
    return cell_map(alignment, cells, colours, title, selected, OUTLINE)


def _cells(differences: Sequence[HeadDifference], limit: float) -> list[Cell]:
    return [
        Cell(
            layer=head.layer,
            head=head.head,
            value=head.difference if isfinite(head.difference) else None,
            words=written(head.difference, 2, "+"),
            mark=VERDICT_MARKS[head.clear] if isfinite(head.difference) else "",
            hover=_hover(head),
            dark=head.difference < -WHITE_ON_ORANGE * limit or head.difference > WHITE_ON_PURPLE * limit,
        )
        for head in differences
    ]


def _hover(head: HeadDifference) -> str:
    plus_minus = f" ± {head.se:.3f}" if isfinite(head.se) else ""
    lines = [
        say("{kind} layer {layer}, head {head}", kind=KIND_NAME[head.kind], layer=head.layer, head=head.head),
        f"B − A: {written(head.difference, sign='+')}{plus_minus}",
        say("A: R² {r2}, n = {n:,} tokens", r2=written(head.r2_a), n=head.n_a),
        say("B: R² {r2}, n = {n:,} tokens", r2=written(head.r2_b), n=head.n_b),
    ]
    return "<br>".join(lines)
