"""Draw a K and a V map with one pinned head, which a click, a table row or the address picks."""

from collections.abc import Callable

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from kvlab.language import say
from kvlab.results.alignment.data import Alignment, worst_head
from kvlab.results.style import KIND_NAME
from kvlab.web import files
from kvlab.web.widgets import grid

Cell = tuple[str, int, int]  # kind, layer as numbered in the student, head


def selected(alignment: Alignment) -> Cell:
    """Return the pinned head: from this session, else the URL, else the worst K head."""
    cell = asked()
    try:
        alignment.score(*cell)
    except (KeyError, TypeError):
        cell = worst_head(alignment)
    keep(cell)
    return cell


def asked() -> Cell | None:
    """Return the head named by this session or the URL, even if the model has no such head; None without one."""
    wanted = st.session_state.get("cell") or st.query_params.get("cell", "")
    try:
        kind, layer, head = wanted.split("-")
        return "key" if kind == "K" else "value", int(layer), int(head)
    except ValueError:
        return None


def keep(cell: Cell) -> None:
    """Put the pinned head into the address."""
    st.query_params["cell"] = name_of(cell)


def name_of(cell: Cell) -> str:
    """Return the name of a head in addresses and file names, such as K-3-0."""
    return f"{KIND_NAME[cell[0]]}-{cell[1]}-{cell[2]}"


def words(cell: Cell) -> str:
    kind, layer, head = cell
    return say("{kind}, layer {layer}, head {head}", kind=KIND_NAME[kind], layer=layer, head=head)


def maps(draw: Callable[[str, tuple[int, int] | None], go.Figure], cell: Cell, name: str, shown: str, alt: str) -> None:
    """Draw both maps side by side. ``draw`` takes a kind and its pinned (layer, head). ``alt`` contains {kind}."""
    for column, kind in zip(st.columns(2), KIND_NAME, strict=True):
        figure = draw(kind, cell[1:] if cell[0] == kind else None)
        key = f"{name}-{shown}-{kind}"
        with column:
            st.plotly_chart(
                figure,
                key=key,
                on_select=lambda key=key, kind=kind: _clicked(key, kind),
                selection_mode="points",
                config=files.NO_BAR,
                alt=alt.format(kind=KIND_NAME[kind]),
            )
            files.figure_button(figure, f"{KIND_NAME[kind]}-{name}", key)


def _clicked(key: str, kind: str) -> None:
    points = st.session_state[key].selection.points
    if points and points[0].get("customdata"):
        st.session_state["cell"] = name_of((kind, *points[0]["customdata"][:2]))


def table(frame: pd.DataFrame, columns: dict, name: str, shown: str, alt: str) -> None:
    """Draw a table whose rows pick the head. ``frame`` has kind ("K" or "V"), layer, head and the ``columns``."""
    key = f"{name}-table-{shown}"
    columns = {"kind": "K/V", "layer": say("layer"), "head": say("head")} | columns

    def picked() -> None:
        rows = st.session_state[key].selection.rows
        if rows:
            row = frame.iloc[rows[0]]
            st.session_state["cell"] = f"{row['kind']}-{row['layer']}-{row['head']}"

    with st.expander(say("The same as a table: pick a row to see that head"), icon=":material/table:"):
        picks = {"on_select": picked, "selection_mode": "single-row"}
        grid(frame, columns, alt, 280, key=key, column_order=list(columns), **picks)
