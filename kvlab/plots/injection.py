"""Functional tests: every variant beside its controls, over the length of the prefix, and the right answers."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from kvlab.injection import NAMES, VARIANTS, Accuracy, Injected, Injection
from kvlab.language import mark, say
from kvlab.plots.style import KIND_COLOUR, NEUTRAL, STUDENT_COLOUR, TEACHER_COLOUR, layout, written

# Okabe and Ito 2008; told apart by marker and dash too.
LOOK = {
    "own": (KIND_COLOUR["key"], "circle", "solid"),
    "projected": (TEACHER_COLOUR, "square", "solid"),
    "mean": (NEUTRAL, "x", "dot"),
    "shuffled": ("#E69F00", "triangle-up", "dash"),
    "identity": (KIND_COLOUR["value"], "diamond", "dashdot"),
    "random": (STUDENT_COLOUR, "cross", "longdash"),
}
MEASURES = {  # column -> title of the axis
    "kl": mark("KL from the own cache, nats per token"),
    "delta_ce": mark("ΔCE from the own cache, nats per token"),
}


def variants(rows: Sequence[Injected], column: str) -> go.Figure:
    """KL or ΔCE of each variant at one prefix, with its standard error and number."""
    values = [(row.variant, getattr(row, column), getattr(row, f"{column}_se"), row.n) for row in rows]
    return _bars(values, say(MEASURES[column]), say("%{customdata[0]}: %{customdata[1]}, n = %{customdata[2]} tokens"))


def accuracy(rows: Sequence[Accuracy]) -> go.Figure:
    """Share of right answers after each variant, with its standard error."""
    values = [(row.variant, row.right, row.se, row.documents) for row in rows]
    hover = say("%{customdata[0]}: %{customdata[1]}, n = %{customdata[2]} documents")
    return _bars(values, say("share of right answers"), hover)


def _bars(values: Sequence[tuple[str, float, float, int]], axis: str, hover: str) -> go.Figure:
    names = [say(NAMES[name]) for name, *_ in values]
    numbers = [f"{written(value)} ± {error:.3f}" for _, value, error, _ in values]
    figure = go.Figure(
        go.Bar(
            x=[value for _, value, _, _ in values],
            y=[f"{name}<br><b>{number}</b>" for name, number in zip(names, numbers, strict=True)],
            orientation="h",
            marker_color=[LOOK[name][0] if name in ("own", "projected") else NEUTRAL for name, *_ in values],
            error_x={"type": "data", "array": [error for _, _, error, _ in values], "thickness": 1.5},
            customdata=[[names[i], numbers[i], f"{row[3]:,}"] for i, row in enumerate(values)],
            hovertemplate=hover + "<extra></extra>",
        )
    )
    figure.add_vline(x=0, line={"width": 1, "color": NEUTRAL})
    figure.update_xaxes(title=axis, zeroline=False)
    figure.update_yaxes(autorange="reversed")
    return layout(figure, 90 + 44 * len(values), margin={"l": 150, "r": 16, "t": 8, "b": 48})


def curve(injection: Injection, column: str, share: float | None = None) -> go.Figure:
    """KL or ΔCE over the share of the document that is handed over; ``share``: the one that is marked."""
    figure = go.Figure()
    for name in [name for name in VARIANTS if name in LOOK]:
        rows = sorted((row for row in injection.injected if row.variant == name), key=lambda row: row.prefix)
        if not rows:
            continue
        colour, symbol, dash = LOOK[name]
        figure.add_scatter(
            x=[row.prefix for row in rows],
            y=[getattr(row, column) for row in rows],
            error_y={"type": "data", "array": [getattr(row, f"{column}_se") for row in rows], "thickness": 1.2},
            mode="lines+markers",
            name=say(NAMES[name]),
            line={"color": colour, "dash": dash},
            marker={"symbol": symbol, "size": 9},
            customdata=[[getattr(row, f"{column}_se"), row.n] for row in rows],
            hovertemplate=say(
                "{name}, prefix %{{x:.0%}}<br>%{{y:.3f}} ± %{{customdata[0]:.3f}}, n = %{{customdata[1]:,}} tokens",
                name=say(NAMES[name]),
            )
            + "<extra></extra>",
        )
    if share is not None:
        figure.add_vline(x=share, line={"width": 1.5, "dash": "dot", "color": NEUTRAL})
    figure.update_xaxes(title=say("share of the document handed over"), tickformat=".0%")
    figure.update_yaxes(title=say("{measure}, nats per token", measure="KL" if column == "kl" else "ΔCE"))
    return layout(figure, 380, margin={"l": 56, "r": 16, "t": 64, "b": 48})
