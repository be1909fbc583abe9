"""Draw R-KV: the steps of its timeline that a teacher head keeps, and the parts of the deciding score."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kvlab.language import phrase, say
from kvlab.results.alignment.data import Alignment
from kvlab.results.style import NEUTRAL, TEACHER_COLOUR, layout, visible

PARTS = {
    phrase("importance"): phrase("importance<br>(attention share)"),
    phrase("redundancy"): phrase("redundancy<br>(softmax share)"),
    phrase("score"): phrase("score<br>(λI − (1−λ)R)"),
}


def kept_mask(alignment: Alignment, number: int, layer: int, head: int) -> np.ndarray:
    """Return [Tt] bool: the steps of a document that a KV head of teacher layer ``layer`` (as numbered) keeps."""
    steps = alignment.arrays[f"document.{number}.rkv.steps"][_position(alignment, layer), head]
    mask = np.zeros(len(alignment.inspected[number].teacher_tokens), dtype=bool)
    mask[steps[~np.isnan(steps)].astype(int)] = True
    return mask


def _position(alignment: Alignment, layer: int) -> int:
    return list(alignment.teacher["kv_layers"]).index(layer)


def kept_steps(
    alignment: Alignment, number: int, layer: int, head: int, window: tuple[int, int] | None = None
) -> go.Figure:
    """Draw importance, redundancy and score of the candidate steps, kept ones in blue; ``window``: first, last step."""
    tokens = alignment.inspected[number].teacher_tokens
    mask = kept_mask(alignment, number, layer, head)
    first, last = window or (0, len(tokens) - 1)
    steps = np.arange(len(tokens))
    figure = make_subplots(rows=len(PARTS), cols=1, shared_xaxes=True, vertical_spacing=0.05)
    for row, (part, axis) in enumerate(PARTS.items(), 1):
        place = {"row": row, "col": 1}
        values = alignment.arrays[f"document.{number}.rkv.{part}"][_position(alignment, layer), head]
        candidate = ~np.isnan(values) & (steps >= first) & (steps <= last)
        for group, name, colour in ((mask, say("kept"), TEACHER_COLOUR), (~mask, say("dropped"), NEUTRAL)):
            drawn = np.flatnonzero(candidate & group)
            if not len(drawn):
                continue
            legend = {"name": name, "legendgroup": name, "showlegend": row == 1}
            figure.add_bar(
                **place,
                **legend,
                x=drawn.tolist(),
                y=values[drawn].tolist(),
                marker_color=colour,
                customdata=[visible(tokens[i]) for i in drawn],
                hovertemplate=say(
                    "step %{{x}} “%{{customdata}}” {kept}<br>{part} %{{y:.4f}}", kept=name, part=say(part)
                )
                + "<extra></extra>",
            )
        figure.update_yaxes(title={"text": say(axis), "font": {"size": 11}}, **place, zeroline=True)
    figure.update_xaxes(range=[first - 0.5, last + 0.5])
    figure.update_xaxes(title=say("teacher step (token)"), row=len(PARTS), col=1)
    return layout(figure, 440, bargap=0.15, barmode="overlay", margin={"l": 84, "r": 16, "t": 32, "b": 44})
