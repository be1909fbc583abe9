"""All numbers as tables, and the self-tests and settings behind them."""

from __future__ import annotations

import streamlit as st

from kvlab import report
from kvlab.results import Alignment
from kvlab.safe_csv import neutral
from kvlab.ui.text import number, table_height

CAPTURE = {
    "rotated channels": st.column_config.NumberColumn("rotated channels", format="%d"),
    "scale": st.column_config.NumberColumn("scale", format="%.4g", help="Factor on cos and sin (YaRN, LongRoPE)."),
    "largest difference": st.column_config.NumberColumn(
        "largest difference",
        format="%.0e",
        help="Relative, between the un-rotated keys of the same tokens at two positions.",
    ),
}


def panel(alignment: Alignment, shown: str) -> None:
    frame = report.heads_table(alignment)
    st.dataframe(
        frame,
        hide_index=True,
        height=320,
        placeholder="–",
        column_config={name: number(name) for name in frame.select_dtypes("float").columns},
        alt="Every score of every head",
    )
    _capture(alignment)
    left, right = st.columns(2)
    left.markdown("**Settings**")
    asked = {"prompts": alignment.prompts, "teachers": ", ".join(alignment.teachers), **alignment.settings}
    left.dataframe(_pairs(asked), hide_index=True, height=360)
    right.markdown("**Data, versions, seconds**")
    flat = {k: v for k, v in alignment.data.items() if not isinstance(v, dict)}
    controls = {f"control {name}": value for name, value in alignment.controls.items()}
    seconds = {k.removesuffix("_s").replace("_", " "): f"{v:.2f} s" for k, v in alignment.timings.items()}
    right.dataframe(_pairs({**flat, **controls, **alignment.versions, **seconds}), hide_index=True, height=360)


def _capture(alignment: Alignment) -> None:
    st.markdown("**Self-test of the captured keys** (the same tokens read at two positions)")
    for column, role in zip(st.columns(2), ("teacher", "student"), strict=True):
        with column:
            st.markdown(report.capture_sentence(alignment, role))
            frame = report.capture_table(alignment, role)
            st.dataframe(
                frame,
                hide_index=True,
                height=table_height(len(frame), 280),
                placeholder="–",
                column_config=CAPTURE,
                alt=f"How positions enter each layer of the {role}, and the largest difference left",
            )


def _pairs(values: dict) -> list[dict[str, str]]:
    return [
        {"name": name.replace("_", " "), "value": f"{value:.4g}" if isinstance(value, float) else neutral(str(value))}
        for name, value in values.items()
    ]
