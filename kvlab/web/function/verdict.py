"""The verdict of a functional test and its numbers."""

from collections.abc import Iterable

import streamlit as st

from kvlab.language import phrase, say
from kvlab.results.alignment.data import as_json
from kvlab.results.function import data as results
from kvlab.results.function import sentences
from kvlab.results.function.data import Injection
from kvlab.results.function.figures import curve, hybrid, variants
from kvlab.results.function.page import function_archive, function_html
from kvlab.results.function.sentences import (
    DAMAGES,
    HYBRID_MEANING,
    curve_sentence,
    hybrid_sentence,
    verdict_sentence,
)
from kvlab.results.function.tables import function_heading, hybrid_table, settings_table, variants_table
from kvlab.web import files, language
from kvlab.web.widgets import count, grid, number

MEASURES = ("kl", "delta_ce")
NUMBERS = ("kl", "kl_se", "delta_ce", "delta_ce_se", "kl_over_projected", "kl_over_projected_se", "same_choice")


def panel(injection: Injection, shown: str) -> None:
    """Draw the verdict. ``shown`` names the result in widgets and files."""
    share = _share(injection, shown)
    rows = injection.at(share)
    for column, measure in zip(st.columns(2), MEASURES, strict=True):
        with column:
            alt = say("{measure} of every variant of the prefix’ cache", measure=DAMAGES[measure])
            files.chart(variants(rows, measure), f"variants-{measure}-{shown}", alt, f"function-{measure}")
    st.markdown(verdict_sentence(injection, share))
    columns = columns_of(("variant", *NUMBERS, "n", "documents"))
    files.table(variants_table(injection, share), columns, f"{shown}-variants", f"variants-{shown}")
    _curve(injection, shown, share)
    _hybrid(injection, shown)


def _share(injection: Injection, shown: str) -> float:
    shares = sentences.shares(injection)
    if len(shares) < 2:
        return shares[0]
    key = f"share-{shown}"
    language.keep_choice(key, injection.injection["prefix"])
    return st.select_slider(
        say("Share of each document handed over"),
        shares,
        format_func=lambda share: f"{share:.0%}",
        key=key,
        help=say("The cache of this share of the student’s tokens is replaced; the rest of the text is judged."),
    )


def _curve(injection: Injection, shown: str, share: float) -> None:
    if len(sentences.shares(injection)) < 2:
        return
    st.markdown(say("**Over the length of the prefix**"))
    key = f"curve-measure-{shown}"
    language.keep_choice(key, MEASURES[0])
    measure = st.segmented_control(
        say("Measure"), MEASURES, format_func=DAMAGES.get, key=key, required=True, label_visibility="collapsed"
    )
    alt = say("{measure} of every variant over the share of the document", measure=DAMAGES[measure])
    files.chart(curve(injection, measure, share), f"curve-{shown}", alt, f"function-curve-{measure}")
    st.caption(curve_sentence(injection))


def _hybrid(injection: Injection, shown: str) -> None:
    sentence = hybrid_sentence(injection)
    if sentence is None:
        return
    st.markdown(say("**How much must the student still read?**"))
    st.markdown(sentence)
    alt = say("KL over the share of the prefill that the student computes or reads itself")
    files.chart(hybrid(injection), f"hybrid-{shown}", alt, "function-hybrid")
    st.caption(say(HYBRID_MEANING))
    frame = hybrid_table(injection)
    files.table(frame, columns_of(frame.columns), f"{shown}-hybrid", f"hybrid-{shown}")


def columns_of(names: Iterable[str]) -> dict:
    """Configure the columns of a table."""
    shown = {"variant": str, "measure": str, "kind": str, "part": str, "kept": count, "n": count, "documents": count}
    return {name: shown.get(name, number)(function_heading(name)) for name in names}


FILES = {  # file name ending -> label, MIME type, function of the result
    "function.html": (phrase("HTML, one file with figures"), "text/html", function_html),
    "function.zip": (phrase("ZIP of CSV and JSON"), "application/zip", function_archive),
    results.JSON_NAME: (results.JSON_NAME, "application/json", as_json),
}


def numbers(injection: Injection, shown: str) -> None:
    """Draw all numbers and settings. ``shown`` names the result in widgets and files."""
    frame = variants_table(injection)
    st.markdown(say("**Every variant at every prefix**"))
    files.table(frame, columns_of(frame.columns), f"{shown}-variants", f"all-{shown}", True)
    st.markdown(say("**Settings, data, versions, seconds**"))
    settings = settings_table(injection)
    grid(settings, {name: say(name) for name in settings.columns}, say("Settings of this test"), 420)
