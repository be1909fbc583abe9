"""The resampled signal: one head along the document, before and after resampling, beside the student."""

import streamlit as st

from kvlab.language import say
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.one_head import signal_sentence
from kvlab.results.alignment.resampled import LINES, has_signal, signal, signal_table
from kvlab.results.alignment.spectrum import spectrum_table
from kvlab.web import cells, files
from kvlab.web.widgets import count, number


def panel(alignment: Alignment, shown: str, document: int, window: tuple[int, int]) -> None:
    """Draw the signal of the pinned head. A picker pins another."""
    st.markdown(say("**The resampled signal of one head**"))
    cell = _picked(alignment)
    if not has_signal(alignment, document):
        st.info(
            say("This analysis does not hold the resampled signal: it was made by an earlier kvlab. Run it again."),
            icon=":material/info:",
        )
        return
    if spectrum_table(alignment, *cell).empty:
        st.info(say("This head does not vary on these prompts, so it has no signal."))
        return
    figure = signal(alignment, document, *cell, window)
    alt = say("The head along its first direction: teacher before and after resampling and projection, and student")
    files.chart(figure, f"signal-{shown}", alt, config=files.MOVING)
    st.caption(signal_sentence(alignment, document, *cell))
    name = f"signal-{document}-{cells.name_of(cell)}"
    files.figure_button(figure, name, f"signal-{shown}")
    columns = {
        "signal": say("line"),
        "token": count(say("token no.")),
        "text": say("token text"),
        "end_byte": count(say("last byte")),
        "value": number(say("standard deviations")),
        "scored": st.column_config.CheckboxColumn(say("scored")),
    }
    table = signal_table(alignment, document, *cell)
    table["signal"] = [say(LINES[line]) for line in table["signal"]]
    files.table(table, columns, name, f"signal-{shown}")


def _picked(alignment: Alignment) -> cells.Cell:
    """Draw a picker that pins another head; return the pinned one."""
    cell = cells.selected(alignment)
    heads = [(score.kind, score.layer, score.head) for score in alignment.heads]
    st.session_state["signal-head"] = cell

    def pin() -> None:
        st.session_state["cell"] = cells.name_of(st.session_state["signal-head"])

    return st.selectbox(
        say("Student head"), heads, format_func=cells.words, key="signal-head", on_change=pin, width=260
    )
