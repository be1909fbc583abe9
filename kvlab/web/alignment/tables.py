"""All numbers as tables, and the self-tests and settings behind them."""

from __future__ import annotations

import streamlit as st

from kvlab.language import phrase, say
from kvlab.request.align import prompt_source
from kvlab.results.alignment.data import Alignment
from kvlab.results.alignment.sentences import capture_sentence
from kvlab.results.alignment.tables import capture_table, heading, heads_table
from kvlab.results.safe_csv import neutral
from kvlab.web.widgets import number, table_height

POSITIONS = {
    "teacher": phrase("How positions enter each layer of the teacher, and the largest difference left"),
    "student": phrase("How positions enter each layer of the student, and the largest difference left"),
}
# What a number of alignment.json is; settings and packages keep the names by which they are set and installed.
NAMES = {
    "documents": phrase("documents"),
    "documents_sha256": phrase("documents (SHA-256)"),
    "calibration_documents": phrase("calibration documents"),
    "student_tokens": phrase("student tokens"),
    "teacher_tokens": phrase("teacher tokens"),
    "repeated_tokens": phrase("student tokens of repeated beginnings, left out"),
    "folds": phrase("folds"),
    "split": phrase("split"),
    "rows_fit": phrase("rows fit"),
    "rows_scored": phrase("rows scored"),
    "rows_per_feature": phrase("rows per feature"),
    "rows": phrase("control rows"),
    "whole_sample": phrase("control whole sample"),
    "random_teacher": phrase("control random teacher"),
    "read_sample_s": phrase("read sample"),
    "choose_layers_s": phrase("choose layers"),
    "controls_s": phrase("controls"),
    "compare_rules_s": phrase("compare rules"),
    "sum_s": phrase("sum"),
    "read_rest_s": phrase("read rest"),
    "fit_and_score_s": phrase("fit and score"),
    "token_by_token_s": phrase("token by token"),
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
    prompts, teachers = prompt_source(alignment.prompts), ", ".join(alignment.teachers)
    asked = {say("prompts"): prompts, say("teachers"): teachers, **alignment.settings}
    left.dataframe(_pairs(asked), hide_index=True, height=360, column_config=_pair_columns())
    right.markdown(say("**Data, versions, seconds**"))
    flat = {_named(k): v for k, v in alignment.data.items() if not isinstance(v, dict)}
    controls = {_named(k, "control "): v for k, v in alignment.controls.items() if not isinstance(v, dict)}
    seconds = {_named(k): say("{seconds:.2f} s", seconds=v) for k, v in alignment.timings.items()}
    found = {**flat, **controls, **alignment.versions, **seconds}
    right.dataframe(_pairs(found), hide_index=True, height=360, column_config=_pair_columns())


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


def _pairs(values: dict) -> list[dict[str, str]]:
    return [{"name": name.replace("_", " "), "value": _written(value)} for name, value in values.items()]


def _pair_columns() -> dict[str, str]:
    return {"name": say("name"), "value": say("value")}


def _written(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else neutral(str(value))


def _named(name: str, otherwise: str = "") -> str:
    """What is said of a name in alignment.json; of one that is not known, the name itself behind ``otherwise``."""
    return say(NAMES[name]) if name in NAMES else f"{otherwise}{name.removesuffix('_s')}"
