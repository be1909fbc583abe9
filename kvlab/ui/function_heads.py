"""Which heads and layers matter: errors and damages on the same axes, and the one against the other."""

from __future__ import annotations

import streamlit as st

from kvlab import plots, report
from kvlab.injection import Injection
from kvlab.language import mark, say
from kvlab.plots import KIND_NAME
from kvlab.ui import cells, downloads, languages
from kvlab.ui.text import count, number

MEASURES = {
    "attention": mark("Attention-output error"),
    "projection": mark("Projection error"),
    "kl": mark("Swap damage, KL"),
    "delta_ce": mark("Swap damage, ΔCE"),
}
MEANINGS = {
    "attention": report.ATTENTION_MEANING,
    "projection": report.ERROR_MEANING,
    "kl": report.DAMAGE_MEANING,
    "delta_ce": report.DAMAGE_MEANING,
}
TABLE = ("error", "se", "attention", "attention_se", "kl", "kl_se", "kl_mean", "delta_ce", "delta_ce_se")


def panel(injection: Injection, shown: str) -> None:
    """``shown`` names the result in widgets and files."""
    measures = [name for name in MEASURES if plots.measured(injection, name, "key")]
    if not measures:
        st.info(say("No head was measured alone: the student’s attention cannot be watched and no swap was asked for."))
        return
    key = f"heads-measure-{shown}"
    languages.keep_choice(key, measures[0])
    measure = st.segmented_control(
        say("Measure"),
        measures,
        format_func=lambda name: say(MEASURES[name]),
        key=key,
        required=True,
        label_visibility="collapsed",
    )
    st.caption(say(MEANINGS[measure]))
    cell = _selected(injection)
    cells.maps(
        lambda kind, marked: plots.function_map(injection, measure, kind, marked),
        cell,
        f"function-{measure}",
        shown,
        say("{kind} per student layer and KV head; the table below has the numbers."),
    )
    frame = report.cells_table(injection)
    cells.table(frame, _columns(), "function", shown, say("Errors and damage of every student head"))
    _detail(injection, shown, cell)
    _layers(injection, shown)
    _scatter(injection, shown, cell)


def _selected(injection: Injection) -> cells.Cell:
    """The pinned head: of this session, of the URL, or the K head whose swap, else whose projection, is worst."""
    known = {(c.kind, c.layer, c.head) for c in injection.projection}
    cell = cells.asked()
    if cell not in known:
        damage = {(s.kind, s.layer, s.head): s.kl for s in injection.swaps}
        cell = max((at for at in known if at[0] == "key"), key=lambda at: (damage.get(at, 0.0), -at[1], -at[2]))
    cells.keep(cell)
    return cell


def _columns() -> dict:
    columns = {"kind": "K/V", "layer": say("layer"), "head": say("head")}
    columns |= {name: number(report.function_heading(name)) for name in TABLE}
    return columns | {"n": count(say("n rows"))}


def _detail(injection: Injection, shown: str, cell: cells.Cell) -> None:
    kind, layer, head = cell
    with st.container(border=True, key="detail"):
        st.subheader(say("{kind}, layer {layer}, head {head}", kind=KIND_NAME[kind], layer=layer, head=head))
        st.markdown(report.head_sentence(injection, kind, layer, head))
        frame = report.head_table(injection, layer, head)
        named = {name: report.function_heading(name) for name in frame.columns}
        columns = {name: named[name] if name in ("measure", "kind") else number(named[name]) for name in frame.columns}
        downloads.table(frame, columns | {"n": count(named["n"])}, f"{shown}-{layer}-{head}", f"head-{shown}", True)


def _layers(injection: Injection, shown: str) -> None:
    sentence = report.damage_sentence(injection)
    if sentence is None:
        return
    st.markdown(say("**Whole layers, one at a time**"))
    st.markdown(sentence)
    figure = plots.layer_damage(injection, "kl")
    st.plotly_chart(
        figure,
        key=f"layer-damage-{shown}",
        config={"displayModeBar": False},
        alt=say("KL of handing over one layer alone, beside its training mean"),
    )
    downloads.figure_button(figure, "function-layers", f"layer-damage-{shown}")


def _scatter(injection: Injection, shown: str, cell: cells.Cell) -> None:
    errors = [name for name in report.ERRORS if any(c.error == name for c in injection.correlations)]
    if not errors:
        return
    st.markdown(say("**Which error tells the damage?**"))
    for column, error in zip(st.columns(2), errors, strict=False):
        with column:
            figure = plots.error_against_damage(injection, error, "kl", cell)
            st.plotly_chart(
                figure,
                key=f"scatter-{error}-{shown}",
                config={"displayModeBar": False},
                alt=say("{error} of every head against the KL of its swap", error=say(report.ERRORS[error])),
            )
            downloads.figure_button(figure, f"function-{error}-damage", f"scatter-{error}-{shown}")
            st.caption(report.correlation_sentence(injection, error, "kl"))
