"""All numbers as tables, and the self-tests and settings behind them."""

import streamlit as st

from kvlab.language import phrase, say
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.sentences import capture_sentence
from kvlab.results.alignment.tables import asked, capture_table, heading, heads_table, measured
from kvlab.results.safe_csv import neutral
from kvlab.web.widgets import number, table_height

POSITIONS = {
    "teacher": phrase("How positions enter each layer of the teacher, and the largest difference left"),
    "student": phrase("How positions enter each layer of the student, and the largest difference left"),
}


def panel(alignment: Alignment, shown: str) -> None:
    frame = heads_table(alignment)
    st.dataframe(
        frame,
        hide_index=True,
        height=320,
        placeholder="–",
        column_config={name: heading(name) for name in frame.columns}
        | {name: number(heading(name)) for name in frame.select_dtypes("float").columns},
        alt=say("Every score of every head"),
    )
    _capture(alignment)
    left, right = st.columns(2)
    left.markdown(say("**Settings**"))
    left.dataframe(_pairs(asked(alignment)), hide_index=True, height=360, column_config=_pair_columns())
    right.markdown(say("**Data, versions, seconds**"))
    right.dataframe(_pairs(measured(alignment)), hide_index=True, height=360, column_config=_pair_columns())


def _capture(alignment: Alignment) -> None:
    st.markdown(say("**Self-test of the captured keys** (the same tokens read at two positions)"))
    for column, role in zip(st.columns(2), ("teacher", "student"), strict=True):
        with column:
            st.markdown(capture_sentence(alignment, role))
            frame = capture_table(alignment, role)
            st.dataframe(
                frame,
                hide_index=True,
                height=table_height(len(frame), 280),
                placeholder="–",
                column_config=_capture_columns(),
                alt=say(POSITIONS[role]),
            )


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


def _pairs(pairs: list[tuple[str, object]]) -> list[dict[str, str]]:
    return [{"name": name.replace("_", " "), "value": _written(value)} for name, value in pairs]


def _pair_columns() -> dict[str, str]:
    return {"name": say("name"), "value": say("value")}


def _written(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else neutral(str(value))
