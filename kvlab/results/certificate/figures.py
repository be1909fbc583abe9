"""Draw a certificate: its ladder of own layers beside the gates, its heads beside their controls, longer texts."""

from dataclasses import dataclass
from math import isfinite
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kvlab.language import say
from kvlab.request.certify import NOT_ASKED
from kvlab.results.alignment.heads import LEAST_RANGE, WHITE_ON_GREEN
from kvlab.results.cells import Cell, cell_map, diverging
from kvlab.results.certificate.data import Certificate, Head
from kvlab.results.function.data import CONTROLS
from kvlab.results.style import GAIN_SCALE, KIND_NAME, NEUTRAL, STUDENT_COLOUR, TEACHER_COLOUR, layout, written

GATE = {"line": {"width": 1.5, "dash": "dash", "color": NEUTRAL}}
PASSED, MISSED = "circle", "x"


def ladder(certificate: Certificate, height: int = 320) -> go.Figure:
    """Draw KL of 95 % of the tokens and the cosine over the number of own layers, each with its gate."""
    titles = [say("KL, 95 % of tokens"), say("cosine of the heads' outputs")]
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.12)
    rungs = certificate.rungs
    for column, name in enumerate(("kl_p95", "head_output_cosine"), 1):
        figure.add_scatter(
            x=[rung.own_layers for rung in rungs],
            y=[getattr(rung, name) for rung in rungs],
            mode="lines+markers",
            line={"color": TEACHER_COLOUR},
            marker={"size": 10, "symbol": [MISSED if rung.failed else PASSED for rung in rungs]},
            hovertemplate=say("{name}, %{{x}} own layers: %{{y:.4f}}", name=titles[column - 1]) + "<extra></extra>",
            showlegend=False,
            row=1,
            col=column,
        )
    gate = say("gate {value:g}", value=certificate.gates.kl_p95)
    figure.add_hline(y=certificate.gates.kl_p95, annotation_text=gate, **GATE, row=1, col=1)
    if certificate.gates.head_output_cosine != NOT_ASKED:
        gate = say("gate {value:g}", value=certificate.gates.head_output_cosine)
        below = {"annotation": {"text": gate, "yanchor": "top"}}
        figure.add_hline(y=certificate.gates.head_output_cosine, **below, **GATE, row=1, col=2)
    figure.update_xaxes(title=say("first layers that are the student's own"), dtick=max(1, len(rungs) // 8))
    figure.update_yaxes(title=say("KL, nats"), rangemode="tozero", row=1, col=1)
    return layout(figure, height, margin={"l": 64, "r": 16, "t": 40, "b": 48})


@dataclass(frozen=True)
class _Student:
    student: dict[str, Any]


def heads(certificate: Certificate, kind: str) -> go.Figure:
    """Draw R² of every head beyond its strongest control; grey where there is nothing beyond."""
    rows = [head for head in certificate.heads if head.kind == kind]
    gains = [gain for head in certificate.heads if (gain := _gain(head)) is not None]
    limit = max([LEAST_RANGE, *gains])
    cells = []
    for head in rows:
        gain = _gain(head)
        words = say("{kind} layer {layer}, head {head}", kind=KIND_NAME[kind], layer=head.layer, head=head.head)
        r2 = "–" if head.r2 is None else written(head.r2)
        hover = [words, say("R² {r2}, n = {n:,}", r2=r2, n=head.n)]
        hover += [f"{name}: {written(r2)}" for name, r2 in head.controls.items() if r2 is not None]
        cells.append(
            Cell(
                layer=head.layer,
                head=head.head,
                value=gain,
                words="–" if gain is None else written(gain, 2, "+"),
                mark="",
                hover="<br>".join(hover),
                dark=gain is not None and gain > WHITE_ON_GREEN * limit,
                grey=gain is not None and gain <= 0,
            )
        )
    layers = sorted({head.layer for head in certificate.heads})
    title = say("{kind}: R² beyond the strongest control", kind=KIND_NAME[kind])
    colours = diverging(GAIN_SCALE, limit, say("gain<br>in R²"))
    return cell_map(_Student({"kv_layers": layers}), cells, colours, title)


def _gain(head: Head) -> float | None:
    controls = [r2 for name, r2 in head.controls.items() if name in CONTROLS and r2 is not None]
    return head.r2 - max([0.0, *controls]) if head.r2 is not None and isfinite(head.r2) else None


def lengths(certificate: Certificate) -> go.Figure:
    """Draw KL of 95 % of the tokens over the length of the prefix, with the gate and the longest fitted text."""
    figure, rows = go.Figure(), certificate.lengths
    figure.add_scatter(
        x=[row.tokens for row in rows],
        y=[row.kl_p95 for row in rows],
        mode="lines+markers",
        line={"color": TEACHER_COLOUR},
        marker={"size": 10},
        customdata=[[row.n, row.documents] for row in rows],
        hovertemplate=say(
            "%{{x:,}} tokens: KL %{{y:.4f}}, n = %{{customdata[0]:,}} tokens of %{{customdata[1]}} documents"
        )
        + "<extra></extra>",
        showlegend=False,
    )
    figure.add_hline(y=certificate.gates.kl_p95, annotation_text=say("gate"), **GATE)
    figure.add_vline(x=certificate.longest_fitted, annotation_text=say("longest fitted"), **GATE)
    figure.update_xaxes(title=say("length of the prefix, student tokens"), rangemode="tozero")
    figure.update_yaxes(title=say("KL of 95 % of the tokens, nats"), rangemode="tozero")
    return layout(figure, 320, margin={"l": 64, "r": 16, "t": 40, "b": 48})


def latency(certificate: Certificate) -> go.Figure:
    """Draw the time to the first token over the length of the text: handed over, with the teacher's prefill, cold."""
    figure, rows = go.Figure(), certificate.latency
    reading = [row.handed_s + row.teacher_prefill_s for row in rows]
    lines = (
        (say("handed over, the teacher's cache is there"), "solid", TEACHER_COLOUR, [r.handed_s for r in rows]),
        (
            say("handed over, the teacher reads first"),
            "dot",
            TEACHER_COLOUR,
            reading,
        ),
        (say("cold prefill of the student"), "dash", STUDENT_COLOUR, [r.cold_s for r in rows]),
    )
    for name, dash, colour, seconds in lines:
        figure.add_scatter(
            x=[row.length for row in rows],
            y=[1000 * second for second in seconds],
            mode="lines+markers",
            name=name,
            line={"color": colour, "dash": dash},
            hovertemplate=say("{name}, %{{x:,}} tokens: %{{y:.1f}} ms", name=name) + "<extra></extra>",
        )
    figure.update_xaxes(
        title=say("length of the text, student tokens"), type="log", tickvals=[row.length for row in rows]
    )
    figure.update_yaxes(title=say("time to the first token, ms"), rangemode="tozero")
    return layout(figure, 340, margin={"l": 64, "r": 16, "t": 72, "b": 48})
