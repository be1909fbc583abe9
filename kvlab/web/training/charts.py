"""Charts of training runs: one as it goes, several over each other.

The curves of a run as Altair charts, which keep their zoom while they grow. Knows no page.

The words of a chart's specification must not change while it grows: another specification is another chart.

Several training runs in one figure: one metric, as logged and smoothed, against the step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from math import isfinite

import altair as alt
import pandas as pd
import streamlit as st

from kvlab.language import phrase, say
from kvlab.results.style import KIND_COLOUR, NEUTRAL, STUDENT_COLOUR
from kvlab.runs.history import Row
from kvlab.runs.metrics import Table, curve, smoothed
from kvlab.web import language
from kvlab.web.training import source, words
from kvlab.web.widgets import GIB, plain

MOST_POINTS = 600  # of a line; of more, the least and the greatest of each stretch are drawn
HEIGHT = 260
ZOOM = "zoom"  # the selection that a page keeps, so that it outlives new points
# name in metrics.jsonl -> name shown, colour (Okabe and Ito 2008)
CE = {"ce": ("CE", "#0072B2")}
TERMS = {
    "loss": (phrase("total"), NEUTRAL),
    "kv_key": ("KV K", KIND_COLOUR["key"]),
    "kv_value": ("KV V", KIND_COLOUR["value"]),
    "entropy": (phrase("entropy"), "#E69F00"),
}
TEACHERS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#D55E00", NEUTRAL)


def terms(table: Table, shown: dict[str, tuple[str, str]], unit: str) -> alt.Chart | None:
    """Loss terms over steps, raw (thin) and smoothed (thick); None while none of them has a number."""
    there = {n: (say(label), c) for n, (label, c) in shown.items() if any(map(math.isfinite, table.column(n)))}
    if not there:
        return None
    steps, rows = table.column("step"), []
    raw, thick = say("raw"), say("smoothed")
    for name, (label, _) in there.items():
        values = table.column(name)
        for how, line in ((raw, values), (thick, smoothed(values))):
            rows += [{"step": x, "value": y, "term": label, "line": how} for x, y in thinned(steps, line)]
    colour = alt.Color(
        "term:N",
        scale=alt.Scale(domain=[label for label, _ in there.values()], range=[c for _, c in there.values()]),
        legend=_legend() if len(there) > 1 else None,
    )
    names = [thick, raw]
    return _zoomable(
        alt.Chart(pd.DataFrame(rows))
        .mark_line()
        .encode(
            x=_steps_axis(),
            y=alt.Y("value:Q", title=unit, scale=alt.Scale(zero=False)),
            color=colour,
            opacity=alt.Opacity("line:O", scale=alt.Scale(domain=names, range=[1, 0.35]), legend=None),
            strokeWidth=alt.StrokeWidth("line:O", scale=alt.Scale(domain=names, range=[2.2, 1]), legend=None),
            tooltip=[
                alt.Tooltip("term:N", title=say("term")),
                alt.Tooltip("line:N", title=say("line")),
                _step_told(),
                alt.Tooltip("value:Q", title=say("value"), format=".4f"),
            ],
        )
    )


def memory(table: Table, limit: float) -> tuple[alt.Chart | alt.LayerChart | None, str]:
    """Memory in use over time -> chart and whose it is; on a GPU with a line at ``limit``, a share of its memory.

    The machine's limit is left out of a chart of the process alone, which it would press flat.
    """
    what, times, used = curve(table)
    points = thinned(times, [value / GIB for value in used])
    if not points:
        return None, what
    frame = pd.DataFrame(points, columns=["seconds", "gib"])
    line = (
        alt.Chart(frame)
        .mark_area(line={"color": STUDENT_COLOUR}, color=STUDENT_COLOUR, opacity=0.18, interpolate="step-after")
        .encode(
            x=alt.X("seconds:Q", title=say("seconds of work"), axis=alt.Axis(format="d", tickMinStep=1)),
            y=alt.Y("gib:Q", title="GiB"),
            tooltip=[
                alt.Tooltip("seconds:Q", title=say("seconds"), format=".0f"),
                alt.Tooltip("gib:Q", title="GiB", format=".2f"),
            ],
        )
    )
    totals = [total for total in table.column("device_total") if math.isfinite(total) and total > 0]
    layers = [line]
    if what == "device" and totals:
        words = say("{limit:.0%} of {total:.0f} GiB", limit=limit, total=totals[-1] / GIB)
        rule = pd.DataFrame({"gib": [limit * totals[-1] / GIB], "words": [words]})
        base = alt.Chart(rule).encode(y="gib:Q")
        layers.append(base.mark_rule(strokeDash=[6, 4], color=NEUTRAL, strokeWidth=1.5))
        layers.append(base.mark_text(align="left", dx=4, dy=-6, color=NEUTRAL).encode(x=alt.value(0), text="words:N"))
    return _zoomable(alt.layer(*layers) if len(layers) > 1 else line), what


def router(table: Table, teachers: Sequence[str]) -> alt.Chart | None:
    """The weight of each teacher over steps; None for a run that logs none."""
    rows = []
    for number, name in enumerate(teachers):
        column = table.column(f"router.{number}")
        rows += [
            {"step": x, "weight": y, "teacher": f"{number + 1} {name}"}
            for x, y in thinned(table.column("step"), column)
        ]
    if not rows:
        return None
    labels = [f"{number + 1} {name}" for number, name in enumerate(teachers)]
    colours = [TEACHERS[number % len(TEACHERS)] for number in range(len(labels))]
    line = (
        alt.Chart(pd.DataFrame(rows))
        .mark_line(strokeWidth=2)
        .encode(
            x=_steps_axis(),
            y=alt.Y("weight:Q", title=say("weight"), scale=alt.Scale(domain=[0, 1])),
            color=alt.Color(
                "teacher:N",
                scale=alt.Scale(domain=labels, range=colours),
                legend=_legend(),
            ),
            tooltip=[
                alt.Tooltip("teacher:N", title=say("teacher")),
                _step_told(),
                alt.Tooltip("weight:Q", title=say("weight"), format=".3f"),
            ],
        )
    )
    return _zoomable(line)


def thinned(xs: Sequence[float], ys: Sequence[float], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """The finite points, at most about ``most``: of a long line least and greatest of each stretch, spikes too."""
    known = [(x, y) for x, y in zip(xs, ys) if math.isfinite(x) and math.isfinite(y)]
    if len(known) <= most:
        return known
    size = -(-2 * len(known) // most)
    kept = []
    for start in range(0, len(known), size):
        stretch = known[start : start + size]
        kept += sorted({min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])})
    return kept if kept[-1] == known[-1] else [*kept, known[-1]]


def _steps_axis() -> alt.X:
    return alt.X("step:Q", title=say("step"), axis=alt.Axis(format="d", tickMinStep=1), scale=alt.Scale(nice=False))


def _step_told() -> alt.Tooltip:
    return alt.Tooltip("step:Q", title=say("step"), format="d")


def _legend() -> alt.Legend:
    return alt.Legend(title=None, orient="top", offset=2, padding=0, labelLimit=160)


def _zoomable(chart: alt.Chart | alt.LayerChart) -> alt.Chart | alt.LayerChart:
    return chart.add_params(alt.selection_interval(bind="scales", name=ZOOM)).properties(height=HEIGHT)


POINTS = 600  # of one curve that are drawn at most
COMPARED_HEIGHT = 360
FEW = ("heldout",)  # measured at two points: nothing to smooth
RAW, SMOOTHED = "raw", "smoothed"  # the series of a figure
SERIES = {RAW: phrase("as logged"), SMOOTHED: phrase("smoothed")}


def panel(rows: Sequence[Row]) -> None:
    of_run = {row.id: source.logged(row.folder) for row in rows}
    logged = set().union(*of_run.values()) - set(words.NOT_CURVES)
    if not logged:
        st.info(say("None of the selected runs has logged anything yet."))
        return
    left, right = st.columns([2, 3], vertical_alignment="bottom")
    names = _ordered(logged)
    language.keep_choice("runs-metric", names[0])
    metric = left.selectbox(say("Metric"), names, format_func=words.metric, key="runs-metric")
    smoothable = metric not in (*FEW, "memory")
    raw = right.toggle(say("Every value beside the smoothed line"), True, key="runs-raw", disabled=not smoothable)
    frame, most = _frame(rows, metric, raw or not smoothable, smoothable)
    if not frame.empty:
        st.altair_chart(
            figure(frame, [words.label(row) for row in rows], metric),
            key="runs-overlay",
            alt=say(
                "{metric} of {n} runs; the table below has their results",
                metric=words.metric(metric),
                n=len(rows),
            ),
        )
    said = [say("Smoothed: exponential moving average, weight 0.9.")] if smoothable else []
    if metric == "heldout":
        said.append(say("Measured twice, before the first and after the last step; the line only joins the two."))
    if most > POINTS:
        said.append(
            say(
                "Of curves with more than {points} values (here up to {most:,}), the extremes of each part are drawn.",
                points=POINTS,
                most=most,
            )
        )
    if without := [plain(words.label(row)) for row in rows if metric not in of_run[row.id]]:
        said.append(say("Not logged by: {runs}.", runs=say(", ").join(without)))
    st.caption(say(" ").join([*said, say("Scroll to zoom, drag to move, double-click to reset.")]))


def figure(frame: pd.DataFrame, labels: Sequence[str], metric: str) -> alt.LayerChart:
    """``frame``: run, at, value, series, and shown, which is the series in words.

    All names are given, so that a rerun gives the same figure and zoom stays.
    """
    positions = range(len(labels))
    colour = alt.Scale(domain=list(labels), range=[words.colour(p) for p in positions])
    dash = alt.Scale(domain=list(labels), range=[words.dash(p) for p in positions])
    legend = alt.Legend(
        title=None, orient="top", columns=3, labelLimit=320, symbolStrokeWidth=2.5, symbolSize=500, symbolOpacity=1
    )
    where = say("seconds of work") if metric == "memory" else say("step")
    base = alt.Chart(frame).encode(
        x=alt.X("at:Q", title=where),
        y=alt.Y("value:Q", title=words.axis(metric), scale=alt.Scale(zero=False)),
        color=alt.Color("run:N", scale=colour, legend=legend),
        tooltip=[
            alt.Tooltip("run:N", title=say("run")),
            alt.Tooltip("at:Q", title=where),
            alt.Tooltip("value:Q", title=say("value"), format=".5g"),
            alt.Tooltip("shown:N", title=say("shown")),
        ],
    )
    raw = base.transform_filter(f"datum.series === '{RAW}'").properties(name="raw")
    raw = raw.mark_line(opacity=0.35, strokeWidth=1, point=metric in FEW and {"size": 60, "opacity": 1})
    smooth = base.transform_filter(f"datum.series === '{SMOOTHED}'").properties(name="smooth")
    smooth = smooth.mark_line(strokeWidth=2.2).encode(strokeDash=alt.StrokeDash("run:N", scale=dash, legend=legend))
    if SMOOTHED not in set(frame["series"]):
        raw = raw.mark_line(strokeWidth=2, point=metric in FEW and {"size": 60})
        raw = raw.encode(strokeDash=alt.StrokeDash("run:N", scale=dash, legend=legend))
        smooth = smooth.mark_line(strokeWidth=0)
    zoom = alt.selection_interval(bind="scales", name="zoom")
    return alt.layer(raw, smooth.add_params(zoom)).properties(height=COMPARED_HEIGHT)


def _frame(rows: Sequence[Row], metric: str, raw: bool, smoothable: bool) -> tuple[pd.DataFrame, int]:
    parts, most = [], 0
    for row in rows:
        curve = source.values(row.folder, metric)
        most = max(most, len(curve[0]))
        series = {RAW: curve} if raw else {}
        if smoothable:
            series[SMOOTHED] = source.smooth(curve)
        for name, (at, values) in series.items():
            at, values = thinned_pair(at, values)
            told = {"run": words.label(row), "series": name, "shown": say(SERIES[name])}
            parts.append(pd.DataFrame({"at": at, "value": values, **told}))
    return pd.concat(parts, ignore_index=True), most


def thinned_pair(at: Sequence[float], values: Sequence[float], points: int = POINTS) -> tuple[list[float], list[float]]:
    """At most ``points`` of a curve: least and greatest value of equal parts, so that no spike is lost."""
    known = [(x, y) for x, y in zip(at, values) if isfinite(x) and isfinite(y)]
    if len(known) > points:
        parts = points // 2
        borders = [len(known) * part // parts for part in range(parts + 1)]
        kept: list[tuple[float, float]] = []
        for begin, end in pairwise(borders):
            part = known[begin:end]
            kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
        known = kept
    return [x for x, _ in known], [y for _, y in known]


def _ordered(names: set[str]) -> list[str]:
    return [name for name in words.METRICS if name in names] + sorted(names - set(words.METRICS))
