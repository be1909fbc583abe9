"""Heads and layers that matter: R² and damages on the same axes, and against each other."""

import streamlit as st

from kvlab.language import phrase, say
from kvlab.results.alignment.sentences import R2_MEANING
from kvlab.results.function.data import Injection
from kvlab.results.function.figures import error_against_damage, function_map, layer_damage, measured
from kvlab.results.function.sentences import (
    ATTENTION_MEANING,
    DAMAGE_MEANING,
    ERRORS,
    correlated,
    correlation_sentence,
    head_sentence,
)
from kvlab.results.function.sentences import layers_sentence as damage_sentence
from kvlab.results.function.tables import cells_table, function_heading, head_table
from kvlab.web import cells, files, language
from kvlab.web.function.verdict import columns_of
from kvlab.web.widgets import count, number, segments

MEASURES = {
    "attention": phrase("Attention R²"),
    "projection": "R²",
    "kl": phrase("Swap KL"),
    "delta_ce": phrase("Swap ΔCE"),
}
MEANINGS = {
    "attention": ATTENTION_MEANING,
    "projection": R2_MEANING,
    "kl": DAMAGE_MEANING,
    "delta_ce": DAMAGE_MEANING,
}
TABLE = ("kl", "kl_se", "kl_mean", "delta_ce", "delta_ce_se", "attention_r2", "attention_se", "r2", "se")


def panel(injection: Injection, shown: str) -> None:
    """Draw the view of heads and layers. ``shown`` names the result in widgets and files."""
    measures = {name: words for name, words in MEASURES.items() if measured(injection, name, "key")}
    if not measures:
        st.info(say("No head was measured alone: the student’s attention cannot be watched and no swap was asked for."))
        return
    cell = _selected(injection)
    left, right = st.columns(2, gap="small")
    with left:
        key = f"heads-measure-{shown}"
        language.keep_choice(key, next(iter(measures)))
        measure = segments(say("Measure"), measures, key, label_visibility="collapsed")
        cells.maps(
            lambda kind, marked: function_map(injection, measure, kind, marked),
            cell,
            f"function-{measure}",
            shown,
            say("{kind} per student layer and KV head; the table below has the numbers."),
        )
        st.caption(say(MEANINGS[measure]))
    with right:
        _detail(injection, shown, cell)
    columns = {name: number(function_heading(name)) for name in TABLE} | {"n": count(say("n rows"))}
    alt = say("R² and damage of every student head")
    cells.table(cells_table(injection), columns, "function", shown, alt)
    _layers(injection, shown)
    _scatter(injection, shown, cell)


def _selected(injection: Injection) -> cells.Cell:
    """Return the pinned head: from this session or the URL, else the K head whose swap costs most, else the first."""
    known = {(c.kind, c.layer, c.head) for c in injection.projection}
    cell = cells.asked()
    if cell not in known:
        damage = {(s.kind, s.layer, s.head): s.kl for s in injection.swaps}
        cell = max((at for at in known if at[0] == "key"), key=lambda at: (damage.get(at, 0.0), -at[1], -at[2]))
    cells.keep(cell)
    return cell


def _detail(injection: Injection, shown: str, cell: cells.Cell) -> None:
    kind, layer, head = cell
    with st.container(border=True, key="detail"):
        st.subheader(cells.words(cell))
        st.markdown(head_sentence(injection, kind, layer, head))
        frame = head_table(injection, layer, head)
        files.table(frame, columns_of(frame.columns), f"{shown}-layer-{layer}-head-{head}", f"head-{shown}", True)


def _layers(injection: Injection, shown: str) -> None:
    sentence = damage_sentence(injection)
    if sentence is None:
        return
    st.markdown(say("**Whole layers, one at a time**"))
    st.markdown(sentence)
    alt = say("KL of handing over one layer alone, beside its training mean")
    files.chart(layer_damage(injection, "kl"), f"layer-damage-{shown}", alt, "function-layers")


def _scatter(injection: Injection, shown: str, cell: cells.Cell) -> None:
    errors = correlated(injection)
    if not errors:
        return
    st.markdown(say("**Does R² tell the damage?**"))
    for column, error in zip(st.columns(2), errors, strict=False):
        with column:
            figure = error_against_damage(injection, error, "kl", cell)
            alt = say("{error} of every head against the KL of its swap", error=say(ERRORS[error]))
            files.chart(figure, f"scatter-{error}-{shown}", alt, f"function-{error}-damage")
            st.caption(correlation_sentence(injection, error, "kl"))
