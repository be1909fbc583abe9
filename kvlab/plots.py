"""Results -> Plotly figures. Knows nothing of Streamlit or torch.

One meaning per colour map: Cividis is error (dark = 0, perfect; bright = 1, no better than the mean); the
blue-white-red map is lag (blue = the teacher is behind, red = it has read ahead). K stands before V, the teacher
above the student.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kvlab.results import Alignment, HeadScore, Inspected, TokenView

KIND_NAME = {"key": "K", "value": "V"}
ERROR_SCALE = "Cividis"
TEACHER_COLOUR, STUDENT_COLOUR, NEUTRAL = "#0072B2", "#D55E00", "#8A8F98"  # Okabe and Ito 2008, and grey
KIND_COLOUR = {"key": "#009E73", "value": "#CC79A7"}
RULE_COLOUR = {
    "exact": "#000000",
    "floor": "#0072B2",
    "ceil": "#E69F00",
    "linear": "#009E73",
    "nearest": "#CC79A7",
    "overlap": "#56B4E9",
    "segment": "#D55E00",
    "rkv": "#7F7F7F",
}
INTERPOLATED = ("linear", "segment", "overlap")  # drawn as lines, the others as steps
LAG_BINS = (  # upper end in bytes, colour, words
    (-1, "#B2182B", "teacher has read ahead"),
    (0, "#9AA5B1", "same byte"),
    (2, "#92C5DE", "1–2 bytes behind"),
    (5, "#4393C3", "3–5 bytes behind"),
    (10**9, "#053061", "6 or more bytes behind"),
)
ERROR_RANGE = (0.0, 1.0)
DARK_BELOW = 0.45  # white is easier to read than black on the map's colours up to here
CELL_TEXT_UP_TO = 16  # heads or layers; more, and the numbers would not be legible


def _layout(figure: go.Figure, height: int, **options) -> go.Figure:
    figure.update_layout(
        **{
            "height": height,
            "margin": {"l": 56, "r": 16, "t": 36, "b": 48},
            "font": {"size": 13},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
        }
        | options
    )
    return figure


# --- heads ---------------------------------------------------------------------------------------------------


def error_heatmap(alignment: Alignment, kind: str, selected: tuple[int, int] | None = None) -> go.Figure:
    """Projection error per student layer and KV head. ``selected`` is (layer as numbered, head).

    Invisible markers above the cells carry layer and head in ``customdata``, since heatmaps cannot be selected.
    """
    error = alignment.grid(kind, "error")
    layers, heads = [str(layer) for layer in alignment.student["kv_layers"]], [str(h) for h in range(error.shape[1])]
    legible = max(error.shape) <= CELL_TEXT_UP_TO
    scores = [s for s in alignment.heads if s.kind == kind]
    figure = go.Figure(
        go.Heatmap(
            z=error.tolist(),
            x=heads,
            y=layers,
            zmin=ERROR_RANGE[0],
            zmax=ERROR_RANGE[1],
            colorscale=ERROR_SCALE,
            hoverinfo="skip",
            xgap=2 if legible else 0,
            ygap=2 if legible else 0,
            colorbar={"title": {"text": "error<br>1 − R²"}, "thickness": 12, "tickvals": [0, 0.25, 0.5, 0.75, 1]},
        )
    )
    marked = scores if legible else [s for s in scores if s.beats_controls is False]
    figure.add_scatter(
        x=[str(s.head) for s in marked],
        y=[str(s.layer) for s in marked],
        mode="text",
        text=[_cell(s, legible) for s in marked],
        textfont={"color": ["#FFFFFF" if s.error < DARK_BELOW else "#000000" for s in marked], "size": 13},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_scatter(
        x=[str(s.head) for s in scores],
        y=[str(s.layer) for s in scores],
        mode="markers",
        marker={"size": 28, "symbol": "square", "opacity": 0},
        customdata=[[s.layer, s.head] for s in scores],
        text=[hover(s) for s in scores],
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
    if selected is not None:
        row, column = layers.index(str(selected[0])), selected[1]
        figure.add_shape(
            type="rect",
            x0=column - 0.5,
            x1=column + 0.5,
            y0=row - 0.5,
            y1=row + 0.5,
            line={"color": STUDENT_COLOUR, "width": 3},
        )
    figure.update_xaxes(title="student KV head", type="category", showgrid=False)
    figure.update_yaxes(title="student layer", type="category", autorange="reversed", showgrid=False)
    height = min(640, max(260, 96 + 40 * len(layers)))
    title = f"{KIND_NAME[kind]} projection error, held out"
    return _layout(
        figure, height, title={"text": title, "font": {"size": 15}}, hoverdistance=-1, clickmode="event+select"
    )


def _cell(score: HeadScore, legible: bool) -> str:
    if np.isnan(score.error):
        return "–"
    return f"{score.error:.2f}" * legible + " =" * (score.beats_controls is False)


def hover(score: HeadScore) -> str:
    """One cell in words."""
    return (
        f"{KIND_NAME[score.kind]} layer {score.layer}, head {score.head}<br>"
        f"error {score.error:.3f} (R² {score.r2:.3f} ± {score.se:.3f})<br>"
        f"token identity R² {score.r2_identity:.3f}<br>shuffled rows R² {score.r2_shuffled:.3f}<br>"
        f"n = {score.n:,} tokens"
    )


def controls(score: HeadScore) -> go.Figure:
    """R² of one head beside what it must beat."""
    values = [score.r2, score.r2_identity, score.r2_shuffled, 0.0]
    names = [
        f"{name}  <b>{value:.3f}</b>"
        for name, value in zip(("teacher", "token identity", "shuffled rows", "train mean"), values)
    ]
    errors = [0 if np.isnan(score.se) else score.se, 0, 0, 0]
    figure = go.Figure(
        go.Bar(
            x=values,
            y=names,
            orientation="h",
            marker_color=[TEACHER_COLOUR, NEUTRAL, NEUTRAL, NEUTRAL],
            error_x={"type": "data", "array": errors, "thickness": 1.5},
            hovertemplate="R² %{x:.3f}<extra></extra>",
        )
    )
    values = [0.0 if np.isnan(value) else value for value in values]
    low = min(0.0, *values) - 0.02
    figure.update_xaxes(title="held-out R² (bar: ± 1 jackknife s.e.)", range=[low, max(1.0, *values)])
    figure.update_yaxes(autorange="reversed")
    return _layout(figure, 210, margin={"l": 140, "r": 16, "t": 8, "b": 44})


def contributions(alignment: Alignment, kind: str, layer: int, head: int) -> go.Figure:
    """Which teacher heads a student head is built from: held-out R² lost without each, and of each alone."""
    position = alignment.layer_position(layer)
    names = [str(h) for h in range(alignment.teacher["kv_heads"])]
    figure = go.Figure()
    for name, label, colour in (
        ("alone", "R² from this head alone", "#BFD7EA"),
        ("without", "R² lost without it", TEACHER_COLOUR),
    ):
        values = alignment.arrays[f"contribution.{kind}.{name}"][position, head].tolist()
        figure.add_bar(
            x=names,
            y=values,
            name=label,
            marker_color=colour,
            hovertemplate=f"teacher head %{{x}}<br>{label}: %{{y:.3f}}<extra></extra>",
        )
    figure.update_xaxes(title="teacher KV head", type="category")
    figure.update_yaxes(title="held-out R²")
    return _layout(figure, 260, barmode="group", margin={"l": 56, "r": 16, "t": 32, "b": 44})


def token_errors(alignment: Alignment, number: int, kind: str, layer: int, head: int) -> go.Figure:
    """Error of one head along the student's tokens of an inspected document."""
    document = alignment.inspected[number]
    error = alignment.arrays[f"document.{number}.error.{kind}"][alignment.layer_position(layer), head]
    figure = go.Figure()
    positions = np.arange(len(error))
    scored = np.array(document.scored, dtype=bool)
    for chosen, name, colour in (
        (scored, "scored", KIND_COLOUR[kind]),
        (~scored, "left out: sink or special token", NEUTRAL),
    ):
        chosen = chosen & ~np.isnan(error)
        if not chosen.any():
            continue
        figure.add_bar(
            x=positions[chosen].tolist(),
            y=error[chosen].tolist(),
            name=name,
            marker_color=colour,
            customdata=[_visible(document.student_tokens[i]) for i in np.flatnonzero(chosen)],
            hovertemplate="token %{x} “%{customdata}”<br>error %{y:.2f}<extra></extra>",
        )
    figure.add_hline(y=1, line={"dash": "dot", "width": 1.5, "color": NEUTRAL})
    shown = error[scored & ~np.isnan(error)]
    top = max(1.2, float(np.quantile(shown, 0.99)) * 1.1) if len(shown) else 1.2
    figure.update_xaxes(title="student token", range=[-0.5, len(error) - 0.5])
    figure.update_yaxes(title="error (1 = train mean)", range=[0, top])
    return _layout(figure, 260, bargap=0.1, margin={"l": 56, "r": 16, "t": 32, "b": 44})


# --- timeline ------------------------------------------------------------------------------------------------


def timeline(alignment: Alignment, number: int, rule: str, window: tuple[int, int] | None = None) -> go.Figure:
    """Teacher and student tokens as two rails over byte position, joined by a rule's map, coloured by lag;
    the error of each student token (mean over heads) beneath."""
    document = alignment.inspected[number]
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.62, 0.38], vertical_spacing=0.06)
    _add_links(figure, alignment, document, number, rule)
    _add_rail(figure, document.teacher_tokens, 1.0, TEACHER_COLOUR, "teacher token")
    _add_rail(figure, document.student_tokens, 0.0, STUDENT_COLOUR, "student token")
    for kind in ("key", "value"):
        error = alignment.arrays[f"document.{number}.error.{kind}"].mean((0, 1))
        content = [i for i, t in enumerate(document.student_tokens) if not t.special and not np.isnan(error[i])]
        figure.add_scatter(
            row=2,
            col=1,
            x=[document.student_tokens[i].end for i in content],
            y=[float(error[i]) for i in content],
            mode="lines+markers",
            line={"shape": "vh", "width": 1.5, "color": KIND_COLOUR[kind]},
            marker={"size": 5},
            name=f"{KIND_NAME[kind]} error",
            customdata=[_visible(document.student_tokens[i]) for i in content],
            hovertemplate=f"{KIND_NAME[kind]} “%{{customdata}}” error %{{y:.2f}}<extra></extra>",
        )
    start, end = window or (0, min(96, len(document.text.encode())))
    figure.update_xaxes(range=[start - 1, end + 1], showgrid=False)
    figure.update_xaxes(title="byte of the text (UTF-8)", row=2, col=1)
    figure.update_yaxes(
        row=1,
        col=1,
        range=[-0.32, 1.32],
        tickvals=[0, 1],
        ticktext=["student", "teacher"],
        showgrid=False,
        zeroline=False,
        fixedrange=True,
    )
    figure.update_yaxes(row=2, col=1, title="error, mean of heads", rangemode="tozero", fixedrange=True)
    return _layout(figure, 430, dragmode="pan", margin={"l": 72, "r": 16, "t": 56, "b": 48})


def _add_links(figure: go.Figure, alignment: Alignment, document: Inspected, number: int, rule: str) -> None:
    index = alignment.arrays[f"document.{number}.index.{rule}"]
    lag = alignment.arrays[f"document.{number}.lag.{rule}"]
    ends = np.array([token.end for token in document.teacher_tokens], dtype=float)
    lowest = -(10**9)
    for upper, colour, words in LAG_BINS:
        x: list[float | None] = []
        y: list[float | None] = []
        for i, token in enumerate(document.student_tokens):
            if np.isnan(index[i]) or not lowest < lag[i] <= upper:
                continue
            x += [float(np.interp(index[i], np.arange(len(ends)), ends)), token.end, None]
            y += [0.86, 0.14, None]
        lowest = upper
        if x:
            figure.add_scatter(
                row=1, col=1, x=x, y=y, mode="lines", line={"color": colour, "width": 1.6}, name=words, hoverinfo="skip"
            )


def _add_rail(figure: go.Figure, tokens: list[TokenView], height: float, colour: str, name: str) -> None:
    """Tokens as boxes from their first to their last byte, with their text where it fits."""
    content = [token for token in tokens if token.end > token.start]
    x: list[float | None] = []
    y: list[float | None] = []
    for token in content:
        x += [token.start, token.start, token.end, token.end, token.start, None]
        y += [height - 0.13, height + 0.13, height + 0.13, height - 0.13, height - 0.13, None]
    figure.add_scatter(
        row=1,
        col=1,
        x=x,
        y=y,
        mode="lines",
        line={"color": colour, "width": 1},
        fill="toself",
        fillcolor=f"rgba({int(colour[1:3], 16)},{int(colour[3:5], 16)},{int(colour[5:7], 16)},0.10)",
        name=name,
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_scatter(
        row=1,
        col=1,
        x=[(token.start + token.end) / 2 for token in content],
        y=[height] * len(content),
        mode="text",
        text=[_label(token) for token in content],
        textfont={"size": 11},
        customdata=[[_visible(token), token.start, token.end] for token in content],
        hovertemplate=f"{name} “%{{customdata[0]}}”<br>bytes %{{customdata[1]}}–%{{customdata[2]}}<extra></extra>",
        showlegend=False,
        name=name,
    )


def index_maps(alignment: Alignment, number: int) -> go.Figure:
    """Every rule's map drawn together: student step across, (mean) teacher step up."""
    figure = go.Figure()
    for rule in alignment.timeline["rules"]:
        index = alignment.arrays[f"document.{number}.index.{rule}"]
        dots = rule == "exact"
        figure.add_scatter(
            x=list(range(len(index))),
            y=[None if np.isnan(v) else float(v) for v in index],
            mode="markers" if dots else "lines",
            marker={"size": 4, "color": RULE_COLOUR[rule]},
            line={"width": 1.8, "color": RULE_COLOUR[rule], "shape": "linear" if rule in INTERPOLATED else "hv"},
            name=rule,
            hovertemplate=f"{rule}: student token %{{x}} ← teacher step %{{y:.1f}}<extra></extra>",
        )
    figure.update_xaxes(title="student token")
    figure.update_yaxes(title="teacher step")
    return _layout(figure, 340)


def _visible(token: TokenView) -> str:
    """A token's text with whitespace one can see."""
    return token.text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")


def _label(token: TokenView) -> str:
    text = _visible(token)
    wide = sum(2 if ord(c) > 0x2E7F else 1 for c in text)
    return text if wide <= 1.6 * (token.end - token.start) + 0.5 else "·"
