"""K and V heatmaps on one colour range; a click or a table row pins one head's detail."""

from __future__ import annotations

from math import isnan

import streamlit as st

from kvlab import plots
from kvlab.results import Alignment
from kvlab.ui import downloads
from kvlab.ui.text import ERROR_MEANING, head_sentence

KINDS = {"key": "K", "value": "V"}
TABLE = {
    "kind": "K/V",
    "layer": "layer",
    "head": "head",
    "error": st.column_config.NumberColumn("error 1 − R²", format="%.3f"),
    "r2": st.column_config.NumberColumn("R²", format="%.3f"),
    "se": st.column_config.NumberColumn("± s.e.", format="%.3f"),
    "gain": st.column_config.NumberColumn("gain over token", format="%.3f"),
    "r2_shuffled": st.column_config.NumberColumn("R² shuffled", format="%.3f"),
    "cosine": st.column_config.NumberColumn("cosine", format="%.3f"),
    "n": st.column_config.NumberColumn("n tokens", format="localized"),
    "beats_controls": st.column_config.CheckboxColumn("beats controls"),
}


def panel(alignment: Alignment, run_id: str) -> None:
    st.caption(ERROR_MEANING)
    selected = _selected(alignment)
    for column, kind in zip(st.columns(2), KINDS, strict=True):
        marked = selected[1:] if selected[0] == kind else None
        figure = plots.error_heatmap(alignment, kind, marked)
        key = f"heatmap-{run_id}-{kind}"
        with column:
            st.plotly_chart(
                figure,
                key=key,
                on_select=lambda key=key, kind=kind: _clicked(key, kind),
                selection_mode="points",
                config={"displayModeBar": False},
                alt=f"{KINDS[kind]} projection error per student layer and KV head; the table below has the numbers.",
            )
            downloads.figure_button(figure, f"{KINDS[kind]}-error", f"{run_id}-{kind}")
    with st.expander("The same as a table: pick a row to see that head", icon=":material/table:"):
        _table(alignment, run_id)
    _detail(alignment, run_id, *selected)


def _selected(alignment: Alignment) -> tuple[str, int, int]:
    """The pinned head: of this session, of the URL, or the worst K head."""
    wanted = st.session_state.get("cell") or st.query_params.get("cell", "")
    try:
        kind, layer, head = wanted.split("-")
        cell = ("key" if kind == "K" else "value", int(layer), int(head))
        alignment.score(*cell)
    except (KeyError, ValueError):
        worst = max((s for s in alignment.heads if s.kind == "key"), key=lambda s: -1 if isnan(s.error) else s.error)
        cell = (worst.kind, worst.layer, worst.head)
    st.query_params["cell"] = f"{KINDS[cell[0]]}-{cell[1]}-{cell[2]}"
    return cell


def _clicked(key: str, kind: str) -> None:
    points = st.session_state[key].selection.points
    if points and points[0].get("customdata"):
        layer, head = points[0]["customdata"][:2]
        st.session_state["cell"] = f"{KINDS[kind]}-{layer}-{head}"


def _table(alignment: Alignment, run_id: str) -> None:
    frame = alignment.table()
    frame["kind"] = frame["kind"].map(KINDS)
    key = f"head-table-{run_id}"

    def picked() -> None:
        rows = st.session_state[key].selection.rows
        if rows:
            row = frame.iloc[rows[0]]
            st.session_state["cell"] = f"{row['kind']}-{row['layer']}-{row['head']}"

    st.dataframe(
        frame,
        key=key,
        on_select=picked,
        selection_mode="single-row",
        hide_index=True,
        column_order=list(TABLE),
        column_config=TABLE,
        height=280,
        alt="Scores of every student head beside their controls",
    )


def _detail(alignment: Alignment, run_id: str, kind: str, layer: int, head: int) -> None:
    score = alignment.score(kind, layer, head)
    with st.container(border=True, key="detail"):
        st.subheader(f"{KINDS[kind]}, layer {layer}, head {head}")
        st.markdown(head_sentence(alignment, score))
        left, right = st.columns([2, 3])
        with left:
            st.markdown("**Against its controls**")
            st.plotly_chart(
                plots.controls(score),
                key=f"controls-{run_id}",
                config={"displayModeBar": False},
                alt="R² of this head beside token identity, shuffled rows and the training mean",
            )
        with right:
            st.markdown("**Which teacher heads it is built from** (ridge refitted without, and with only, each)")
            figure = plots.contributions(alignment, kind, layer, head)
            st.plotly_chart(
                figure,
                key=f"contributions-{run_id}",
                config={"displayModeBar": False},
                alt="Held-out R² lost without each teacher head, and of each alone",
            )
        if not alignment.inspected:
            return
        number = document_picker(alignment, run_id, "detail")
        st.markdown("**Error along the student’s tokens** (squared error over the head’s variance; mean ≈ the error)")
        figure = plots.token_errors(alignment, number, kind, layer, head)
        st.plotly_chart(
            figure,
            key=f"tokens-{run_id}",
            config={"displayModeBar": False},
            alt="Held-out squared error of each student token",
        )
        downloads.figure_button(figure, f"tokens-{KINDS[kind]}-{layer}-{head}", f"tokens-{run_id}")


def document_picker(alignment: Alignment, run_id: str, where: str) -> int:
    """Which of the documents kept token by token is shown."""
    labels = [f"{d.id}: {' '.join(d.text.split())[:70]}" for d in alignment.inspected]
    return st.selectbox(
        "Document",
        range(len(labels)),
        format_func=labels.__getitem__,
        key=f"document-{where}-{run_id}",
        help="The first documents of the analysis are kept token by token.",
    )
