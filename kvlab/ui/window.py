"""Which bytes of a document are drawn: a slider, a zoom, and a strip of the whole document that can be clicked."""

from __future__ import annotations

import streamlit as st

from kvlab import plots
from kvlab.language import say
from kvlab.results import Alignment

ZOOMS = (48, 96, 192, 384, 768)  # bytes drawn at once; 96 are legible
LEGIBLE = 96
STEP = 8


def choose(alignment: Alignment, shown: str, number: int, start_at, zoom_at) -> tuple[int, int]:
    """The window [start, end) in bytes; the slider and the zoom are drawn where they are told to be."""
    length = len(alignment.inspected[number].text.encode())
    key = f"window-{shown}-{number}"
    zooms = [zoom for zoom in ZOOMS if zoom < length] + [length] * (length <= ZOOMS[-1])
    wide = zoom_at.select_slider(
        say("Bytes shown"),
        zooms,
        value=LEGIBLE if LEGIBLE in zooms else zooms[-1],
        key=f"zoom-{shown}-{number}",
        disabled=len(zooms) == 1,
    )
    last = -(-max(0, length - wide) // STEP) * STEP  # the end of the document is reached
    start = 0
    if last:
        st.session_state[key] = min(st.session_state.get(key, 0), last)
        start = start_at.slider(say("First byte shown"), 0, last, step=STEP, key=key, help=say("Or click the strip."))
    return start, min(length, start + wide)


def strip(alignment: Alignment, shown: str, number: int, window: tuple[int, int]) -> None:
    """The whole document; a click moves the window there. Nothing for one that is shown whole."""
    length = len(alignment.inspected[number].text.encode())
    if window == (0, length):
        return
    key, slider = f"strip-{shown}", f"window-{shown}-{number}"

    def clicked() -> None:
        points = st.session_state[key].selection.points
        if points and points[0].get("customdata"):
            middle = int(points[0]["customdata"][0])
            st.session_state[slider] = max(0, middle - (window[1] - window[0]) // 2) // STEP * STEP

    st.plotly_chart(
        plots.minimap(alignment, number, window),
        key=key,
        on_select=clicked,
        selection_mode="points",
        config={"displayModeBar": False},
        alt=say("The whole document by bytes, coloured by error; the frame is the window drawn above"),
    )
    first, last = plots.drawn_bytes(alignment.inspected[number], window)
    st.caption(
        say(
            "The strip is the whole document ({all} bytes), coloured by the error, mean over heads (dark 0, bright 1 = "
            "training mean), with its parts above; the frame is what is drawn: bytes {start}–{end}. Drag the plot to "
            "see bytes {first}–{last}; tokens beyond are not drawn.",
            all=f"{length:,}",
            start=f"{window[0]:,}",
            end=f"{window[1]:,}",
            first=f"{first:,}",
            last=f"{last:,}",
        )
    )
