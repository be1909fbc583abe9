"""The table of all runs, and which of them are selected."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from kvlab.language import say
from kvlab.results.safe_csv import neutral
from kvlab.results.training.words import mark_words
from kvlab.runs import store
from kvlab.runs.history import Row
from kvlab.web.training import charts, words
from kvlab.web.widgets import GIB, number, table_height

HEIGHT = 330
NOT_OF_ANALYSES = ("verdict", "steps", "loss", "ce_before", "ce_after", "peak")


def panel(rows: Sequence[Row], selected: Sequence[Row], colours: dict[str, int], only_analyses: bool) -> None:
    """``colours``: position in the figure, by run id."""
    key, columns = _key(rows, selected), _columns()
    st.dataframe(
        _coloured(_frame(rows, colours), rows, colours),
        key=key,
        on_select=lambda: _picked(key, rows, selected),
        selection_mode="multi-row",
        selection_default={"selection": {"rows": _positions(rows, selected)}},
        hide_index=True,
        column_order=[
            name
            for name in columns
            if not (only_analyses and name in NOT_OF_ANALYSES) and not (name == "line" and not colours)
        ],
        column_config=columns,
        height=table_height(max(len(rows), 1), HEIGHT),
        placeholder="–",
        alt=say(
            "All runs, newest first: state, verdict, steps, loss, held-out cross-entropy, memory, device, time, note"
        ),
    )


def _columns() -> dict[str, Any]:
    column = st.column_config
    memory = say("Most memory in use: of the GPU, or without one of the run's own process.")
    return {
        "line": column.TextColumn("", width=30, help=say("The colour of the run in the figure below.")),
        "name": column.TextColumn(say("run"), width=160),
        "state": column.TextColumn(say("state"), width=130),
        "verdict": column.TextColumn(say("verdict"), width=74, help=say("The checkpoints of the run, all together.")),
        "steps": column.TextColumn(say("step / of"), width=76),
        "loss": number(say("final loss"), say("Of the last step that was logged.")),
        "ce_before": number(say("CE before"), say("Held-out cross-entropy before the first step, nats per token.")),
        "ce_after": number(say("CE after"), say("Held-out cross-entropy after the last step, nats per token.")),
        "peak": column.NumberColumn(say("peak GiB"), format="%.2f", help=memory),
        "device": column.TextColumn(say("device"), width=52),
        "started": column.DatetimeColumn(say("started (UTC)"), format="YYYY-MM-DD HH:mm", width=122),
        "elapsed": column.NumberColumn(
            say("seconds"), format="%.0f", help=say("Since its start, or its last resumption.")
        ),
        "note": column.TextColumn(say("note"), width=110),
    }


def _frame(rows: Sequence[Row], colours: dict[str, int]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "line": ["━━" if row.id in colours else "" for row in rows],
            "name": [neutral(row.name) for row in rows],
            "state": [words.state(row) for row in rows],
            "verdict": [mark_words(row.verdict) for row in rows],
            "steps": [words.steps(row) for row in rows],
            "loss": _floats(row.loss for row in rows),
            "ce_before": _floats(row.ce_before for row in rows),
            "ce_after": _floats(row.ce_after for row in rows),
            "peak": _floats(row.peak.used / GIB if row.peak else None for row in rows),
            "device": [row.device for row in rows],
            "started": pd.to_datetime([row.started for row in rows], utc=True, errors="coerce"),
            "elapsed": _floats(row.elapsed_s for row in rows),
            "note": [neutral(" ".join(row.note.split())[:200]) for row in rows],
        }
    )


def _floats(values) -> pd.Series:
    return pd.Series(list(values), dtype="float64")


def _coloured(frame: pd.DataFrame, rows: Sequence[Row], colours: dict[str, int]):
    """With the lines in their colours; a plain table where none is drawn, which is cheaper."""
    if not colours:
        return frame
    css = [f"color: {charts.colour(colours[row.id])}" if row.id in colours else "" for row in rows]
    return frame.style.apply(lambda _: css, subset=["line"])


def _positions(rows: Sequence[Row], selected: Sequence[Row]) -> list[int]:
    wanted = {row.id for row in selected}
    return [position for position, row in enumerate(rows) if row.id in wanted]


def _key(rows: Sequence[Row], selected: Sequence[Row]) -> str:
    """The widget remembers row numbers: it is another widget when other runs stand there, or others are selected."""
    listed = hashlib.sha1("".join(row.id for row in rows).encode()).hexdigest()[:12]
    epoch = st.session_state.setdefault("runs-epoch", 0)
    kept = st.session_state.get(f"runs-table-{listed}-{epoch}")
    if kept is not None and sorted(kept["selection"]["rows"]) != _positions(rows, selected):
        epoch = st.session_state["runs-epoch"] = epoch + 1
    return f"runs-table-{listed}-{epoch}"


def _picked(key: str, rows: Sequence[Row], selected: Sequence[Row]) -> None:
    """What is selected but filtered out of the table stays selected."""
    picked = [rows[position].id for position in st.session_state[key]["selection"]["rows"] if position < len(rows)]
    listed = {row.id for row in rows}
    kept = [row.id for row in selected if row.id not in listed or row.id in picked]
    select([*kept, *picked])


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
