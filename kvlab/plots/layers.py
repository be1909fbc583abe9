"""Student layers against teacher layers: how alike they are, and which were chosen."""

from __future__ import annotations

from math import ceil, floor

import numpy as np
import plotly.graph_objects as go

from kvlab.language import mark, say
from kvlab.plots.style import (
    CELL_TEXT_UP_TO,
    CKA_SCALE,
    KIND_NAME,
    R2_SCALE,
    STUDENT_COLOUR,
    finite_or_none,
    layout,
)
from kvlab.results import Alignment

MATRICES = {  # array -> title, words of the hover
    "r2": (mark("held-out R² of each teacher layer alone"), mark("held-out R² alone")),
    "cka": (mark("unbiased CKA with the teacher"), "CKA"),
    "own": (mark("the student with itself, the ceiling"), "CKA"),
}
NOTHING = "rgba(138,143,152,0.22)"  # grey, on white and on black: no cache in that layer, or not searched


def chosen(alignment: Alignment, kind: str) -> dict[int, list[int]]:
    """Teacher layers of each student layer, both numbered as in the models."""
    return dict(zip(alignment.student["kv_layers"], alignment.layer_map["teacher_layers"][kind]))


def similarity(alignment: Alignment, kind: str, name: str) -> go.Figure:
    """One matrix of MATRICES over the layers as numbered in the models; the chosen layers are outlined."""
    title, words = MATRICES[name]
    across = alignment.student if name == "own" else alignment.teacher
    values = _as_numbered(alignment.arrays[f"similarity.{kind}.{name}"], alignment.student, across)
    legible = max(values.shape) <= CELL_TEXT_UP_TO
    lowest, highest = _r2_range(alignment) if name == "r2" else (0.0, 1.0)
    of_student = say("student layer")
    of_other = of_student if name == "own" else say("teacher layer")
    where = say("{student} %{{y}}, {other} %{{x}}", student=of_student, other=of_other)
    figure = go.Figure(
        go.Heatmap(
            z=finite_or_none(values),
            x=list(range(values.shape[1])),
            y=list(range(values.shape[0])),
            zmin=lowest,
            zmax=highest,
            colorscale=R2_SCALE if name == "r2" else CKA_SCALE,
            xgap=2 if legible else 0,
            ygap=2 if legible else 0,
            text=[["" if np.isnan(v) else f"{v:.2f}" for v in row] for row in values] if legible else None,
            texttemplate="%{text}" if legible else None,
            hoverongaps=False,
            hovertemplate=f"{where}<br>{say(words)} %{{z:.3f}}<extra></extra>",
            colorbar={"title": {"text": "R²" if name == "r2" else "CKA"}, "thickness": 12},
        )
    )
    if name != "own":
        _outline(figure, chosen(alignment, kind), 2.5 if legible else 1.8)
    every = max(1, -(-max(values.shape) // CELL_TEXT_UP_TO))  # labels of 64 layers would overlap
    ticks = {"tickmode": "linear", "tick0": 0, "dtick": every, "showgrid": False, "zeroline": False}
    figure.update_xaxes(title=of_other, range=[-0.5, values.shape[1] - 0.5], **ticks)
    figure.update_yaxes(title=of_student, range=[values.shape[0] - 0.5, -0.5], **ticks)
    height = min(640, max(250, 96 + 40 * values.shape[0]))
    heading = {"text": say("{kind}: {title}", kind=KIND_NAME[kind], title=say(title)), "font": {"size": 15}}
    return layout(figure, height, title=heading, plot_bgcolor=NOTHING)


def _as_numbered(of_cached: np.ndarray, student: dict, across: dict) -> np.ndarray:
    """[cached layers] x 2 -> [layers] x 2; not a number where a layer keeps no cache."""
    values = np.full((student["layers"], across["layers"]), np.nan)
    values[np.ix_(student["kv_layers"], across["kv_layers"])] = of_cached
    return values


def _r2_range(alignment: Alignment) -> tuple[float, float]:
    """From the worst to the best layer, in tenths; one range for K and V. Neighbouring layers differ by little."""
    both = np.concatenate([alignment.arrays[f"similarity.{kind}.r2"].ravel() for kind in KIND_NAME])
    known = both[~np.isnan(both)].clip(0, 1)
    if not len(known):
        return 0.0, 1.0
    return floor(known.min() * 10) / 10, max(ceil(known.max() * 10), floor(known.min() * 10) + 1) / 10


def _outline(figure: go.Figure, layers: dict[int, list[int]], thick: float) -> None:
    """Boxes around the chosen cells, as one trace; white beneath, so that they stand out on every colour."""
    x: list[float | None] = []
    y: list[float | None] = []
    for student, teachers in layers.items():
        for teacher in teachers:
            x += [teacher - 0.47, teacher + 0.47, teacher + 0.47, teacher - 0.47, teacher - 0.47, None]
            y += [student - 0.47, student - 0.47, student + 0.47, student + 0.47, student - 0.47, None]
    for colour, width in (("#FFFFFF", 2 * thick), (STUDENT_COLOUR, thick)):
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            line={"color": colour, "width": width},
            name=say("chosen"),
            showlegend=False,
            hoverinfo="skip",
        )
