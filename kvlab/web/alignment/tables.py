"""All numbers as tables, and the self-tests and settings behind them."""

import streamlit as st

from kvlab.language import phrase, say
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.sentences import capture_sentence
from kvlab.results.alignment.tables import asked, capture_table, heading, heads_table, measured
from kvlab.results.safe_csv import neutral
from kvlab.web.widgets import grid, number, plain, table_height

POSITIONS = {
    "teacher": phrase("How positions enter each layer of the teacher, and the largest difference left"),
    "student": phrase("How positions enter each layer of the student, and the largest difference left"),
}


def panel(alignment: Alignment, shown: str) -> None:
    frame = heads_table(alignment)
    columns = {name: heading(name) for name in frame.columns}
    columns |= {name: number(heading(name)) for name in frame.select_dtypes("float").columns}
    grid(frame, columns, say("Every score of every head"), 320)
    _capture(alignment)
    sides = (say("**Settings**"), asked(alignment)), (say("**Data, versions, seconds**"), measured(alignment))
    for column, (title, pairs) in zip(st.columns(2), sides, strict=True):
        column.markdown(title)
        rows = [{"name": name.replace("_", " "), "value": _written(value)} for name, value in pairs]
        headings = {"name": say("name"), "value": say("value")}
        column.dataframe(rows, hide_index=True, height=360, column_config=headings)


def _capture(alignment: Alignment) -> None:
    st.markdown(say("**Self-test of the captured keys** (the same tokens read at two positions)"))
    for column, role in zip(st.columns(2), ("teacher", "student"), strict=True):
        with column:
            st.markdown(plain(capture_sentence(alignment, role)))
            frame = capture_table(alignment, role)
            grid(frame, _capture_columns(), say(POSITIONS[role]), table_height(len(frame), 280))


def _capture_columns() -> dict:
    return {
        "layer": say("layer"),
        "positions": say("positions"),
        "layout": say("layout"),
        phrase("rotated channels"): st.column_config.NumberColumn(say("rotated channels"), format="%d"),
        "scale": st.column_config.NumberColumn(
            say("scale"), format="%.4g", help=say("Factor on cos and sin (YaRN, LongRoPE).")
        ),
        phrase("largest difference"): st.column_config.NumberColumn(
            say("largest difference"),
            format="%.0e",
            help=say("Relative, between the un-rotated keys of the same tokens at two positions."),
        ),
    }


def _written(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else neutral(str(value))
