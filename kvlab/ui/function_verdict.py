"""KL and ΔCE of every variant beside its controls, at one length of the prefix and over all."""

from __future__ import annotations

import streamlit as st

from kvlab import plots, report
from kvlab.injection import Injection
from kvlab.language import say
from kvlab.ui import downloads, languages
from kvlab.ui.text import count, number

MEASURES = ("kl", "delta_ce")
NUMBERS = ("kl", "kl_se", "delta_ce", "delta_ce_se", "kl_over_projected", "kl_over_projected_se", "same_choice")


def panel(injection: Injection, shown: str) -> None:
    """``shown`` names the result in widgets and files."""
    share = _share(injection, shown)
    st.markdown(report.verdict_sentence(injection, share))
    rows = [row for row in injection.injected if row.prefix == share]
    for column, measure in zip(st.columns(2), MEASURES, strict=True):
        with column:
            figure = plots.variants(rows, measure)
            st.plotly_chart(
                figure,
                key=f"variants-{measure}-{shown}",
                config={"displayModeBar": False},
                alt=say("{measure} of every variant of the prefix’ cache", measure=report.DAMAGES[measure]),
            )
            downloads.figure_button(figure, f"function-{measure}", f"variants-{measure}-{shown}")
    st.caption(say(report.MEANING))
    frame = report.variants_table(injection, share)
    downloads.table(frame, _columns(), f"{shown}-variants", f"variants-{shown}")
    _curve(injection, shown, share)


def _share(injection: Injection, shown: str) -> float:
    shares = report.shares(injection)
    if len(shares) < 2:
        return shares[0]
    key = f"share-{shown}"
    languages.keep_choice(key, injection.injection["prefix"])
    return st.select_slider(
        say("Share of each document handed over"),
        shares,
        format_func=lambda share: f"{share:.0%}",
        key=key,
        help=say("The cache of this share of the student’s tokens is replaced; the rest of the text is judged."),
    )


def _curve(injection: Injection, shown: str, share: float) -> None:
    if len(report.shares(injection)) < 2:
        return
    st.markdown(say("**Over the length of the prefix**"))
    key = f"curve-measure-{shown}"
    languages.keep_choice(key, MEASURES[0])
    measure = st.segmented_control(
        say("Measure"),
        MEASURES,
        format_func=report.DAMAGES.get,
        key=key,
        required=True,
        label_visibility="collapsed",
    )
    figure = plots.curve(injection, measure, share)
    st.plotly_chart(
        figure,
        key=f"curve-{shown}",
        config={"displayModeBar": False},
        alt=say("{measure} of every variant over the share of the document", measure=report.DAMAGES[measure]),
    )
    downloads.figure_button(figure, f"function-curve-{measure}", f"curve-{shown}")
    st.caption(report.curve_sentence(injection))


def _columns() -> dict:
    named = {name: report.function_heading(name) for name in ("variant", *NUMBERS, "n", "documents")}
    columns = {name: number(named[name]) for name in NUMBERS}
    return {"variant": named["variant"], **columns, "n": count(named["n"]), "documents": count(named["documents"])}
