"""The timeline: both token rails over byte position, joined by a rule's map; every rule's index map together."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from kvlab import plots
from kvlab.results import Alignment
from kvlab.ui import downloads, kept
from kvlab.ui.heads import document_picker
from kvlab.ui.text import TIME_RULES

WINDOW = 96  # bytes that are legible at once
STEP = 8


def panel(alignment: Alignment, shown: str) -> None:
    if not alignment.inspected:
        st.info("No document was kept token by token. Run again with --inspect above 0.")
        return
    rules = list(alignment.timeline["rules"])
    left, middle, right = st.columns([3, 3, 2])
    with left:
        number = document_picker(alignment, shown, "timeline")
    with middle:
        rule = st.selectbox(
            "Joined by",
            rules,
            index=rules.index(plots.rule_shown(alignment)),
            format_func=TIME_RULES.get,
            key=f"rule-{shown}",
        )
    document = alignment.inspected[number]
    length = len(document.text.encode())
    start = 0
    if length > WINDOW:
        last = -(-(length - WINDOW) // STEP) * STEP  # the end of the document is reached
        start = right.slider(
            "First byte shown", 0, last, 0, step=STEP, key=f"window-{shown}-{number}", help="Or drag the plot."
        )
    st.markdown(_reading(alignment, rule))
    figure = plots.timeline(alignment, number, rule, (start, min(length, start + WINDOW)))
    st.plotly_chart(
        figure,
        key=f"timeline-{shown}",
        config={"displaylogo": False, "scrollZoom": True, "modeBarButtonsToRemove": ["select2d", "lasso2d"]},
        alt="Teacher and student tokens over byte position, joined by the time map; error per student token beneath",
    )
    downloads.figure_button(figure, f"timeline-{number}-{rule}", f"timeline-{shown}")
    st.caption(
        f"Errors are held out, under the {alignment.settings['time']} rule of this analysis, averaged over all heads. "
        "Grey bands are the parts of the document. "
        "␣ is a space, ⏎ a line break, <E4> one byte of a character that is split."
    )
    kept.panel(alignment, shown, number)
    left, right = st.columns(2)
    with left:
        st.markdown("**Every rule’s map, together**")
        maps = plots.index_maps(alignment, number)
        st.plotly_chart(
            maps,
            key=f"maps-{shown}",
            config={"displayModeBar": False},
            alt="For each rule, the teacher step that stands for each student token",
        )
        downloads.figure_button(maps, f"maps-{number}", f"maps-{shown}")
    with right:
        st.markdown(f"**Rules over {alignment.timeline['documents']} documents**")
        st.dataframe(
            _rules(alignment),
            column_config={
                name: st.column_config.NumberColumn(name, format=form)
                for name, form in (
                    ("exact", "percent"),
                    ("covered", "percent"),
                    ("looks ahead", "percent"),
                    ("mean lag, bytes", "%.2f"),
                    ("largest", "%d"),
                )
            },
            alt="Exact-boundary rate, coverage and lag of every time rule",
        )
        st.caption(
            f"Shares of {alignment.timeline['student_tokens']:,} student content tokens "
            f"({alignment.timeline['teacher_tokens']:,} of the teacher)."
        )


def _reading(alignment: Alignment, rule: str) -> str:
    rates = alignment.timeline["rules"][rule]
    return (
        f"With **{rule}**, {rates['exact_rate']:.0%} of student tokens end at the same byte as their teacher token, "
        f"{rates['coverage']:.0%} have a teacher step, and {rates['looks_ahead_rate']:.0%} would see ahead "
        f"(mean distance {rates['mean_absolute_lag_bytes']:.1f} bytes)."
    )


def _rules(alignment: Alignment) -> pd.DataFrame:
    rows = {
        rule: {
            "exact": rates["exact_rate"],
            "covered": rates["coverage"],
            "looks ahead": rates["looks_ahead_rate"],
            "mean lag, bytes": rates["mean_absolute_lag_bytes"],
            "largest": rates["largest_lag_bytes"],
        }
        for rule, rates in alignment.timeline["rules"].items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("rule")
