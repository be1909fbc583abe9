"""The curves of a run as Altair charts, which keep their zoom while they grow. Knows no page.

The words of a chart's specification must not change while it grows: another specification is another chart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import pandas as pd

from kvlab.language import mark, say
from kvlab.plots.style import KIND_COLOUR, NEUTRAL, STUDENT_COLOUR
from kvlab.runs.metrics import Table, smoothed
from kvlab.runs.usage import curve
from kvlab.ui.text import GIB

MOST_POINTS = 600  # of a line; of more, the least and the greatest of each stretch are drawn
HEIGHT = 260
ZOOM = "zoom"  # the selection that a page keeps, so that it outlives new points
# name in metrics.jsonl -> name shown, colour (Okabe and Ito 2008)
CE = {"ce": ("CE", "#0072B2")}
TERMS = {
    "loss": (mark("total"), NEUTRAL),
    "kv_key": ("KV K", KIND_COLOUR["key"]),
    "kv_value": ("KV V", KIND_COLOUR["value"]),
    "entropy": (mark("entropy"), "#E69F00"),
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
