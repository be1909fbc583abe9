"""Draw one head along a document: the teacher on its own steps, the resampled and projected teacher, the student."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from kvlab.language import phrase, say
from kvlab.results.alignment.data import Alignment
from kvlab.results.style import KIND_COLOUR, NEUTRAL, STUDENT_COLOUR, TEACHER_COLOUR, layout, visible

LINES = {"student": phrase("student"), "resampled": phrase("resampled"), "teacher": phrase("teacher")}


def has_signal(alignment: Alignment, number: int) -> bool:
    return f"document.{number}.signal.key.student" in alignment.arrays


def signal_table(alignment: Alignment, number: int, kind: str, layer: int, head: int) -> pd.DataFrame:
    """Return one row per content token of either model, in the order of bytes; values in standard deviations."""
    document, position = alignment.inspected[number], alignment.layer_position(layer)
    frames = []
    for name in LINES:
        tokens = document.teacher_tokens if name == "teacher" else document.student_tokens
        values = alignment.arrays[f"document.{number}.signal.{kind}.{name}"][position, head].astype(float)
        scored = [None] * len(tokens) if name == "teacher" else document.scored
        content = [(i, token) for i, token in enumerate(tokens) if not token.special]
        rows = [(name, i, token.text, token.end, scored[i], values[i]) for i, token in content]
        frames.append(pd.DataFrame(rows, columns=["signal", "token", "text", "end_byte", "scored", "value"]))
    return pd.concat(frames, ignore_index=True)


def signal(
    alignment: Alignment, number: int, kind: str, layer: int, head: int, window: tuple[int, int] | None = None
) -> go.Figure:
    """Draw the three lines over the bytes of ``window``."""
    frame = signal_table(alignment, number, kind, layer, head)
    start, end = window or (0, len(alignment.inspected[number].text.encode()))
    frame = frame[(frame["end_byte"] > start - 1) & (frame["end_byte"] < end + 1)]
    figure = go.Figure()
    for name, words, colour, style in (
        ("teacher", say("teacher, every own step through the map"), TEACHER_COLOUR, {"dash": "dot", "width": 1.5}),
        ("resampled", say("teacher, resampled and projected"), KIND_COLOUR[kind], {"width": 2.5}),
        ("student", say("student"), STUDENT_COLOUR, {"width": 2}),
    ):
        rows = frame[frame["signal"] == name]
        figure.add_scatter(
            x=rows["end_byte"],
            y=[None if np.isnan(v) else v for v in rows["value"]],
            mode="lines+markers",
            line={"color": colour, **style},
            marker={"size": 5, "symbol": "circle-open" if name == "teacher" else "circle"},
            name=words,
            customdata=[visible(text) for text in rows["text"]],
            hovertemplate=f"{say(LINES[name])} “%{{customdata}}” %{{y:.2f}}<extra></extra>",
        )
    figure.add_hline(y=0, line={"width": 1, "color": NEUTRAL})
    figure.update_xaxes(title=say("byte of the text (UTF-8), where a token ends"), range=[start - 1, end + 1])
    figure.update_yaxes(title=say("standard deviations<br>of the student head"), zeroline=False)
    return layout(figure, 320, margin={"l": 72, "r": 16, "t": 56, "b": 48})
