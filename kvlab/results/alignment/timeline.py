"""Draw both token timelines of a document over bytes, and the map of a time rule between them."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kvlab.language import phrase, say
from kvlab.request.time_rules import known
from kvlab.results.alignment.data import EXACT, INSIDE, Alignment, Inspected, TokenView
from kvlab.results.alignment.strip import token_error
from kvlab.results.style import (
    INSIDE_COLOUR,
    KIND_COLOUR,
    KIND_DASH,
    KIND_NAME,
    LOWEST_SHOWN,
    NEUTRAL,
    SEGMENT_SHADE,
    STUDENT_COLOUR,
    TEACHER_COLOUR,
    finite_or_none,
    label,
    layout,
    visible,
    written,
)

TOP, BOTTOM = {"row": 1, "col": 1}, {"row": 2, "col": 1}
SHAPE = {"mode": "lines", "hoverinfo": "skip"}
GROUP_SHADE = "rgba(213,94,0,0.13)"
# Of student tokens by class, also told apart by solid and dashed borders.
CLASSES = {
    EXACT: (STUDENT_COLOUR, phrase("student token, exact")),
    INSIDE: (INSIDE_COLOUR, phrase("student token, inside a teacher token")),
}
FILLED = {None: 0.10, EXACT: 0.10, INSIDE: 0.30}  # opacity
MOST_TOKENS = 2000  # of a timeline in one figure
LAG_BINS = (  # upper end in bytes, colour, words
    (-1, "#B2182B", phrase("teacher has read ahead")),
    (0, "#9AA5B1", phrase("same byte")),
    (2, "#92C5DE", phrase("1–2 bytes behind")),
    (5, "#4393C3", phrase("3–5 bytes behind")),
    (10**9, "#2166AC", phrase("6 or more bytes behind")),
)


def rule_shown(alignment: Alignment) -> str:
    """Return the rule of the analysis; floor for a rule without a single map (rkv keeps other steps for each head)."""
    used = alignment.settings["time"]
    return used if used in alignment.timeline["rules"] else "floor"


def timeline(alignment: Alignment, number: int, rule: str, window: tuple[int, int] | None = None) -> go.Figure:
    """Draw teacher and student tokens as two rails over bytes, and R² of each student token beneath.

    Student tokens are coloured by class where the classes have maps of their own.
    A rule's map joins the rails, coloured by lag. Lines through both rails are exact borders; groups between them that
    are not one to one are shaded. R² is the mean over heads; of a token, 1 − squared error / variance of the head.
    Draws the tokens of ``window`` and half a window on either side to drag into, at most MOST_TOKENS of a model.
    """
    document = alignment.inspected[number]
    first, last = drawn_bytes(document, window)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.62, 0.38], vertical_spacing=0.06)
    _add_groups(figure, document, first, last)
    _add_links(figure, alignment, document, number, rule, first, last)
    for rail in _rails(alignment, number):
        _add_rail(figure, rail, [token for token in rail.tokens if first <= token.end <= last])
    for kind in ("key", "value"):
        error = token_error(alignment, number, kind)
        inside = (i for i, t in enumerate(document.student_tokens) if not t.special and first <= t.end <= last)
        content = [i for i in inside if not np.isnan(error[i])]
        figure.add_scatter(
            **BOTTOM,
            x=[document.student_tokens[i].end for i in content],
            y=[max(1 - float(error[i]), LOWEST_SHOWN) for i in content],
            mode="lines+markers",
            line={"shape": "vh", "width": 1.5, "color": KIND_COLOUR[kind], "dash": KIND_DASH[kind]},
            marker={"size": 5},
            name=say("{kind} R²", kind=KIND_NAME[kind]),
            customdata=[[visible(document.student_tokens[i]), written(1 - float(error[i]), 2)] for i in content],
            hovertemplate=say("{kind} “%{{customdata[0]}}” R² %{{customdata[1]}}", kind=KIND_NAME[kind])
            + "<extra></extra>",
        )
    start, end = window or (0, min(96, len(document.text.encode())))
    _add_segments(figure, document, start, end)
    figure.update_xaxes(range=[start - 1, end + 1], showgrid=False)
    figure.update_xaxes(title=say("byte of the text (UTF-8)"), row=2, col=1)
    rails = {"range": [-0.25, 1.55], "tickvals": [0, 1], "ticktext": [say("student"), say("teacher")]}
    figure.update_yaxes(**TOP, **rails, showgrid=False, zeroline=False, fixedrange=True)
    figure.update_yaxes(row=2, col=1, title=say("R², mean of heads"), range=[LOWEST_SHOWN, 1.05], fixedrange=True)
    return layout(figure, 490, dragmode="pan", margin={"l": 72, "r": 16, "t": 56, "b": 48})


def drawn_bytes(document: Inspected, window: tuple[int, int] | None) -> tuple[int, int]:
    """Return the first and last byte to draw: around the window, or of the whole document if it is not too long."""
    first, last = 0, len(document.text.encode())
    if window:
        room = (window[1] - window[0]) // 2
        first, last = max(0, window[0] - room), min(last, window[1] + room)
    for tokens in (document.teacher_tokens, document.student_tokens):
        ends = [token.end for token in tokens if first <= token.end <= last]
        if len(ends) > MOST_TOKENS:
            last = min(last, ends[MOST_TOKENS - 1])
    return first, last


def _add_groups(figure: go.Figure, document: Inspected, first: int, last: int) -> None:
    """Draw exact borders through both rails; shade and count the groups that are not one to one."""
    shown = [group for group in groups(document) if first <= group.end <= last]
    others = [group for group in shown if (group.teacher, group.student) != (1, 1)]
    boxes = [x for group in others for x in (group.start, group.start, group.end, group.end, group.start, None)]
    lines = [x for group in shown for x in (group.end, group.end, None)]
    if others:
        figure.add_scatter(
            **TOP,
            x=boxes,
            y=[0.13, 0.87, 0.87, 0.13, 0.13, None] * len(others),
            **SHAPE,
            line={"width": 0},
            fill="toself",
            fillcolor=GROUP_SHADE,
            name=say("not one to one, teacher : student"),
        )
        figure.add_scatter(
            **TOP,
            x=[(group.start + group.end) / 2 for group in others],
            y=[0.5] * len(others),
            mode="text",
            text=[f"{group.teacher}:{group.student}" for group in others],
            textfont={"size": 11},
            customdata=[[g.teacher, g.student, g.start, g.end] for g in others],
            hovertemplate=say(
                "%{customdata[0]} teacher and %{customdata[1]} student tokens for bytes "
                "%{customdata[2]}–%{customdata[3]}"
            )
            + "<extra></extra>",
            showlegend=False,
        )
    figure.add_scatter(
        **TOP,
        x=lines,
        y=[-0.2, 1.2, None] * len(shown),
        **SHAPE,
        name=say("exact border"),
        line={"color": NEUTRAL, "width": 1, "dash": "dot"},
    )


def _add_segments(figure: go.Figure, document: Inspected, start: int, end: int) -> None:
    """Draw segments as bands behind both rows, with their names at the top, where they begin in the window."""
    for name, first, last in document.segments:
        if last <= first:
            continue
        shade = f"rgba(110,118,129,{SEGMENT_SHADE.get(name, 0.1)})"
        figure.add_vrect(x0=first, x1=last, fillcolor=shade, line_width=0, layer="below", row="all", col=1)
        left = max(first, start) if last > start else first
        anchor = {"xanchor": "left", "yanchor": "top", "showarrow": False, "font": {"size": 12}}
        figure.add_annotation(**TOP, x=left, y=1.52, text=say(name), **anchor)


def _add_links(
    figure: go.Figure, alignment: Alignment, document: Inspected, number: int, rule: str, first: int, last: int
) -> None:
    index = alignment.arrays[f"document.{number}.index.{rule}"]
    lag = alignment.arrays[f"document.{number}.lag.{rule}"]
    ends = np.array([token.end for token in document.teacher_tokens], dtype=float)
    lowest = -(10**9)
    for upper, colour, words in LAG_BINS:
        x: list[float | None] = []
        y: list[float | None] = []
        for i, token in enumerate(document.student_tokens):
            if np.isnan(index[i]) or not lowest < lag[i] <= upper or not first <= token.end <= last:
                continue
            x += [float(np.interp(index[i], np.arange(len(ends)), ends)), token.end, None]
            y += [0.86, 0.14, None]
        lowest = upper
        if x:
            line = {"color": colour, "width": 1.6}
            figure.add_scatter(**TOP, **SHAPE, x=x, y=y, line=line, name=say(words))


class Rail(NamedTuple):
    """Tokens of one colour at one height."""

    tokens: Sequence[TokenView]
    height: float
    colour: str
    name: str
    row_class: int | None = None  # of student tokens, where the classes have maps of their own


def _rails(alignment: Alignment, number: int) -> list[Rail]:
    document, classes = alignment.inspected[number], alignment.row_class(number)
    rails = [Rail(document.teacher_tokens, 1.0, TEACHER_COLOUR, say("teacher token"))]
    if classes is None:
        return [*rails, Rail(document.student_tokens, 0.0, STUDENT_COLOUR, say("student token"))]
    for row_class, (colour, words) in CLASSES.items():
        tokens = [token for token, of in zip(document.student_tokens, classes, strict=True) if of == row_class]
        rails.append(Rail(tokens, 0.0, colour, say(words), row_class))
    return rails


def _add_rail(figure: go.Figure, rail: Rail, tokens: list[TokenView]) -> None:
    """Draw tokens as boxes from their first to their last byte, with their text if it fits."""
    content = [token for token in tokens if token.end > token.start]
    low, high, colour = rail.height - 0.13, rail.height + 0.13, rail.colour
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    figure.add_scatter(
        **TOP,
        x=[x for token in content for x in (token.start, token.start, token.end, token.end, token.start, None)],
        y=[low, high, high, low, low, None] * len(content),
        **SHAPE,
        name=rail.name,
        showlegend=rail.row_class is not None,
        line={"color": colour, "width": 1, "dash": "dash" if rail.row_class == INSIDE else "solid"},
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},{FILLED[rail.row_class]})",
    )
    figure.add_scatter(
        **TOP,
        x=[(token.start + token.end) / 2 for token in content],
        y=[rail.height] * len(content),
        mode="text",
        text=[label(token) for token in content],
        textfont={"size": 11},
        customdata=[[visible(token), token.start, token.end] for token in content],
        hovertemplate=say("{name} “%{{customdata[0]}}”<br>bytes %{{customdata[1]}}–%{{customdata[2]}}", name=rail.name)
        + "<extra></extra>",
        name=rail.name,
        showlegend=False,
    )


def index_maps(alignment: Alignment, number: int) -> go.Figure:
    """Draw every rule's map: student step across, up how far its (mean) teacher step is beyond an even pace.

    At an even pace both models begin and end together; without it all rules would lie on one diagonal. Thinned to
    MOST_TOKENS steps.
    """
    figure = go.Figure()
    document = alignment.inspected[number]
    every = -(-len(document.student_tokens) // MOST_TOKENS)
    pace = np.linspace(0, len(document.teacher_tokens) - 1, len(document.student_tokens))
    for rule in alignment.timeline["rules"]:
        index = alignment.arrays[f"document.{number}.index.{rule}"]
        dots, colour = known(rule).own_tokens, known(rule).colour
        figure.add_scatter(
            x=list(range(0, len(index), every)),
            y=finite_or_none((index - pace)[::every]),
            customdata=finite_or_none(index[::every]),
            mode="markers" if dots else "lines",
            marker={"size": 4, "color": colour},
            line={"width": 1.8, "color": colour, "shape": "linear" if known(rule).mixes else "hv"},
            name=rule,
            hovertemplate=say("{rule}: student token %{{x}} ← teacher step %{{customdata:.1f}}", rule=rule)
            + "<extra></extra>",
        )
    figure.update_xaxes(title=say("student token"))
    figure.update_yaxes(title=say("teacher steps beyond an even pace"))
    return layout(figure, 340)


class Group(NamedTuple):
    """The smallest run of bytes between two exact borders, with the numbers of teacher and student tokens in it."""

    start: int  # byte
    end: int  # byte, exclusive; an exact border
    teacher: int
    student: int

    @property
    def shape(self) -> str:
        """Return its name in ``shapes``."""
        return ":".join("1" if count == 1 else "n" for count in (self.teacher, self.student))


def groups(document: Inspected) -> list[Group]:
    """Return the groups of a document. Invariant: they tile the text as far as both models have read it."""
    ends_t, ends_s = (
        np.array([token.end for token in tokens if not token.special and token.end > 0], dtype=int)
        for tokens in (document.teacher_tokens, document.student_tokens)
    )
    borders = np.intersect1d(ends_t, ends_s)
    counts_t, counts_s = (np.diff(np.searchsorted(e, borders, side="right"), prepend=0) for e in (ends_t, ends_s))
    starts = [0, *borders[:-1].tolist()] if len(borders) else []
    return [Group(*fields) for fields in zip(starts, borders.tolist(), counts_t.tolist(), counts_s.tolist())]


def shapes(document: Inspected) -> Counter[str]:
    """Count the groups of "1:1", "1:n", "n:1" and "n:n", teacher : student."""
    return Counter(group.shape for group in groups(document))
