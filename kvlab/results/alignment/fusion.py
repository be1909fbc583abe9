"""Draw the fusion of several teachers: the gain over the best single one per student head, and one head in parts.

Plotly reads some HTML in labels, so this module escapes the names of teachers.
"""

from html import escape
from math import isfinite

import plotly.graph_objects as go

from kvlab.language import say
from kvlab.results.alignment.data import Alignment, FusedScore
from kvlab.results.cells import Cell, cell_map, diverging
from kvlab.results.style import GAIN_SCALE, KIND_NAME, STUDENT_COLOUR, TEACHER_COLOUR, VERDICT_MARKS, layout, written

LEAST_RANGE = 0.02  # of the gain's colours; a smaller range would paint noise
DARK_FROM = 0.55  # share of the range from which white is easier to read


def gain_heatmap(alignment: Alignment, kind: str, selected: tuple[int, int] | None = None) -> go.Figure:
    """Draw the held-out R² that all teachers add to the best single one; “=” marks no gain (``beats_best``)."""
    gains = [abs(score.gain) for score in alignment.fusion if isfinite(score.gain)]
    limit = max(LEAST_RANGE, *gains) if gains else LEAST_RANGE
    cells = [
        Cell(
            layer=score.layer,
            head=score.head,
            value=score.gain if isfinite(score.gain) else None,
            words=written(score.gain, 2, "+"),
            mark=VERDICT_MARKS[score.beats_best] if isfinite(score.gain) else "",
            hover=_hover(score, alignment.teachers),
            dark=isfinite(score.gain) and abs(score.gain) > DARK_FROM * limit,
        )
        for score in alignment.fusion
        if score.kind == kind
    ]
    colours = diverging(GAIN_SCALE, limit, say("gain<br>in R²"))
    title = say("{kind} gain over the best single teacher", kind=KIND_NAME[kind])
    return cell_map(alignment, cells, colours, title, selected)


def _hover(score: FusedScore, teachers: list[str]) -> str:
    lines = [
        say("{kind} layer {layer}, head {head}", kind=KIND_NAME[score.kind], layer=score.layer, head=score.head),
        say("fused R² {r2:.3f} ± {se:.3f}", r2=score.r2, se=score.se),
        *(
            say("{teacher} alone R² {r2:.3f}", teacher=escape(name), r2=r2)
            for name, r2 in zip(teachers, score.r2_alone)
        ),
        say("gain {gain} ± {se:.3f}", gain=written(score.gain, sign="+"), se=score.gain_se),
        say("n = {n:,} tokens", n=score.n),
    ]
    if isfinite(score.gain_random):
        over = {"gain": written(score.gain_random, sign="+"), "se": score.gain_random_se, "n": score.n_control}
        lines.append(say("over random weights in place of others {gain} ± {se:.3f}, n = {n:,} tokens", **over))
    return "<br>".join(lines)


def fused_parts(score: FusedScore, teachers: list[str]) -> go.Figure:
    """Draw R² of all teachers together and of each alone, on the same tokens."""
    names = [say("fused"), *_numbered(teachers)]
    return _bars(
        names,
        [score.r2, *score.r2_alone],
        [STUDENT_COLOUR] + [TEACHER_COLOUR] * len(teachers),
        say("held-out R² (whisker: ± 1 jackknife s.e.)"),
        [score.se] + [float("nan")] * len(teachers),
    )


def fusion_weights(score: FusedScore, teachers: list[str]) -> go.Figure:
    """Draw the weight of each teacher's prediction in the fused one."""
    axis = say("weight of its prediction, mean over folds")
    return _bars(_numbered(teachers), score.weights, [TEACHER_COLOUR] * len(teachers), axis)


def _numbered(teachers: list[str]) -> list[str]:
    return [f"{number} {escape(name)}" for number, name in enumerate(teachers, 1)]


def _bars(
    names: list[str], values: list[float], colours: list[str], axis: str, errors: list[float] | None = None
) -> go.Figure:
    whiskers = {"type": "data", "array": [e if isfinite(e) else None for e in errors or ()], "thickness": 1.5}
    figure = go.Figure(
        go.Bar(
            x=[value if isfinite(value) else None for value in values],
            y=[f"{name}  <b>{written(value)}</b>" for name, value in zip(names, values)],
            orientation="h",
            marker_color=colours,
            error_x=whiskers if errors else None,
            hovertemplate="%{x:.3f}<extra></extra>",
        )
    )
    shown = [value for value in values if isfinite(value)]
    figure.update_xaxes(title=axis, range=[min(0.0, *shown) - 0.02, max(1.0, *shown)] if shown else None)
    figure.update_yaxes(title=say("teacher"), autorange="reversed")
    return layout(figure, 110 + 34 * len(names), margin={"l": 220, "r": 16, "t": 8, "b": 48})
