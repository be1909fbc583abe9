"""Draw the heads of an analysis: error maps, controls, contributions, and the worst tokens of a head."""

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from kvlab.language import phrase, say
from kvlab.request.time_rules import known
from kvlab.results.alignment.data import Alignment, HeadScore, Inspected, TokenView
from kvlab.results.alignment.so_far import SoFar
from kvlab.results.cells import Cell, cell_map
from kvlab.results.memo import once
from kvlab.results.style import (
    ERROR_SCALE,
    KIND_COLOUR,
    KIND_NAME,
    NEUTRAL,
    TEACHER_COLOUR,
    VERDICT_MARKS,
    layout,
    plus_minus,
    visible,
    written,
)

DARK_BELOW = 0.45  # up to this error, white is easier to read than black on the map's colours
LOWEST_SHOWN = -1.0  # of R^2; a lower bar is cut, and its number written
CLASS_COLOUR, WITH_OWN_COLOUR = "rgba(0,114,178,0.5)", "#56B4E9"  # of TEACHER_COLOUR, and Okabe and Ito 2008
ERROR_COLOURS = {"colorscale": ERROR_SCALE, "zmin": 0.0, "zmax": 1.0}
ERROR_TICKS = [0, 0.25, 0.5, 0.75, 1]
CONTRIBUTIONS = (  # array, words, colour
    ("alone", phrase("R² from this head alone"), "#BFD7EA"),
    ("without", phrase("R² lost without it"), TEACHER_COLOUR),
)


def error_heatmap(alignment: Alignment, kind: str, selected: tuple[int, int] | None = None) -> go.Figure:
    """Draw the projection error per student layer and KV head. ``selected`` is (layer as numbered, head)."""
    title = say("{kind} projection error, held out", kind=KIND_NAME[kind])
    return cell_map(alignment, _error_cells(alignment, kind), _error_colours(), title, selected)


def heatmap_so_far(scores: SoFar, kind: str) -> go.Figure:
    """Draw the first scores of a running analysis, on the scale of ``error_heatmap``."""
    cells = []
    for layer, heads in zip(scores.student["kv_layers"], scores.r2[kind], strict=True):
        for head, r2 in enumerate(heads):
            name = say("{kind} layer {layer}, head {head}", kind=KIND_NAME[kind], layer=layer, head=head)
            words = f"{name}<br>" + say("error so far {error:.3f}", error=1 - r2)
            cells.append(_error_cell(layer, head, 1 - r2, words))
    return cell_map(scores, cells, _error_colours(), say("{kind} projection error so far", kind=KIND_NAME[kind]))


def _error_colours() -> dict:
    bar = {"title": {"text": say("error<br>1 − R²")}, "thickness": 12, "tickvals": ERROR_TICKS}
    return {**ERROR_COLOURS, "colorbar": bar}


@once
def _error_cells(alignment: Alignment, kind: str) -> list[Cell]:
    return [
        _error_cell(score.layer, score.head, score.error, hover(score), VERDICT_MARKS[score.beats_controls])
        for score in alignment.heads
        if score.kind == kind
    ]


def _error_cell(layer: int, head: int, error: float, words: str, mark: str = "") -> Cell:
    """``words``: for the pointer on the cell."""
    measured = isfinite(error)
    return Cell(
        layer=layer,
        head=head,
        value=error if measured else None,
        words=f"{error:.2f}" if measured else "–",
        mark=mark if measured else "",
        hover=words,
        dark=error < DARK_BELOW,
    )


def hover(score: HeadScore) -> str:
    """Describe one cell in words."""
    lines = [
        say("{kind} layer {layer}, head {head}", kind=KIND_NAME[score.kind], layer=score.layer, head=score.head),
        say("error {error:.3f} (R² {r2:.3f} ± {se:.3f})", error=score.error, r2=score.r2, se=score.se),
        *_hover_classes(score),
        *_hover_own(score),
        say("teacher’s token R² {r2:.3f}", r2=score.r2_identity),
        *([say("random weights R² {r2:.3f}", r2=score.r2_random)] if isfinite(score.r2_random) else []),
        say("shuffled rows R² {r2:.3f}", r2=score.r2_shuffled),
        say("n = {n:,} tokens", n=score.n),
    ]
    return "<br>".join(lines)


def _hover_classes(score: HeadScore) -> list[str]:
    if not score.has_classes:
        return []
    inside = say("inside a teacher token R² {r2:.3f}, n = {n:,}", r2=score.r2_inside, n=score.n_inside)
    return [say("exact tokens R² {r2:.3f}, n = {n:,}", r2=score.r2_exact, n=score.n_exact), inside]


def _hover_own(score: HeadScore) -> list[str]:
    lines = []
    if isfinite(score.r2_with_own):
        lines.append(say("teacher + own token R² {r2:.3f}", r2=score.r2_with_own))
    if isfinite(score.r2_own):
        lines.append(say("student’s own tokens, no teacher R² {r2:.3f}", r2=score.r2_own))
    if isfinite(score.added):
        added = written(score.added, sign="+") + plus_minus(score.added_se)
        lines.append(say("the teacher adds {added} to them", added=added))
    return lines


class Source(NamedTuple):
    """A bar of R²: what one source explains of a head. NaN if missing."""

    name: str
    r2: float
    se: float
    n: int
    colour: str


def sources(score: HeadScore) -> list[Source]:
    """Return what explains a head: the teacher, on all tokens and by class, with the own token, and the controls."""
    none = float("nan")
    bars = [Source(say("teacher"), score.r2, score.se, score.n, TEACHER_COLOUR)]
    if score.has_classes:
        bars += [
            Source(say("teacher, exact tokens"), score.r2_exact, score.exact_se, score.n_exact, CLASS_COLOUR),
            Source(say("teacher, tokens inside"), score.r2_inside, score.inside_se, score.n_inside, CLASS_COLOUR),
        ]
    return [
        *bars,
        Source(say("teacher + own token"), score.r2_with_own, score.with_own_se, score.n, WITH_OWN_COLOUR),
        Source(say("student’s own tokens"), score.r2_own, score.own_se, score.n, NEUTRAL),
        Source(say("teacher’s token"), score.r2_identity, score.identity_se, score.n, NEUTRAL),
        Source(say("random weights"), score.r2_random, score.random_se, score.n_control, NEUTRAL),
        Source(say("group mean"), score.r2_group_mean, none, score.n, NEUTRAL),
        Source(say("shuffled rows"), score.r2_shuffled, score.shuffled_se, score.n_control, NEUTRAL),
        Source(say("train mean"), 0.0, none, score.n, NEUTRAL),
    ]


def controls(score: HeadScore) -> go.Figure:
    """Draw R² of one head by every source; the controls are grey."""
    bars = [bar for bar in sources(score) if isfinite(bar.r2)]
    shown = [max(bar.r2, LOWEST_SHOWN) for bar in bars]
    values = [written(bar.r2) for bar in bars]
    errors = [bar.se if isfinite(bar.se) else None for bar in bars]
    figure = go.Figure(
        go.Bar(
            x=shown,
            y=[f"{bar.name}  <b>{value}</b>{plus_minus(bar.se)}" for bar, value in zip(bars, values)],
            orientation="h",
            marker_color=[bar.colour for bar in bars],
            error_x={"type": "data", "array": errors, "thickness": 1.5},
            customdata=[[bar.name, value + plus_minus(bar.se), f"{bar.n:,}"] for bar, value in zip(bars, values)],
            hovertemplate=say("%{customdata[0]}: R² %{customdata[1]}, n = %{customdata[2]} tokens") + "<extra></extra>",
        )
    )
    low = min(0.0, *shown) - 0.02
    figure.add_vline(x=0, line={"width": 1, "color": NEUTRAL})
    title = say("held-out R² (whisker: ± 1 jackknife s.e.)")
    figure.update_xaxes(title=title, range=[low, max(1.0, *shown)], zeroline=False)
    figure.update_yaxes(title={"text": say("explained by"), "standoff": 12}, autorange="reversed")
    return layout(figure, 72 + 33 * len(bars), margin={"l": 256, "r": 16, "t": 8, "b": 44})


def contribution_table(alignment: Alignment, kind: str, layer: int, head: int) -> pd.DataFrame:
    """Return one row per teacher head: R² lost without it, and R² of it alone."""
    position = alignment.layer_position(layer)
    r2 = {name: alignment.arrays[f"contribution.{kind}.{name}"][position, head] for name in ("without", "alone")}
    return pd.DataFrame({"teacher_head": range(len(r2["alone"]))} | r2).dropna(ignore_index=True)


def contributions(alignment: Alignment, kind: str, layer: int, head: int) -> go.Figure:
    """Draw the teacher heads behind a student head: held-out R² lost without each, and R² of each alone."""
    position = alignment.layer_position(layer)
    figure = go.Figure()
    for name, words, colour in CONTRIBUTIONS:
        values = alignment.arrays[f"contribution.{kind}.{name}"][position, head]
        figure.add_bar(
            x=[str(teacher_head) for teacher_head in range(len(values))],
            y=values.tolist(),
            name=say(words),
            marker_color=colour,
            hovertemplate=say("teacher head %{{x}}<br>{words}: %{{y:.3f}}", words=say(words)) + "<extra></extra>",
        )
    figure.update_xaxes(title=say("teacher KV head"), type="category")
    figure.update_yaxes(title=say("held-out R²"))
    return layout(figure, 270, barmode="group", margin={"l": 56, "r": 16, "t": 32, "b": 44})


def token_errors(
    alignment: Alignment, number: int, kind: str, layer: int, head: int, window: tuple[int, int] | None = None
) -> go.Figure:
    """Draw the error of one head along the student's tokens of a document; ``window``: first and last token drawn."""
    document = alignment.inspected[number]
    error = alignment.arrays[f"document.{number}.error.{kind}"][alignment.layer_position(layer), head]
    figure = go.Figure()
    positions = np.arange(len(error))
    scored = np.array(document.scored, dtype=bool)
    first, last = window or (0, len(error) - 1)
    inside = (positions >= first) & (positions <= last)
    left_out = say("left out: sink or special token")
    for group, name, colour in ((scored, say("scored"), KIND_COLOUR[kind]), (~scored, left_out, NEUTRAL)):
        drawn = np.flatnonzero(group & inside & ~np.isnan(error))
        if not len(drawn):
            continue
        figure.add_bar(
            x=drawn.tolist(),
            y=error[drawn].tolist(),
            name=name,
            marker_color=colour,
            customdata=[visible(document.student_tokens[i]) for i in drawn],
            hovertemplate=say("token %{x} “%{customdata}”<br>error %{y:.2f}") + "<extra></extra>",
        )
    figure.add_hline(y=1, line={"dash": "dot", "width": 1.5, "color": NEUTRAL})
    shown = error[scored & ~np.isnan(error)]
    top = max(1.2, float(np.quantile(shown, 0.99)) * 1.1) if len(shown) else 1.2
    figure.update_xaxes(title=say("student token"), range=[first - 0.5, last + 0.5])
    figure.update_yaxes(title=say("error (1 = train mean)"), range=[0, top])
    return layout(figure, 260, bargap=0.1, margin={"l": 56, "r": 16, "t": 32, "b": 44})


CONTEXT = 36  # characters of the text on either side


def worst_tokens(
    alignment: Alignment, kind: str, layer: int, head: int, numbers: Sequence[int], count: int
) -> pd.DataFrame:
    """Return the ``count`` scored tokens of these documents with the largest error, the worst first."""
    position = alignment.layer_position(layer)
    candidates = []  # (error, document, token)
    for number in numbers:
        document = alignment.inspected[number]
        error = alignment.arrays[f"document.{number}.error.{kind}"][position, head]
        scored = np.flatnonzero(np.array(document.scored, dtype=bool) & ~np.isnan(error))
        worst = scored[np.argsort(-error[scored], kind="stable")[:count]]
        candidates += [(float(error[i]), number, int(i)) for i in worst]
    candidates.sort(key=lambda candidate: -candidate[0])
    columns = ["document", "token", "byte", "error", "before", "text", "after", "read_from"]
    return pd.DataFrame([_row(alignment, *candidate) for candidate in candidates[:count]], columns=columns)


def _row(alignment: Alignment, error: float, number: int, i: int) -> list:
    document = alignment.inspected[number]
    token = document.student_tokens[i]
    before, after = context(document.text, token)
    return [document.id, i, token.start, error, before, visible(token), after, read_from(alignment, number, i)]


def context(text: str, token: TokenView) -> tuple[str, str]:
    """Return the text before and after a token, cut to CONTEXT characters, without halves of a character."""
    data = text.encode()
    before, after = data[: token.start].decode(errors="ignore"), data[token.end :].decode(errors="ignore")
    cut_before, cut_after = "…" * (len(before) > CONTEXT), "…" * (len(after) > CONTEXT)
    return cut_before + visible(before[-CONTEXT:]), visible(after[:CONTEXT]) + cut_after


def read_from(alignment: Alignment, number: int, i: int) -> str:
    """Return the teacher tokens whose cache stands for student token ``i`` under the rule of the analysis."""
    rule, document = alignment.settings["time"], alignment.inspected[number]
    if rule not in alignment.timeline["rules"]:
        return say("other steps for each teacher head")
    steps = _steps(document, rule, i, float(alignment.arrays[f"document.{number}.index.{rule}"][i]))
    return " ".join(visible(document.teacher_tokens[step]) for step in steps)


def _steps(document: Inspected, rule: str, i: int, index: float) -> list[int]:
    if np.isnan(index):
        return []
    if known(rule).mixes == "bytes":
        start, end = document.student_tokens[i].start, document.student_tokens[i].end
        tokens = enumerate(document.teacher_tokens)
        return [n for n, token in tokens if not token.special and token.start < end and token.end > start]
    if known(rule).mixes == "neighbours":
        return sorted({int(np.floor(index)), int(np.ceil(index))})
    return [round(index)]
