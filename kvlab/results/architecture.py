"""Draw the caches of two models side by side: a row per layer, a block per KV head, as wide as its channels."""

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from kvlab.language import plural, say
from kvlab.results.style import NEUTRAL, STUDENT_COLOUR, TEACHER_COLOUR, layout
from kvlab.shapes import Geometry

GAP = 0.12  # of a block's width, between two KV heads
HEIGHT = 300  # pixels
BETWEEN, LEAST_WIDTH = 0.1, 0.8  # of the wider model: space between them, and for the words over one


def architectures(models: Sequence[Geometry]) -> go.Figure:
    """Draw teacher and student on one scale: layers from the first (top), KV heads across, K and V widths as blocks.

    A layer without a cache is a thin line.
    """
    widths = [max(heads * (key + value) for heads, key, value in model.layer_shapes) for model in models]
    space = BETWEEN * max(widths)
    figure, start = go.Figure(), 0.0
    for model, width, colour in zip(models, widths, (TEACHER_COLOUR, STUDENT_COLOUR)):
        _draw(figure, model, start, width, colour)
        start += max(width, LEAST_WIDTH * max(widths)) + space
    tallest = max(model.layers for model in models)
    figure.update_xaxes(visible=False, range=[-0.02 * start, start - space + 0.02 * start], fixedrange=True)
    figure.update_yaxes(visible=False, range=[tallest, -0.5], fixedrange=True)
    return layout(figure, HEIGHT, margin={"l": 8, "r": 8, "t": 44, "b": 8}, bargap=0, showlegend=False)


def _draw(figure: go.Figure, model: Geometry, start: float, width: float, colour: str) -> None:
    shapes = dict(zip(model.kv_layers, model.layer_shapes))
    x, y, wide, words, opacity = [], [], [], [], []
    for layer in range(model.layers):
        if layer not in shapes:
            figure.add_shape(
                type="line", x0=start, x1=start + width, y0=layer + 0.5, y1=layer + 0.5, line={"color": NEUTRAL}
            )
            continue
        heads, key, value = shapes[layer]
        for head in range(heads):
            for kind, size, offset, shade in (("K", key, 0, 1.0), ("V", value, key, 0.55)):
                block = head * (key + value) + offset
                x.append(start + block + size / 2)
                y.append(layer + 0.5)
                wide.append(size * (1 - GAP))
                opacity.append(shade)
                place = {"layer": layer, "head": head, "kind": kind, "n": size}
                words.append(say("layer {layer}, KV head {head}: {kind}, {n} channels", **place))
    figure.add_bar(
        x=x,
        y=[0.82] * len(y),
        base=[at - 0.41 for at in y],
        width=wide,
        marker={"color": colour, "opacity": opacity, "line_width": 0},
        text=words,
        textposition="none",
        hovertemplate="%{text}<extra></extra>",
    )
    heads, key, value = model.layer_shapes[0]
    counts = {"heads": heads, "queries": model.query_heads, "key": key, "value": value}
    label = plural(
        len(model.kv_layers),
        "<b>{name}</b>, vocabulary {words}<br>{n} layer × {heads} KV heads of K {key}, V {value}; {queries} queries",
        "<b>{name}</b>, vocabulary {words}<br>{n} layers × {heads} KV heads of K {key}, V {value}; {queries} queries",
        name=escape(model.name),
        words=f"{model.vocabulary:,}",
        **counts,
    )
    figure.add_annotation(
        x=start, y=1, yref="paper", text=label, showarrow=False, xanchor="left", yanchor="bottom", align="left"
    )
