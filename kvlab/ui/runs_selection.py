"""Which runs are selected: in the address (``?runs=ID,ID``), so that a reload and a colleague see the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import streamlit as st

from kvlab.runs import store
from kvlab.runs.history import Row

MOST = 100  # an address has its limits
_KEY = "runs-selected"


def selected(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """The selected runs in the order in which they were picked, and what the address names but is not there."""
    if "runs" in st.query_params:
        wanted = [part.strip() for part in st.query_params["runs"].split(",")]
    else:
        wanted = st.session_state.get(_KEY, [])
    wanted = [part for part in dict.fromkeys(wanted) if part][:MOST]
    known = {row.id: row for row in rows}
    found = [part for part in wanted if part in known]
    select(wanted)
    return [known[part] for part in found], [part for part in wanted if part not in known]


def select(ids: Iterable[str]) -> None:
    ids = list(dict.fromkeys(ids))[:MOST]
    st.session_state[_KEY] = ids
    if not ids:
        st.query_params.pop("runs", None)
    elif st.query_params.get("runs") != ",".join(ids):
        st.query_params["runs"] = ",".join(ids)


def drop(ids: Iterable[str]) -> None:
    gone = set(ids)
    select([part for part in st.session_state.get(_KEY, []) if part not in gone])


def named(ids: Sequence[str]) -> str:
    """Ids of an address for people; what is no id is cut short."""
    return ", ".join(part if store.valid_id(part) else repr(part[:60]) for part in ids)
