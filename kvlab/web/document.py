"""Pick a document of an analysis, and the part of it to draw."""

from collections.abc import Sequence

import streamlit as st

from kvlab.language import phrase, say
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.strip import minimap
from kvlab.results.alignment.timeline import drawn_bytes
from kvlab.web.files import NO_BAR
from kvlab.web.widgets import distinct

TOKENS_SHOWN = 600  # more bars cannot be told apart


def document_picker(alignment: Alignment, shown: str, where: str) -> int:
    """Pick one of the documents kept token by token."""
    labels = named([(document.id, document.text) for document in alignment.inspected])
    return st.selectbox(
        say("Document"),
        list(labels),
        format_func=labels.get,
        key=f"document-{where}-{shown}",
        help=say("The first documents of the analysis are kept token by token."),
    )


def named(documents: Sequence[tuple[str, str]]) -> dict[int, str]:
    """Return the labels of documents, given as id and text, by number: the id, and how the text begins."""
    labels = {n: f"{name}: {' '.join(text.split())[:70]}" for n, (name, text) in enumerate(documents)}
    return distinct(labels, lambda n: str(n + 1))


def token_window(alignment: Alignment, shown: str, number: int) -> tuple[int, int]:
    """Return the first and last student token to draw: all of a short document, a slider's window of a long one."""
    drawn = phrase("Drawn: tokens {first}–{last} of {all}. The table below is of the whole document.")
    tokens = alignment.inspected[number].student_tokens
    return _stretch(say("First token shown"), len(tokens), f"tokens-from-{shown}-{number}", drawn)


def step_window(alignment: Alignment, shown: str, number: int) -> tuple[int, int]:
    """Return the first and last teacher step to draw, as ``token_window`` does."""
    drawn = phrase("Drawn: steps {first}–{last} of {all}. The sentence above is of the whole document.")
    steps = alignment.inspected[number].teacher_tokens
    return _stretch(say("First step shown"), len(steps), f"steps-from-{shown}-{number}", drawn)


def _stretch(label: str, length: int, key: str, drawn: str) -> tuple[int, int]:
    """Return the first and last item to draw; draw a slider and the caption ``drawn`` for a long document."""
    if length <= TOKENS_SHOWN:
        return 0, length - 1
    first = st.slider(label, 0, length - TOKENS_SHOWN, step=TOKENS_SHOWN // 10, key=key)
    last = first + TOKENS_SHOWN - 1
    st.caption(say(drawn, first=f"{first:,}", last=f"{last:,}", all=f"{length:,}"))
    return first, last


ZOOMS = (48, 96, 192, 384, 768)  # bytes drawn at once; 96 are legible
LEGIBLE = 96
STEP = 8


def choose(alignment: Alignment, shown: str, number: int, start_at, zoom_at) -> tuple[int, int]:
    """Return the window [start, end) in bytes; draw its slider in ``start_at`` and its zoom in ``zoom_at``."""
    length = len(alignment.inspected[number].text.encode())
    key = f"window-{shown}-{number}"
    zooms = [zoom for zoom in ZOOMS if zoom < length]
    if length <= ZOOMS[-1]:
        zooms.append(length)
    width = zoom_at.select_slider(
        say("Bytes shown"),
        zooms,
        value=LEGIBLE if LEGIBLE in zooms else zooms[-1],
        key=f"zoom-{shown}-{number}",
        disabled=len(zooms) == 1,
    )
    last = -(-max(0, length - width) // STEP) * STEP  # rounded up, to reach the end of the document
    start = 0
    if last:
        st.session_state[key] = min(st.session_state.get(key, 0), last)
        start = start_at.slider(say("First byte shown"), 0, last, step=STEP, key=key, help=say("Or click the strip."))
    return start, min(length, start + width)


def strip(alignment: Alignment, shown: str, number: int, window: tuple[int, int]) -> None:
    """Draw the whole document, unless the window shows it; a click moves the window there."""
    length = len(alignment.inspected[number].text.encode())
    if window == (0, length):
        return
    key, slider = f"strip-{shown}", f"window-{shown}-{number}"

    def clicked() -> None:
        points = st.session_state[key].selection.points
        if points and points[0].get("customdata"):
            middle = int(points[0]["customdata"][0])
            st.session_state[slider] = max(0, middle - (window[1] - window[0]) // 2) // STEP * STEP

    alt = say("The whole document by bytes, coloured by R²; the frame is the window drawn above")
    figure = minimap(alignment, number, window)
    st.plotly_chart(figure, key=key, on_select=clicked, selection_mode="points", config=NO_BAR, alt=alt)
    first, last = drawn_bytes(alignment.inspected[number], window)
    st.caption(
        say(
            "The strip is the whole document ({all} bytes), coloured by R², mean over heads (dark 1, light 0 = the "
            "training mean), with its parts above; the frame is what is drawn: bytes {start}–{end}. Drag the plot to "
            "see bytes {first}–{last}; tokens beyond are not drawn.",
            all=f"{length:,}",
            start=f"{window[0]:,}",
            end=f"{window[1]:,}",
            first=f"{first:,}",
            last=f"{last:,}",
        )
    )
