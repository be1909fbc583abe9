"""Several training runs in one figure: one metric, as logged and smoothed, against the step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite

import altair as alt
import pandas as pd
import streamlit as st

from kvlab.language import mark, say
from kvlab.runs.history import Row
from kvlab.ui import languages, runs_source, runs_words
from kvlab.ui.text import plain

POINTS = 600  # of one curve that are drawn at most
HEIGHT = 360
FEW = ("heldout",)  # measured at two points: nothing to smooth
RAW, SMOOTHED = "raw", "smoothed"  # the series of a figure
SERIES = {RAW: mark("as logged"), SMOOTHED: mark("smoothed")}


def panel(rows: Sequence[Row]) -> None:
    of_run = {row.id: runs_source.logged(row.folder) for row in rows}
    logged = set().union(*of_run.values()) - set(runs_words.NOT_CURVES)
    if not logged:
        st.info(say("None of the selected runs has logged anything yet."))
        return
    left, right = st.columns([2, 3], vertical_alignment="bottom")
    names = _ordered(logged)
    languages.keep_choice("runs-metric", names[0])
    metric = left.selectbox(say("Metric"), names, format_func=runs_words.metric, key="runs-metric")
    smoothable = metric not in (*FEW, "memory")
    raw = right.toggle(say("Every value beside the smoothed line"), True, key="runs-raw", disabled=not smoothable)
    frame, most = _frame(rows, metric, raw or not smoothable, smoothable)
    if not frame.empty:
        st.altair_chart(
            figure(frame, [runs_words.label(row) for row in rows], metric),
            key="runs-overlay",
            alt=say(
                "{metric} of {n} runs; the table below has their results",
                metric=runs_words.metric(metric),
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
    if without := [plain(runs_words.label(row)) for row in rows if metric not in of_run[row.id]]:
        said.append(say("Not logged by: {runs}.", runs=say(", ").join(without)))
    st.caption(say(" ").join([*said, say("Scroll to zoom, drag to move, double-click to reset.")]))


def figure(frame: pd.DataFrame, labels: Sequence[str], metric: str) -> alt.LayerChart:
    """``frame``: run, at, value, series, and shown, which is the series in words.

    All names are given, so that a rerun gives the same figure and zoom stays.
    """
    positions = range(len(labels))
    colour = alt.Scale(domain=list(labels), range=[runs_words.colour(p) for p in positions])
    dash = alt.Scale(domain=list(labels), range=[runs_words.dash(p) for p in positions])
    legend = alt.Legend(
        title=None, orient="top", columns=3, labelLimit=320, symbolStrokeWidth=2.5, symbolSize=500, symbolOpacity=1
    )
    where = say("seconds of work") if metric == "memory" else say("step")
    base = alt.Chart(frame).encode(
        x=alt.X("at:Q", title=where),
        y=alt.Y("value:Q", title=runs_words.axis(metric), scale=alt.Scale(zero=False)),
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
    return alt.layer(raw, smooth.add_params(zoom)).properties(height=HEIGHT)


def _frame(rows: Sequence[Row], metric: str, raw: bool, smoothable: bool) -> tuple[pd.DataFrame, int]:
    parts, most = [], 0
    for row in rows:
        curve = runs_source.values(row.folder, metric)
        most = max(most, len(curve[0]))
        series = {RAW: curve} if raw else {}
        if smoothable:
            series[SMOOTHED] = runs_source.smooth(curve)
        for name, (at, values) in series.items():
            at, values = thinned(at, values)
            told = {"run": runs_words.label(row), "series": name, "shown": say(SERIES[name])}
            parts.append(pd.DataFrame({"at": at, "value": values, **told}))
    return pd.concat(parts, ignore_index=True), most


def thinned(at: Sequence[float], values: Sequence[float], points: int = POINTS) -> tuple[list[float], list[float]]:
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
    return [name for name in runs_words.METRICS if name in names] + sorted(names - set(runs_words.METRICS))
