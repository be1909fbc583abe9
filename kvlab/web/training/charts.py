"""Charts of training runs: one active run, or one metric of several. They keep their zoom while they grow.

The text in a chart's specification must not change while it grows: Streamlit would draw another chart.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair as alt
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from kvlab.language import phrase, say
from kvlab.results.style import KIND_COLOUR, NEUTRAL, STUDENT_COLOUR
from kvlab.results.training import figures
from kvlab.results.words import sentences
from kvlab.runs.history import Row
from kvlab.runs.metrics import Table, curve, smoothed
from kvlab.web import files, language
from kvlab.web.training import source, words
from kvlab.web.widgets import GIB, plain

MOST_POINTS = 600  # of a line; from a longer one, draw the minimum and maximum of each stretch
HEIGHT, TALL = 260, 360
WORDS = {"light": "#4a4c57", "dark": "#c4c6cf"}  # Streamlit's grey has a contrast of 3.7 on white
ZOOM = "zoom"  # the selection; a page keeps it, so that the zoom survives new points
# name in metrics.jsonl -> name shown, colour (Okabe and Ito 2008)
CE = {"ce": ("CE", "#0072B2")}
TERMS = {
    "loss": (phrase("total"), NEUTRAL),
    "kv_key": ("KV K", KIND_COLOUR["key"]),
    "kv_value": ("KV V", KIND_COLOUR["value"]),
    "kv_output": (phrase("KV outputs"), "#56B4E9"),
    "entropy": (phrase("entropy"), "#E69F00"),
}
TEACHERS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#D55E00", NEUTRAL)
# Okabe and Ito's colours, which colour-blind people tell apart, without yellow; grey for black, on a dark page too.
RUNS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A8F98", "#56B4E9", "#E69F00")
DASHES = ([1, 0], [6, 3], [2, 2], [9, 3, 2, 3])
DRAWN = 12  # the most runs in one chart
FEW = ("heldout",)  # measured at two points: nothing to smooth


@dataclass(frozen=True)
class Line:
    name: str
    at: Sequence[float]
    values: Sequence[float]
    colour: str
    dash: Sequence[int] = ()


def lines(
    drawn: Sequence[Line],
    item: str,
    axis: str,
    *,
    where: str = "",
    raw: bool = True,
    smooth: bool = True,
    tall: bool = False,
    points: bool = False,
    scale: alt.Scale | None = None,
) -> alt.Chart:
    """Draw lines over steps, raw (thin) and smoothed (thick). ``item``: what one line shows, such as a run."""
    as_logged, thick = say("raw"), say("smoothed")
    rows = []
    for line in drawn:
        series = {as_logged: line.values if raw else (), thick: smoothed(line.values) if smooth else ()}
        for shown, values in series.items():
            rows += [{"at": x, "value": y, "name": line.name, "line": shown} for x, y in thinned(line.at, values)]
    where = where or say("step")
    names, kinds = [line.name for line in drawn], [thick, as_logged]
    legend = None
    if tall or len(drawn) > 1:
        look = {"columns": 3, "symbolStrokeWidth": 2.5, "symbolSize": 500, "symbolOpacity": 1} if tall else {}
        legend = alt.Legend(title=None, orient="top", offset=2, padding=0, labelLimit=320 if tall else 160, **look)
    chart = (
        alt.Chart(pd.DataFrame(rows, columns=["at", "value", "name", "line"]), name="lines")
        .mark_line(point=points and {"size": 60, "opacity": 1})
        .encode(
            x=alt.X("at:Q", title=where, axis=alt.Axis(format="d", tickMinStep=1), scale=alt.Scale(nice=False)),
            y=alt.Y("value:Q", title=axis, scale=scale or alt.Scale(zero=False)),
            color=alt.Color(
                "name:N", scale=alt.Scale(domain=names, range=[line.colour for line in drawn]), legend=legend
            ),
            tooltip=[
                alt.Tooltip("name:N", title=item),
                alt.Tooltip("line:N", title=say("line")),
                alt.Tooltip("at:Q", title=where, format=",.0f"),
                alt.Tooltip("value:Q", title=say("value"), format=".5g"),
            ],
        )
    )
    if raw and smooth:
        chart = chart.encode(
            opacity=alt.Opacity("line:O", scale=alt.Scale(domain=kinds, range=[1, 0.35]), legend=None),
            strokeWidth=alt.StrokeWidth("line:O", scale=alt.Scale(domain=kinds, range=[2.2, 1]), legend=None),
        )
    if any(line.dash for line in drawn):
        dashes = alt.Scale(domain=names, range=[list(line.dash) for line in drawn])
        chart = chart.encode(strokeDash=alt.StrokeDash("name:N", scale=dashes, legend=legend))
    return _zoomable(chart, TALL if tall else HEIGHT)


def readable(chart: alt.Chart | alt.LayerChart) -> alt.Chart | alt.LayerChart:
    """Write the words of axes and legend in a colour of the page's theme with a contrast above 4.5 : 1."""
    colour = WORDS[st.context.theme.get("type") or "light"]
    words = {"labelColor": colour, "titleColor": colour}
    return chart.configure_axis(**words).configure_legend(**words)


def terms(table: Table, shown: dict[str, tuple[str, str]], unit: str) -> alt.Chart | None:
    """Draw loss terms over steps; return None while none of them has a number."""
    steps = table.column("step")
    logged = {name: table.column(name) for name in shown if any(map(math.isfinite, table.column(name)))}
    drawn = [Line(say(shown[name][0]), steps, values, shown[name][1]) for name, values in logged.items()]
    return lines(drawn, say("term"), unit) if drawn else None


def router(table: Table, teachers: Sequence[str]) -> alt.Chart | None:
    """Draw the weight of each teacher over steps; return None for a run that logs none."""
    columns = [table.column(f"router.{number}") for number in range(len(teachers))]
    if not any(math.isfinite(weight) for column in columns for weight in column):
        return None
    drawn = [
        Line(f"{number + 1} {name}", table.column("step"), columns[number], TEACHERS[number % len(TEACHERS)])
        for number, name in enumerate(teachers)
    ]
    return lines(drawn, say("teacher"), say("weight"), smooth=False, scale=alt.Scale(domain=[0, 1]))


def memory(table: Table, limit: float) -> tuple[alt.Chart | alt.LayerChart | None, str]:
    """Draw the memory in use over time; return the chart and whose memory it is ("device" or "process").

    Draw a line at ``limit``, a share of the memory, for a GPU only: it would press the chart of a process flat.
    """
    whose, times, used = curve(table)
    points = thinned(times, [value / GIB for value in used])
    if not points:
        return None, whose
    area = (
        alt.Chart(pd.DataFrame(points, columns=["seconds", "gib"]), name="memory")
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
    if whose != "device" or not totals:
        return _zoomable(area), whose
    label = say("{limit:.0%} of {total:.0f} GiB", limit=limit, total=totals[-1] / GIB)
    base = alt.Chart(pd.DataFrame({"gib": [limit * totals[-1] / GIB], "words": [label]})).encode(y="gib:Q")
    rule = base.mark_rule(strokeDash=[6, 4], color=NEUTRAL, strokeWidth=1.5)
    text = base.mark_text(align="left", dx=4, dy=-6, color=NEUTRAL).encode(x=alt.value(0), text="words:N")
    return _zoomable(alt.layer(area, rule, text)), whose


def thinned(xs: Sequence[float], ys: Sequence[float], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Return the finite points, of a long line about ``most``: the minimum and maximum of each stretch."""
    known = [(x, y) for x, y in zip(xs, ys) if math.isfinite(x) and math.isfinite(y)]
    if len(known) <= most:
        return known
    size = -(-2 * len(known) // most)
    extremes = []
    for start in range(0, len(known), size):
        stretch = known[start : start + size]
        extremes += sorted({min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])})
    return extremes if extremes[-1] == known[-1] else [*extremes, known[-1]]


def _zoomable(chart: alt.Chart | alt.LayerChart, height: int = HEIGHT) -> alt.Chart | alt.LayerChart:
    return chart.add_params(alt.selection_interval(bind="scales", name=ZOOM)).properties(height=height)


def colour(position: int) -> str:
    return RUNS[position % len(RUNS)]


def dash(position: int) -> list[int]:
    """Return the dash of a run. Seven colours and four dashes tell 28 runs apart, four of them without colour."""
    return DASHES[position % len(DASHES)]


def of_runs(rows: Sequence[Row], metric: str, raw: bool = True, colours: Mapping[str, int] | None = None) -> alt.Chart:
    """Draw one metric of several runs. ``colours``: position of each run's colour; default: its place."""
    colours = colours or {row.id: place for place, row in enumerate(rows)}
    curves = [source.of(row.folder).curve(metric) for row in rows]
    drawn = [
        Line(words.label(row), at, values, colour(colours[row.id]), dash(colours[row.id]))
        for row, (at, values) in zip(rows, curves)
    ]
    return lines(
        drawn,
        say("run"),
        words.axis(metric),
        where=_where(metric),
        raw=raw or not _smoothable(metric),
        smooth=_smoothable(metric),
        tall=True,
        points=metric in FEW,
    )


def panel(rows: Sequence[Row], colours: Mapping[str, int] | None = None) -> None:
    """Pick a metric and draw it for all these runs."""
    logged_by = {row.id: source.of(row.folder).logged() for row in rows}
    logged = set().union(*logged_by.values()) - set(words.NOT_CURVES)
    if not logged:
        st.info(say("None of the selected runs has logged anything yet."))
        return
    left, right = st.columns([2, 3], vertical_alignment="bottom")
    names = [name for name in words.METRICS if name in logged] + sorted(logged - set(words.METRICS))
    language.keep_choice("runs-metric", names[0])
    metric = left.selectbox(say("Metric"), names, format_func=words.metric, key="runs-metric")
    smoothable = _smoothable(metric)
    raw = right.toggle(say("Every value beside the smoothed line"), True, key="runs-raw", disabled=not smoothable)
    st.altair_chart(
        readable(of_runs(rows, metric, raw, colours)),
        key="runs-overlay",
        alt=say("{metric} of {n} runs; the table below has their results", metric=words.metric(metric), n=len(rows)),
    )
    files.figure_button(lambda: _figure(rows, metric, raw), f"runs-{metric}", "runs-overlay")
    most = max(len(source.of(row.folder).curve(metric)[0]) for row in rows)
    without = [plain(words.label(row)) for row in rows if metric not in logged_by[row.id]]
    notes = []
    if smoothable:
        notes.append(say("Smoothed: exponential moving average, weight 0.9."))
    if metric in FEW:
        notes.append(say("Measured twice, before the first and after the last step; the line only joins the two."))
    if most > MOST_POINTS:
        text = phrase(
            "Of curves with more than {points} values (here up to {most:,}), the extremes of each part are drawn."
        )
        notes.append(say(text, points=MOST_POINTS, most=most))
    if without:
        notes.append(say("Not logged by: {runs}.", runs=without))
    st.caption(sentences(*notes, say("Scroll to zoom, drag to move, double-click to reset.")))


def _figure(rows: Sequence[Row], metric: str, raw: bool) -> go.Figure:
    curves = []
    for row in rows:
        at, values = source.of(row.folder).curve(metric)
        smooth = smoothed(values) if _smoothable(metric) else ()
        curves.append((words.label(row), at, values if raw or not smooth else (), smooth))
    return figures.overlay(curves, words.axis(metric), _where(metric))


def _where(metric: str) -> str:
    return say("seconds of work") if metric == "memory" else say("step")


def _smoothable(metric: str) -> bool:
    return metric not in (*FEW, "memory")
