"""Draw a training run: loss terms, memory, the teachers' weights, held-out numbers.

Plotly reads some HTML in labels, so this module escapes names that come from users.
"""

from collections.abc import Mapping, Sequence
from html import escape
from textwrap import wrap
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kvlab.language import phrase, say
from kvlab.results.style import KIND_COLOUR, KIND_DASH, NEUTRAL, STUDENT_COLOUR, TEACHER_COLOUR, layout
from kvlab.runs.lenient import finite

GIB = 1024**3
TERM_COLOUR = {"loss": "#000000", "ce": STUDENT_COLOUR, "entropy": NEUTRAL}
TERM_COLOUR |= {"kv_key": KIND_COLOUR["key"], "kv_value": KIND_COLOUR["value"], "kv_output": TEACHER_COLOUR}
ROUTER_COLOURS = (TEACHER_COLOUR, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442")  # Okabe and Ito 2008
DASHES = ("solid", "dash", "dot", "dashdot")
ROOM = 1.25  # draw the limit if the curve comes within this factor of it, else name it in the title

TERMS = {
    "loss": phrase("loss"),
    "ce": phrase("CE (nats per token)"),
    "kv_key": phrase("K error (target variances)"),
    "kv_value": phrase("V error (target variances)"),
    "kv_output": phrase("error of head outputs (own variances)"),
    "entropy": phrase("entropy (share of the largest)"),
    "kl": phrase("KL on the projected cache"),
}
SHORT = {  # over a narrow panel
    "ce": phrase("CE"),
    "kl": phrase("KL"),
    "kv_key": phrase("K error"),
    "kv_value": phrase("V error"),
    "kv_output": phrase("head outputs"),
}
MEASURED = ("ce", "kl", "kv_key", "kv_value", "kv_output")  # on held-out documents, before and after
TITLES = {
    "loss": phrase("Loss terms: thin as logged, thick smoothed (moving average, weight 0.9)"),
    "router": phrase("Weight of each teacher in the target"),
    "held out": phrase("Held-out documents, before and after"),
}
MEMORY_TITLES = {
    "device": phrase("GPU memory in use over time"),
    "process": phrase("Memory of this process over time (no GPU in use)"),
}

Numbers = Sequence[float | None]


def loss_terms(steps: Sequence[int], raw: Mapping[str, Numbers], smooth: Mapping[str, Numbers]):
    """Draw every term over the steps: thin as logged, thick smoothed; a click in the legend hides both."""
    figure = go.Figure()
    for term, values in raw.items():
        name, colour = say(TERMS[term]), TERM_COLOUR[term]
        common = {"x": list(steps), "mode": "lines", "legendgroup": term, "name": name}
        line = {"color": colour, "width": 1, "dash": KIND_DASH["value" if term == "kv_value" else "key"]}
        figure.add_scatter(y=list(values), line=line, opacity=0.4, showlegend=False, **common)
        figure.add_scatter(y=list(smooth[term]), line={**line, "width": 2.5}, **common)
    figure.update_xaxes(title=say("optimizer step"))
    figure.update_yaxes(title=say("loss term"), rangemode="tozero")
    return _titled(figure, say(TITLES["loss"]))


def overlay(curves: Sequence[tuple[str, Numbers, Numbers, Numbers]], metric: str, where: str) -> go.Figure:
    """Draw one metric of several runs: label, places, values as logged or none, smoothed values or none."""
    figure = go.Figure()
    for place, (label, at, raw, smooth) in enumerate(curves):
        colour, dash = ROUTER_COLOURS[place % len(ROUTER_COLOURS)], DASHES[place // len(ROUTER_COLOURS) % len(DASHES)]
        common = {"x": list(at), "mode": "lines" if smooth else "lines+markers", "name": escape(label)}
        line = {"color": colour, "dash": dash, "width": 2.5}
        figure.add_scatter(y=list(smooth or raw), line=line, **common)
        if smooth and raw:
            figure.add_scatter(y=list(raw), line=line | {"width": 1}, opacity=0.4, showlegend=False, **common)
    figure.update_xaxes(title=where)
    figure.update_yaxes(title=metric)
    return _titled(figure, metric, showlegend=True)


def memory(
    seconds: Numbers, used: Numbers, of: str, limit: tuple[float, int] | None = None, baseline: int | None = None
) -> go.Figure:
    """Draw the bytes in use over seconds. ``of``: "device" or "process".

    ``limit``: a share of the device, and the device's bytes; ``baseline``: bytes in use before loading the models.
    """
    figure = go.Figure()
    figure.add_scatter(
        x=list(seconds),
        y=[None if value is None else value / GIB for value in used],
        mode="lines",
        fill="tozeroy",
        line={"color": TEACHER_COLOUR, "width": 2},
        name=say(MEMORY_TITLES[of]),
        hovertemplate="%{y:.2f} GiB, %{x:.0f} s<extra></extra>",
    )
    most = max((value for value in used if value is not None), default=0)
    title = say(MEMORY_TITLES[of])
    if baseline:
        figure.add_hline(baseline / GIB, line={"color": NEUTRAL, "dash": "dot"}, annotation_text=say("before loading"))
    if limit:
        share, total = limit
        if of == "device" or most * ROOM > share * total:
            label = say("{limit:.0%} of {total:.1f} GiB", limit=share, total=total / GIB)
            figure.add_hline(share * total / GIB, line={"color": STUDENT_COLOUR, "dash": "dash"}, annotation_text=label)
            most = max(most, share * total)
        else:
            values = {"limit": share, "limited": share * total / GIB}
            above = say("{limit:.0%} of the machine is {limited:.1f} GiB, above this figure", **values)
            title += f" · {above}"
    figure.update_xaxes(title=say("time at work (s)"))
    figure.update_yaxes(title=say("memory in use (GiB)"), range=[0, 1.1 * most / GIB] if most else None)
    return _titled(figure, title)


def router(steps: Sequence[int], weights: Sequence[Numbers], teachers: Sequence[str]) -> go.Figure:
    """Draw the weight of each teacher in the target over the steps."""
    figure = go.Figure()
    for place, values in enumerate(weights):
        name = teachers[place] if place < len(teachers) else str(place + 1)
        line = {"color": ROUTER_COLOURS[place % len(ROUTER_COLOURS)], "width": 2}
        figure.add_scatter(x=list(steps), y=list(values), mode="lines", line=line, name=escape(f"{place + 1} {name}"))
    figure.update_xaxes(title=say("optimizer step"))
    figure.update_yaxes(title=say("weight (mean over rows)"), range=[0, 1])
    return _titled(figure, say(TITLES["router"]), showlegend=True)


def held_out(runs: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]], title: bool = True) -> go.Figure:
    """Draw the held-out numbers of each run (label, before, after), a panel for each measure; grey is before."""
    terms = [term for term in MEASURED if any(finite(at.get(term)) is not None for run in runs for at in run[1:])] or [
        "ce"
    ]
    names = [say(SHORT[term]) for term in terms]
    figure = make_subplots(rows=1, cols=len(terms), subplot_titles=names, shared_yaxes=True, horizontal_spacing=0.04)
    labels = [escape(label) for label, _, _ in runs]
    for column, term in enumerate(terms, 1):
        for place, colour in ((1, NEUTRAL), (2, TEACHER_COLOUR)):
            when = say("before" if place == 1 else "after")
            values = [finite(run[place].get(term)) for run in runs]
            legend = {"name": when, "legendgroup": when, "showlegend": column == 1}
            figure.add_bar(
                row=1,
                col=column,
                y=labels,
                x=values,
                orientation="h",
                marker_color=colour,
                **legend,
                text=["" if value is None else f"{value:.3f}" for value in values],
                textposition="auto",
                insidetextanchor="start",
                insidetextfont_color="#000" if place == 1 else "#fff",
                hovertemplate="%{y}<br>%{x:.4f}<extra></extra>",
            )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(rangemode="tozero", nticks=3)
    figure.update_annotations(font_size=12)
    options = {"height": 110 + 46 * len(runs), "barmode": "group"}
    if title:
        return _titled(figure, say(TITLES["held out"]), **options | {"height": options["height"] + 80})
    legend = {"orientation": "h", "y": -0.16, "yanchor": "top", "x": 0, "xanchor": "left", "traceorder": "normal"}
    return layout(figure, options.pop("height"), margin={"l": 8, "r": 8, "t": 28, "b": 24}, legend=legend, **options)


def experiment(judged: str, measures: Mapping[str, Mapping[str, Any]], words: Mapping[str, str]) -> go.Figure:
    """Draw what changed during training in every arm: a dot per seed, joined over arms, and the mean's t interval.

    ``measures``: of kvlab.results.training.experiment.gather. ``words``: name of a measure -> its title.
    """
    columns = min(3, len(measures)) or 1
    rows = -(-len(measures) // columns) or 1
    titles = ["<br>".join(wrap(words[name], 34)) for name in measures]
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=titles, vertical_spacing=0.32 / rows)
    for place, measure in enumerate(measures.values()):
        at = {"row": place // columns + 1, "col": place % columns + 1}
        arms = [arm for arm in measure["arms"] if arm["n"]]
        for seed in sorted({seed for arm in arms for seed in arm["seeds"]}):
            of = {arm["arm"]: dict(zip(arm["seeds"], arm["changes"])) for arm in arms}
            y = [of[arm["arm"]].get(seed) for arm in arms]
            figure.add_scatter(
                x=[escape(arm["arm"]) for arm in arms],
                y=y,
                mode="lines+markers",
                line={"color": NEUTRAL, "width": 1},
                marker={"color": [TEACHER_COLOUR if arm["arm"] == judged else NEUTRAL for arm in arms], "size": 8},
                opacity=0.7,
                name=say("seed {n}", n=seed),
                showlegend=False,
                hovertemplate="%{x}, " + say("seed {n}", n=seed) + "<br>%{y:+.4f}<extra></extra>",
                **at,
            )
        half = [(arm["high"] - arm["low"]) / 2 if arm["high"] is not None else None for arm in arms]
        figure.add_scatter(
            x=[escape(arm["arm"]) for arm in arms],
            y=[arm["mean"] for arm in arms],
            error_y={"type": "data", "array": half, "thickness": 2, "width": 8},
            mode="markers",
            marker={"symbol": "diamond", "size": 11, "color": STUDENT_COLOUR},
            name=say("mean"),
            showlegend=False,
            customdata=[[arm["n"]] for arm in arms],
            hovertemplate="%{x}, " + say("mean of n = {n}", n="%{customdata[0]}") + "<br>%{y:+.4f}<extra></extra>",
            **at,
        )
        figure.add_hline(0, line={"color": NEUTRAL, "dash": "dot"}, **at)
    figure.update_yaxes(tickformat="+.3g")
    title = say(
        "What changed during training: a dot per seed, joined over arms; the diamond is the mean, its bar a t interval"
    )
    return _titled(figure, title, height=120 + 300 * rows)


def _titled(figure: go.Figure, title: str, height: int = 360, **options) -> go.Figure:
    place = {"text": title, "font": {"size": 14}, "x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 8}}
    legend = {"orientation": "h", "y": -0.3, "yanchor": "top", "x": 0, "xanchor": "left"}
    margin = {"l": 64, "r": 24, "t": 64, "b": 110}
    return layout(figure, height, title=place, legend=legend, margin=margin, **options)
