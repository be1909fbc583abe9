"""Draw a functional test: its variants, curves and accuracy, and the damage of each head."""

from collections.abc import Sequence
from math import isfinite, nan
from textwrap import wrap

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kvlab.language import phrase, say
from kvlab.request import declared
from kvlab.results.alignment.heads import r2_cell, r2_colours
from kvlab.results.cells import Cell, cell_map
from kvlab.results.function.data import NAMES, SOURCES, VARIANTS, Accuracy, Hybrid, Injected, Injection
from kvlab.results.style import DAMAGE_SCALE, KIND_COLOUR, NEUTRAL, TEACHER_COLOUR, WHISKER, layout, written

# Colour (Okabe and Ito 2008), marker and dash of each variant.
LOOK = {
    "own": (KIND_COLOUR["key"], "circle", "solid"),
    "projected": (TEACHER_COLOUR, "square", "solid"),
    **{name: control.get("LOOK", (NEUTRAL, "star", "dash")) for name, control in declared.CONTROLS.items()},
}
MEASURES = {  # column -> title of the axis
    "kl": phrase("KL from the own cache, nats (less is better)"),
    "delta_ce": phrase("ΔCE from the own cache, nats per token"),
}


def variants(rows: Sequence[Injected], column: str, height: int | None = None) -> go.Figure:
    """Draw KL or ΔCE of each variant at one prefix, with its standard error and number."""
    values = [(row.variant, getattr(row, column), getattr(row, f"{column}_se"), row.n) for row in rows]
    hover = say("%{customdata[0]}: %{customdata[1]}, n = %{customdata[2]} tokens")
    return _bars(values, say(MEASURES[column]), hover, height)


def accuracy(rows: Sequence[Accuracy]) -> go.Figure:
    """Draw the share of right answers after each variant, with its standard error."""
    values = [(row.variant, row.right, row.se, row.documents) for row in rows]
    hover = say("%{customdata[0]}: %{customdata[1]}, n = %{customdata[2]} documents")
    return _bars(values, say("share of right answers"), hover)


def _bars(
    values: Sequence[tuple[str, float, float, int]], axis: str, hover: str, height: int | None = None
) -> go.Figure:
    names = [say(NAMES[name]) for name, *_ in values]
    numbers = [f"{written(value)} ± {error:.3f}" for _, value, error, _ in values]
    figure = go.Figure(
        go.Bar(
            x=[value for _, value, _, _ in values],
            y=[f"{name}<br><b>{number}</b>" for name, number in zip(names, numbers, strict=True)],
            orientation="h",
            marker_color=[LOOK[name][0] if name in ("own", *SOURCES) else NEUTRAL for name, *_ in values],
            error_x={"type": "data", "array": [error for _, _, error, _ in values], "thickness": 1.5, "color": WHISKER},
            customdata=[[names[i], numbers[i], f"{row[3]:,}"] for i, row in enumerate(values)],
            hovertemplate=hover + "<extra></extra>",
        )
    )
    figure.add_vline(x=0, line={"width": 1, "color": NEUTRAL})
    figure.update_xaxes(title="<br>".join(wrap(axis, 28)), zeroline=False)  # two lines have room on a phone too
    figure.update_yaxes(autorange="reversed")
    return layout(figure, height or 90 + 44 * len(values), margin={"l": 150, "r": 16, "t": 8, "b": 62})


def curve(injection: Injection, column: str, share: float | None = None) -> go.Figure:
    """Draw KL or ΔCE over the prefix's share of the document; ``share`` gets a line."""
    figure = go.Figure()
    for name in VARIANTS:
        rows = sorted((row for row in injection.injected if row.variant == name), key=lambda row: row.prefix)
        if not rows or name not in LOOK:
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


PANELS = {"layers": 1, "read": 2, "tokens": 2}  # part of a hybrid -> its column


def hybrid(injection: Injection) -> go.Figure:
    """Draw KL over the share of the prefill that the student pays itself: of its layers, and of the last tokens."""
    titles = [say("its first layers"), say("its last tokens")]
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.04)
    by_line: dict[tuple[str, str], list[Hybrid]] = {}
    for row in injection.hybrid:
        by_line.setdefault((row.variant, row.part), []).append(row)
    for (source, part), rows in by_line.items():
        own_rows = part == "tokens"
        if own_rows and source not in SOURCES:
            continue
        colour, symbol, dash = LOOK[source]
        name = say("{source}, own rows", source=say(NAMES[source])) if own_rows else say(NAMES[source])
        hover = say(
            "{name}: %{{customdata[0]}} its own, %{{x:.0%}} of the prefill<br>KL %{{y:.4f}} ± %{{customdata[1]:.4f}}, "
            "n = %{{customdata[2]:,}} tokens",
            name=name,
        )
        figure.add_scatter(
            x=[row.share for row in rows],
            y=[row.kl for row in rows],
            error_y={"type": "data", "array": [row.kl_se for row in rows], "thickness": 1.2},
            mode="lines+markers",
            name=name,
            showlegend=part != "read",
            legendgroup=name,
            line={"color": colour, "dash": "dot" if own_rows else dash, "width": 1.2 if own_rows else 2},
            marker={"symbol": f"{symbol}-open" if own_rows else symbol, "size": 6 if own_rows else 9},
            customdata=[[row.kept, row.kl_se, row.n] for row in rows],
            hovertemplate=hover + "<extra></extra>",
            row=1,
            col=PANELS[part],
        )
    figure.update_xaxes(title=say("share of the prefill"), tickformat=".0%")
    figure.update_yaxes(title=say("{measure}, nats per token", measure="KL"), col=1, rangemode="tozero")
    return layout(figure, 420, margin={"l": 56, "r": 16, "t": 110, "b": 48}, legend_y=1.12)


PART = {"key": "K", "value": "V", "both": phrase("K and V")}
HEAD_MEASURES = {  # name -> list of the result, column, column of its standard error, title of the map
    "projection": ("projection", "error", "se", phrase("{part}: R², held out")),
    "attention": ("attention", "error", "se", phrase("{part}: R² of attention output")),
    "kl": ("swaps", "kl", "kl_se", phrase("{part} swap damage, KL")),
    "delta_ce": ("swaps", "delta_ce", "delta_ce_se", phrase("{part} swap damage, ΔCE")),
}
DARK_FROM = 0.55  # share of the range of damages, from which on white is easier to read
SYMBOL = {"key": "circle", "value": "diamond"}


def measured(injection: Injection, measure: str, part: str) -> bool:
    """Return whether the result has this measure of single heads."""
    cells = getattr(injection, HEAD_MEASURES[measure][0])
    return any(cell.kind == part and cell.head is not None for cell in cells)


def function_map(injection: Injection, measure: str, part: str, selected: tuple[int, int] | None = None) -> go.Figure:
    """Draw one measure per student layer and KV head; K, V and both share one colour scale."""
    where, column, error, title = HEAD_MEASURES[measure]
    every = [score for score in getattr(injection, where) if score.head is not None]
    scores = {(score.layer, score.head): score for score in every if score.kind == part}
    damages = [getattr(score, column) for score in every if isfinite(getattr(score, column))]
    low, high = min(0.0, *damages), max(1e-6, *damages)
    bar = {"title": {"text": say("nats<br>per token")}, "thickness": 12}
    colours = {"colorscale": DAMAGE_SCALE, "zmin": low, "zmax": high, "colorbar": bar}
    cells = []
    for layer, head in dict.fromkeys((score.layer, score.head) for score in injection.projection):
        score = scores.get((layer, head))
        value = getattr(score, column) if score is not None else nan
        lines = [say("{part} layer {layer}, head {head}", part=say(PART[part]), layer=layer, head=head)]
        if column == "error":
            value = 1 - value
        if isfinite(value):
            lines += [f"{written(value, 4)} ± {getattr(score, error):.4f}", say("n = {n:,}", n=score.n)]
        else:
            lines.append(say("not measured"))
        hover = "<br>".join(lines)
        if column == "error":
            cells.append(r2_cell(layer, head, value, hover))
        else:
            cells.append(_damage_cell(layer, head, value, hover, low, high))
    if column == "error":
        colours = r2_colours()
    return cell_map(injection, cells, colours, say(title, part=say(PART[part])), selected)


def _damage_cell(layer: int, head: int, value: float, hover: str, low: float, high: float) -> Cell:
    known = isfinite(value)
    return Cell(
        layer=layer,
        head=head,
        value=value if known else None,
        words=written(value),
        mark="",
        hover=hover,
        dark=known and (value - low) / (high - low) > DARK_FROM,
    )


def layer_damage(injection: Injection, column: str) -> go.Figure:
    """Draw KL or ΔCE of handing over one layer alone, K, V and both, beside its training mean."""
    figure = go.Figure()
    for part, colour in (*KIND_COLOUR.items(), ("both", TEACHER_COLOUR)):
        swaps = [s for s in injection.swaps if s.head is None and s.kind == part]
        # V differs from K in grey too.
        for name, pattern in (
            (column, "." if part == "value" else ""),
            (f"{column}_mean", "x" if part == "value" else "/"),
        ):
            words = say("{part}, projected" if name == column else "{part}, its mean", part=say(PART[part]))
            figure.add_bar(
                x=[str(s.layer) for s in swaps],
                y=[getattr(s, name) for s in swaps],
                error_y={
                    "type": "data",
                    "array": [getattr(s, f"{name}_se") for s in swaps],
                    "thickness": 1.2,
                    "color": WHISKER,
                },
                name=words,
                marker={"color": colour, "pattern": {"shape": pattern, "fillmode": "overlay", "fgopacity": 0.9}},
                hovertemplate=say("{words}, layer %{{x}}: %{{y:.4f}} nats per token", words=words) + "<extra></extra>",
            )
    figure.update_xaxes(title=say("student layer"), type="category")
    figure.update_yaxes(title=say("{measure}, nats per token", measure="KL" if column == "kl" else "ΔCE"))
    return layout(figure, 340, barmode="group", margin={"l": 64, "r": 16, "t": 76, "b": 48})


def error_against_damage(
    injection: Injection, error: str, column: str, selected: tuple[str, int, int] | None = None
) -> go.Figure:
    """Draw the damage of each single head's swap (up) over its R² (across); ``selected`` gets a ring."""
    figure = go.Figure()
    errors = {(c.kind, c.layer, c.head): c for c in getattr(injection, error)}
    for kind, colour in KIND_COLOUR.items():
        swaps = [s for s in injection.swaps if s.head is not None and (s.kind, s.layer, s.head) in errors]
        pairs = [(errors[s.kind, s.layer, s.head], s) for s in swaps if s.kind == kind]
        if not pairs:
            continue
        rings = [2.5 if (s.kind, s.layer, s.head) == selected else 0 for _, s in pairs]
        figure.add_scatter(
            x=[1 - e.error for e, _ in pairs],
            y=[getattr(s, column) for _, s in pairs],
            error_y={"type": "data", "array": [getattr(s, f"{column}_se") for _, s in pairs], "thickness": 1},
            mode="markers",
            name=PART[kind],
            marker={"color": colour, "symbol": SYMBOL[kind], "size": 11, "line": {"color": "#000000", "width": rings}},
            customdata=[[s.layer, s.head] for _, s in pairs],
            hovertemplate=say(
                "{part} layer %{{customdata[0]}}, head %{{customdata[1]}}<br>R² %{{x:.3f}}, damage %{{y:.4f}}",
                part=PART[kind],
            )
            + "<extra></extra>",
        )
    figure.add_hline(y=0, line={"width": 1, "color": NEUTRAL})
    figure.update_xaxes(title="R²" if error == "projection" else say("R² of the attention output"))
    figure.update_yaxes(title=say("{measure}, nats per token", measure="KL" if column == "kl" else "ΔCE"))
    return layout(figure, 340, margin={"l": 64, "r": 16, "t": 40, "b": 48})
