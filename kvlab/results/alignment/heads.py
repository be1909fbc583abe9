"""Draw the heads of an analysis: maps of gain and R², controls, contributions, and the worst tokens of a head."""

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from kvlab.language import phrase, say
from kvlab.request.time_rules import known
from kvlab.results.alignment.data import LEAST_GAIN, Alignment, HeadScore, Inspected, TokenView
from kvlab.results.alignment.so_far import SoFar
from kvlab.results.cells import Cell, cell_map, diverging
from kvlab.results.memo import once
from kvlab.results.style import (
    GAIN_SCALE,
    KIND_COLOUR,
    KIND_HATCH,
    KIND_NAME,
    LOWEST_SHOWN,
    NEUTRAL,
    R2_SCALE,
    TEACHER_COLOUR,
    VERDICT_MARKS,
    WHISKER,
    layout,
    plus_minus,
    visible,
    written,
)

DARK_FROM = 0.55  # of R², from which on white is easier to read than black on the map's colours
WHITE_ON_GREEN, WHITE_ON_BROWN = 0.68, 0.7  # shares of the range of the gains, from which on that reads better
LEAST_RANGE = 0.1  # of the gains' colours; a smaller range would paint noise
CLASS_COLOUR, WITH_OWN_COLOUR = "rgba(0,114,178,0.5)", "#56B4E9"  # of TEACHER_COLOUR, and Okabe and Ito 2008
R2_COLOURS = {"colorscale": R2_SCALE, "zmin": 0.0, "zmax": 1.0}
R2_TICKS = [0, 0.25, 0.5, 0.75, 1]
CONTRIBUTIONS = (  # array, words, colour
    ("alone", phrase("R² from this head alone"), "#BFD7EA"),
    ("without", phrase("R² lost without it"), TEACHER_COLOUR),
)


def gain_map(alignment: Alignment, kind: str, selected: tuple[int, int] | None = None) -> go.Figure:
    """Draw the gain in held-out R² over the strongest control per student layer and KV head.

    White is none, grey a gain that is not told from none. ``selected`` is (layer as numbered, head).
    """
    limit = _gain_limit(alignment)
    colours = diverging(GAIN_SCALE, limit, say("gain<br>in R²"))
    title = say("{kind}: R² beyond the strongest control", kind=KIND_NAME[kind])
    return cell_map(alignment, _gain_cells(alignment, kind, limit), colours, title, selected)


@once
def _gain_limit(alignment: Alignment) -> float:
    gains = [score.strongest.r2 for score in alignment.heads if score.beats_controls]
    return max([LEAST_RANGE, *gains])


@once
def _gain_cells(alignment: Alignment, kind: str, limit: float) -> list[Cell]:
    cells = []
    for score in alignment.heads:
        if score.kind != kind:
            continue
        gain = score.strongest
        told = gain is not None and score.beats_controls is not None and abs(gain.r2) > max(gain.error, LEAST_GAIN)
        cells.append(
            Cell(
                layer=score.layer,
                head=score.head,
                value=None if gain is None else gain.r2,
                words="–" if gain is None else written(gain.r2, 2, "+"),
                mark="" if gain is None else VERDICT_MARKS[score.beats_controls],
                hover=hover(score),
                dark=told and (gain.r2 > WHITE_ON_GREEN * limit or gain.r2 < -WHITE_ON_BROWN * limit),
                grey=gain is not None and not told,
            )
        )
    return cells


def r2_map(alignment: Alignment, kind: str, selected: tuple[int, int] | None = None) -> go.Figure:
    """Draw the held-out R² per student layer and KV head. ``selected`` is (layer as numbered, head)."""
    title = say("{kind}: R², explained of held-out text", kind=KIND_NAME[kind])
    return cell_map(alignment, _r2_cells(alignment, kind), r2_colours(), title, selected)


def map_so_far(scores: SoFar, kind: str) -> go.Figure:
    """Draw the first scores of a running analysis, on the scale of ``r2_map``."""
    cells = []
    for layer, heads in zip(scores.student["kv_layers"], scores.r2[kind], strict=True):
        for head, r2 in enumerate(heads):
            name = say("{kind} layer {layer}, head {head}", kind=KIND_NAME[kind], layer=layer, head=head)
            words = f"{name}<br>" + say("R² so far {r2:.3f}", r2=r2)
            cells.append(r2_cell(layer, head, r2, words))
    return cell_map(scores, cells, r2_colours(), say("{kind}: R² so far", kind=KIND_NAME[kind]))


def r2_colours() -> dict:
    """Return the ``colours`` of a map of R²."""
    return {**R2_COLOURS, "colorbar": {"title": {"text": "R²"}, "thickness": 12, "tickvals": R2_TICKS}}


@once
def _r2_cells(alignment: Alignment, kind: str) -> list[Cell]:
    return [
        r2_cell(score.layer, score.head, score.r2, hover(score), VERDICT_MARKS[score.beats_controls])
        for score in alignment.heads
        if score.kind == kind
    ]


def r2_cell(layer: int, head: int, r2: float, words: str, mark: str = "") -> Cell:
    """Return a cell of a map of R². ``words``: for the pointer on the cell."""
    measured = isfinite(r2)
    return Cell(
        layer=layer,
        head=head,
        value=r2 if measured else None,
        words=written(r2, 2),
        mark=mark if measured else "",
        hover=words,
        dark=r2 > DARK_FROM,
    )


def hover(score: HeadScore) -> str:
    """Describe one cell in words."""
    lines = [
        say("{kind} layer {layer}, head {head}", kind=KIND_NAME[score.kind], layer=score.layer, head=score.head),
        say("R² {r2}", r2=written(score.r2) + plus_minus(score.se)),
        *_hover_gain(score),
        *_hover_classes(score),
        *_hover_own(score),
        say("teacher’s token R² {r2:.3f}", r2=score.r2_identity),
        *([say("random weights R² {r2:.3f}", r2=score.r2_random)] if isfinite(score.r2_random) else []),
        say("shuffled rows R² {r2:.3f}", r2=score.r2_shuffled),
        say("n = {n:,} tokens", n=score.n),
    ]
    return "<br>".join(lines)


def _hover_gain(score: HeadScore) -> list[str]:
    gain = score.strongest
    if gain is None:
        return []
    return [
        say("{gain} over {control}", gain=written(gain.r2, sign="+") + plus_minus(gain.se), control=say(gain.control))
    ]


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
            error_x={"type": "data", "array": errors, "thickness": 1.5, "color": WHISKER},
            customdata=[[bar.name, value + plus_minus(bar.se), f"{bar.n:,}"] for bar, value in zip(bars, values)],
            hovertemplate=say("%{customdata[0]}: R² %{customdata[1]}, n = %{customdata[2]} tokens") + "<extra></extra>",
        )
    )
    low = min(0.0, *shown) - 0.02
    figure.add_vline(x=0, line={"width": 1, "color": NEUTRAL})
    title = say("held-out R² ± 1 s.e.")
    figure.update_xaxes(title=title, range=[low, max(1.0, *shown)], zeroline=False)
    figure.update_yaxes(autorange="reversed")
    return layout(figure, 60 + 25 * len(bars), margin={"l": 232, "r": 16, "t": 4, "b": 44})


MEANS = {  # column of the summary -> words; the sources before the controls
    "r2_with_own": phrase("teacher + own token"),
    "r2": phrase("teacher"),
    "r2_own": phrase("student’s own tokens"),
    "r2_identity": phrase("teacher’s token"),
    "r2_random": phrase("random weights"),
    "r2_group_mean": phrase("group mean"),
    "r2_shuffled": phrase("shuffled rows"),
}
OF_TEACHER = ("r2_with_own", "r2")


def mean_sources(alignment: Alignment, height: int) -> go.Figure:
    """Draw R² of K and of V by source and control, means over heads; the controls are paler."""
    summary, figure = alignment.summary(), go.Figure()
    columns = [name for name in MEANS if any(isfinite(means[name]) for means in summary.values())]
    for kind, colour in KIND_COLOUR.items():
        means = [summary[kind][name] for name in columns]
        figure.add_bar(
            x=[max(mean, LOWEST_SHOWN) for mean in means],
            y=[say(MEANS[name]) for name in columns],
            orientation="h",
            name=KIND_NAME[kind],
            marker={
                "color": colour,
                "opacity": [1.0 if name in OF_TEACHER else 0.45 for name in columns],
                "pattern": {"shape": KIND_HATCH[kind], "fillmode": "overlay", "fgopacity": 0.6},
            },
            text=[written(mean, 2) for mean in means],
            textposition="outside",
            hovertemplate=say("{kind}, %{{y}}: R² %{{text}}", kind=KIND_NAME[kind]) + "<extra></extra>",
        )
    figure.add_vline(x=0, line={"width": 1, "color": NEUTRAL})
    lowest = max(LOWEST_SHOWN, min(0.0, *(means[name] for means in summary.values() for name in columns)))
    room = 0.15  # for the number outside a bar
    bounds = [lowest - room if lowest < 0 else 0, 1 + room]
    figure.update_xaxes(title=say("held-out R², mean over heads"), zeroline=False, range=bounds)
    figure.update_yaxes(autorange="reversed")
    return layout(figure, height, barmode="group", margin={"l": 150, "r": 16, "t": 28, "b": 48})


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


def token_scores(
    alignment: Alignment, number: int, kind: str, layer: int, head: int, window: tuple[int, int] | None = None
) -> go.Figure:
    """Draw R² of one head along the student's tokens of a document; ``window``: first and last token drawn.

    Of one token it is 1 less its squared error over the head's variance. A bar below ``LOWEST_SHOWN`` is cut.
    """
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
            y=np.maximum(1 - error[drawn], LOWEST_SHOWN).tolist(),
            name=name,
            marker_color=colour,
            customdata=[[visible(document.student_tokens[i]), written(1 - float(error[i]), 2)] for i in drawn],
            hovertemplate=say("token %{x} “%{customdata[0]}”<br>R² %{customdata[1]}") + "<extra></extra>",
        )
    figure.add_hline(y=0, line={"width": 1.5, "color": NEUTRAL})
    figure.update_xaxes(title=say("student token"), range=[first - 0.5, last + 0.5])
    figure.update_yaxes(title=say("R² (0 = train mean)"), range=[LOWEST_SHOWN - 0.05, 1.05])
    return layout(figure, 260, bargap=0.1, margin={"l": 56, "r": 16, "t": 32, "b": 44})


CONTEXT = 36  # characters of the text on either side


def worst_tokens(
    alignment: Alignment, kind: str, layer: int, head: int, numbers: Sequence[int], count: int
) -> pd.DataFrame:
    """Return the ``count`` scored tokens of these documents with the lowest R², the worst first."""
    position = alignment.layer_position(layer)
    candidates = []  # (error, document, token)
    for number in numbers:
        document = alignment.inspected[number]
        error = alignment.arrays[f"document.{number}.error.{kind}"][position, head]
        scored = np.flatnonzero(np.array(document.scored, dtype=bool) & ~np.isnan(error))
        worst = scored[np.argsort(-error[scored], kind="stable")[:count]]
        candidates += [(float(error[i]), number, int(i)) for i in worst]
    candidates.sort(key=lambda candidate: -candidate[0])
    columns = ["document", "token", "byte", "r2", "before", "text", "after", "read_from"]
    return pd.DataFrame([_row(alignment, *candidate) for candidate in candidates[:count]], columns=columns)


def _row(alignment: Alignment, error: float, number: int, i: int) -> list:
    document = alignment.inspected[number]
    token = document.student_tokens[i]
    before, after = context(document.text, token)
    return [document.id, i, token.start, 1 - error, before, visible(token), after, read_from(alignment, number, i)]


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
