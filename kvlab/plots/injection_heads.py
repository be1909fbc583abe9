"""Functional tests by head: maps of error and damage, damage by layer, and error against damage."""

from __future__ import annotations

from math import isfinite, nan

import plotly.graph_objects as go

from kvlab.injection import Injection
from kvlab.language import mark, say
from kvlab.plots.cells import Cell, cell_map
from kvlab.plots.heads import DARK_BELOW, ERROR_COLOURS, ERROR_TICKS
from kvlab.plots.style import DAMAGE_SCALE, KIND_COLOUR, NEUTRAL, layout

PART = {"key": "K", "value": "V", "both": mark("K and V")}
MEASURES = {  # name -> list of the result, column, column of its standard error, title of the map
    "projection": ("projection", "error", "se", mark("{part} projection error, held out")),
    "attention": ("attention", "error", "se", mark("{part} attention-output error, held out")),
    "kl": ("swaps", "kl", "kl_se", mark("{part} swap damage, KL")),
    "delta_ce": ("swaps", "delta_ce", "delta_ce_se", mark("{part} swap damage, ΔCE")),
}
SYMBOL = {"key": "circle", "value": "diamond", "both": "square"}
BOTH_COLOUR = "#0072B2"


def measured(injection: Injection, measure: str, part: str) -> bool:
    """Whether a map of it can be drawn."""
    cells = getattr(injection, MEASURES[measure][0])
    return any(c.kind == part and c.head is not None for c in cells)


def function_map(injection: Injection, measure: str, part: str, selected: tuple[int, int] | None = None) -> go.Figure:
    """One measure per student layer and KV head; K, V and both together are on one colour scale."""
    where, column, error, title = MEASURES[measure]
    every = [c for c in getattr(injection, where) if c.head is not None]
    heads = {(c.layer, c.head): c for c in every if c.kind == part}
    values = [getattr(c, column) for c in every if isfinite(getattr(c, column))]
    is_error = column == "error"
    low, high = (0.0, 1.0) if is_error else (min(0.0, *values), max(1e-6, *values))
    cells = [
        _cell(injection, heads.get(at), at, column, error, low, high, is_error, part)
        for at in dict.fromkeys((c.layer, c.head) for c in injection.projection)
    ]
    bar = {"title": {"text": say("error<br>RSS / TSS") if is_error else say("nats<br>per token")}, "thickness": 12}
    if is_error:
        colours = {**ERROR_COLOURS, "colorbar": bar | {"tickvals": ERROR_TICKS}}
    else:
        colours = {"colorscale": DAMAGE_SCALE, "zmin": low, "zmax": high, "colorbar": bar}
    return cell_map(injection, cells, colours, say(title, part=say(PART[part])), selected)


def _cell(injection, found, at, column, error, low, high, is_error, part) -> Cell:
    value = getattr(found, column) if found is not None else nan
    known = isfinite(value)
    lines = [say("{part} layer {layer}, head {head}", part=say(PART[part]), layer=at[0], head=at[1])]
    if known:
        lines.append(f"{value:.4f} ± {getattr(found, error):.4f}")
        lines.append(say("n = {n:,}", n=found.n))
    else:
        lines.append(say("not measured"))
    digits = 2 if is_error else 3
    return Cell(
        layer=at[0],
        head=at[1],
        value=value if known else None,
        words=f"{value:.{digits}f}" if known else "–",
        mark="",
        hover="<br>".join(lines),
        dark=known and (value - low) / (high - low) < (DARK_BELOW if is_error else 0.55),
    )


def layer_damage(injection: Injection, column: str) -> go.Figure:
    """KL or ΔCE of handing over one layer alone, K, V and both, beside its training mean."""
    figure = go.Figure()
    for part, colour in (*KIND_COLOUR.items(), ("both", BOTH_COLOUR)):
        swaps = [s for s in injection.swaps if s.head is None and s.kind == part]
        for name, pattern in ((column, ""), (f"{column}_mean", "/")):
            words = say("{part}, projected" if name == column else "{part}, its mean", part=say(PART[part]))
            figure.add_bar(
                x=[str(s.layer) for s in swaps],
                y=[getattr(s, name) for s in swaps],
                error_y={"type": "data", "array": [getattr(s, f"{name}_se") for s in swaps], "thickness": 1.2},
                name=words,
                marker={"color": colour, "pattern": {"shape": pattern, "fgcolor": "#FFFFFF"}},
                hovertemplate=say("{words}, layer %{{x}}: %{{y:.4f}} nats per token", words=words) + "<extra></extra>",
            )
    figure.update_xaxes(title=say("student layer"), type="category")
    figure.update_yaxes(title=say("{measure}, nats per token", measure="KL" if column == "kl" else "ΔCE"))
    return layout(figure, 340, barmode="group", margin={"l": 64, "r": 16, "t": 76, "b": 48})


def error_against_damage(
    injection: Injection, error: str, column: str, selected: tuple[str, int, int] | None = None
) -> go.Figure:
    """Every head that was swapped alone: its error across, the damage of its swap up; ``selected`` is ringed."""
    figure = go.Figure()
    errors = {(c.kind, c.layer, c.head): c for c in getattr(injection, error)}
    for kind, colour in KIND_COLOUR.items():
        swaps = [s for s in injection.swaps if s.head is not None and (s.kind, s.layer, s.head) in errors]
        pairs = [(errors[s.kind, s.layer, s.head], s) for s in swaps if s.kind == kind]
        if not pairs:
            continue
        figure.add_scatter(
            x=[e.error for e, _ in pairs],
            y=[getattr(s, column) for _, s in pairs],
            error_y={"type": "data", "array": [getattr(s, f"{column}_se") for _, s in pairs], "thickness": 1},
            mode="markers",
            name=PART[kind],
            marker={
                "color": colour,
                "symbol": SYMBOL[kind],
                "size": 11,
                "line": {
                    "color": "#000000",
                    "width": [2.5 if (s.kind, s.layer, s.head) == selected else 0 for _, s in pairs],
                },
            },
            customdata=[[s.layer, s.head] for _, s in pairs],
            hovertemplate=say(
                "{part} layer %{{customdata[0]}}, head %{{customdata[1]}}<br>error %{{x:.3f}}, damage %{{y:.4f}}",
                part=PART[kind],
            )
            + "<extra></extra>",
        )
    figure.add_hline(y=0, line={"width": 1, "color": NEUTRAL})
    name = say("projection error") if error == "projection" else say("attention-output error")
    figure.update_xaxes(title=say("{error}, RSS / TSS", error=name))
    figure.update_yaxes(title=say("{measure}, nats per token", measure="KL" if column == "kl" else "ΔCE"))
    return layout(figure, 340, margin={"l": 64, "r": 16, "t": 40, "b": 48})
