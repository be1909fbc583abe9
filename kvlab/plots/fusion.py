"""Several teachers fused: the gain over the best single one per student head, and one head in parts."""

from __future__ import annotations

from math import isfinite

import plotly.graph_objects as go

from kvlab.plots.cells import Cell, cell_map
from kvlab.plots.style import GAIN_SCALE, KIND_NAME, STUDENT_COLOUR, TEACHER_COLOUR, layout, written
from kvlab.results import Alignment, FusedScore

LEAST_RANGE = 0.02  # of the gain's colours; a smaller range would paint noise
DARK_FROM = 0.55  # share of the range from which white is easier to read


def gain_heatmap(alignment: Alignment, kind: str, selected: tuple[int, int] | None = None) -> go.Figure:
    """Held-out R² that all teachers together add to the best single one; “=” within two standard errors."""
    gains = [abs(score.gain) for score in alignment.fusion if isfinite(score.gain)]
    limit = max(LEAST_RANGE, *gains) if gains else LEAST_RANGE
    cells = [
        Cell(
            layer=score.layer,
            head=score.head,
            value=score.gain if isfinite(score.gain) else None,
            words=written(score.gain, 2, "+"),
            mark=" =" * (isfinite(score.gain_se) and not score.beats_best),
            hover=_hover(score, alignment.teachers),
            dark=isfinite(score.gain) and abs(score.gain) > DARK_FROM * limit,
        )
        for score in alignment.fusion
        if score.kind == kind
    ]
    colours = {
        "colorscale": GAIN_SCALE,
        "zmin": -limit,
        "zmax": limit,
        "colorbar": {"title": {"text": "gain<br>in R²"}, "thickness": 12},
    }
    return cell_map(alignment, cells, colours, f"{KIND_NAME[kind]} gain over the best single teacher", selected)


def _hover(score: FusedScore, teachers: list[str]) -> str:
    alone = "".join(f"{name} alone R² {r2:.3f}<br>" for name, r2 in zip(teachers, score.r2_alone))
    return (
        f"{KIND_NAME[score.kind]} layer {score.layer}, head {score.head}<br>fused R² {score.r2:.3f} ± {score.se:.3f}"
        f"<br>{alone}gain {written(score.gain, sign='+')} ± {score.gain_se:.3f}<br>n = {score.n:,} tokens"
    )


def fused_parts(score: FusedScore, teachers: list[str]) -> go.Figure:
    """R² of all teachers together and of each alone, on the same tokens."""
    names = ["fused", *(f"{number} {name}" for number, name in enumerate(teachers, 1))]
    return _bars(
        names,
        [score.r2, *score.r2_alone],
        [STUDENT_COLOUR] + [TEACHER_COLOUR] * len(teachers),
        "held-out R² (whisker: ± 1 jackknife s.e.)",
        [score.se] + [float("nan")] * len(teachers),
    )


def fusion_weights(score: FusedScore, teachers: list[str]) -> go.Figure:
    """What each teacher's prediction counts in the fused one."""
    names = [f"{number} {name}" for number, name in enumerate(teachers, 1)]
    return _bars(names, score.weights, [TEACHER_COLOUR] * len(teachers), "weight of its prediction, mean over folds")


def _bars(
    names: list[str], values: list[float], colours: list[str], axis: str, errors: list[float] | None = None
) -> go.Figure:
    figure = go.Figure(
        go.Bar(
            x=[value if isfinite(value) else None for value in values],
            y=[f"{name}  <b>{written(value)}</b>" for name, value in zip(names, values)],
            orientation="h",
            marker_color=colours,
            error_x={"type": "data", "array": [e if isfinite(e) else None for e in errors], "thickness": 1.5}
            if errors
            else None,
            hovertemplate="%{x:.3f}<extra></extra>",
        )
    )
    shown = [value for value in values if isfinite(value)]
    figure.update_xaxes(title=axis, range=[min(0.0, *shown) - 0.02, max(1.0, *shown)] if shown else None)
    figure.update_yaxes(title="teacher", autorange="reversed")
    return layout(figure, 110 + 34 * len(names), margin={"l": 220, "r": 16, "t": 8, "b": 48})
