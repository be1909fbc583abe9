"""The table of all runs, and the selection in it."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from kvlab.language import say
from kvlab.results.safe_csv import neutral
from kvlab.results.training.words import mark_words
from kvlab.runs import store
from kvlab.runs.history import Row
from kvlab.web.training import charts, words
from kvlab.web.widgets import GIB, grid, number, table_height

HEIGHT = 330
NOT_OF_ANALYSES = ("verdict", "steps", "loss", "ce_before", "ce_after", "peak")
TEXTS = ("line", "name", "run", "state", "verdict", "steps", "device", "started", "note")  # columns without numbers

Columns = dict[str, tuple[Any, Callable[[Row], Any]]]  # name: how the column is shown, and a run's value in it


def panel(rows: Sequence[Row], selected: Sequence[Row], colours: dict[str, int], only_analyses: bool) -> None:
    """Draw the table. ``colours``: position in the figure, by run id."""
    key, columns = _key(rows, selected), _columns(colours)
    hidden = NOT_OF_ANALYSES if only_analyses else ()
    if not colours:
        hidden += ("line",)
    numbers = frame(rows, columns)
    numbers["started"] = pd.to_datetime(numbers["started"], utc=True, errors="coerce")
    css = [charts.colour(colours[row.id]) if row.id in colours else "" for row in rows]
    grid(
        coloured(numbers, css) if colours else numbers,  # a plain table is cheaper
        configs(columns),
        say("All runs, newest first: state, verdict, steps, loss, held-out cross-entropy, memory, device, time, note"),
        table_height(max(len(rows), 1), HEIGHT),
        key=key,
        on_select=lambda: _picked(key, rows, selected),
        selection_mode="multi-row",
        selection_default={"selection": {"rows": _positions(rows, selected)}},
        column_order=[name for name in columns if name not in hidden],
    )


def frame(rows: Sequence[Row], columns: Columns) -> pd.DataFrame:
    """Build a table of one row per run; unknown numbers are NaN."""
    table = pd.DataFrame({name: [value(row) for row in rows] for name, (_, value) in columns.items()})
    return table.astype({name: "float64" for name in columns if name not in TEXTS})


def coloured(table: pd.DataFrame, colours: Sequence[str]):
    """Draw the lines "━━" of a table in these colours."""
    return table.style.apply(lambda _: [f"color: {colour}" if colour else "" for colour in colours], subset=["line"])


def configs(columns: Columns) -> dict[str, Any]:
    return {name: config for name, (config, _) in columns.items()}


def _columns(colours: dict[str, int]) -> Columns:
    text, plain_number = st.column_config.TextColumn, st.column_config.NumberColumn
    line = text("", width=30, help=say("The colour of the run in the figure below."))
    verdict = text(say("verdict"), width=80, help=say("The checkpoints of the run, all together."))
    before = number(say("CE before"), say("Held-out cross-entropy before the first step, nats per token."))
    after = number(say("CE after"), say("Held-out cross-entropy after the last step, nats per token."))
    memory = say("Most memory in use: of the GPU, or without one of the run's own process.")
    started = st.column_config.DatetimeColumn(say("started (UTC)"), format="YYYY-MM-DD HH:mm", width=122)
    elapsed = plain_number(say("seconds"), format="%.0f", help=say("Since its start, or its last resumption."))
    return {
        "line": (line, lambda row: "━━" if row.id in colours else ""),
        "name": (text(say("run"), width=150), lambda row: neutral(row.name)),
        "state": (text(say("state"), width=120), words.state),
        "verdict": (verdict, lambda row: mark_words(row.verdict)),
        "steps": (text(say("step / of"), width=96), words.steps),
        "loss": (number(say("final loss"), say("Of the last step that was logged.")), lambda row: row.loss),
        "ce_before": (before, lambda row: row.ce_before),
        "ce_after": (after, lambda row: row.ce_after),
        "peak": (plain_number(say("peak GiB"), format="%.2f", help=memory), peak),
        "device": (text(say("device"), width=52), lambda row: row.device),
        "started": (started, lambda row: row.started),
        "elapsed": (elapsed, lambda row: row.elapsed_s),
        "note": (text(say("note"), width=100), lambda row: neutral(" ".join(row.note.split())[:200])),
    }


def peak(row: Row) -> float | None:
    return row.peak.used / GIB if row.peak else None


def _positions(rows: Sequence[Row], selected: Sequence[Row]) -> list[int]:
    wanted = {row.id for row in selected}
    return [position for position, row in enumerate(rows) if row.id in wanted]


def _key(rows: Sequence[Row], selected: Sequence[Row]) -> str:
    """Return the key of the widget. It remembers row numbers, so other rows or another selection need a new key."""
    listed = hashlib.sha1("".join(row.id for row in rows).encode()).hexdigest()[:12]
    epoch = st.session_state.setdefault("runs-epoch", 0)
    widget = st.session_state.get(f"runs-table-{listed}-{epoch}")
    if widget is not None and sorted(widget["selection"]["rows"]) != _positions(rows, selected):
        epoch = st.session_state["runs-epoch"] = epoch + 1
    return f"runs-table-{listed}-{epoch}"


def _picked(key: str, rows: Sequence[Row], selected: Sequence[Row]) -> None:
    """Select the picked rows; selected runs that the table does not show stay selected."""
    picked = [rows[position].id for position in st.session_state[key]["selection"]["rows"] if position < len(rows)]
    listed = {row.id for row in rows}
    remaining = [row.id for row in selected if row.id not in listed or row.id in picked]
    select([*remaining, *picked])


MOST = 100  # selected runs, because an address has a limited length
_KEY = "runs-selected"


def selected(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Return the selected runs in the order of picking, and the ids in the address that name no run."""
    if "runs" in st.query_params:
        wanted = [part.strip() for part in st.query_params["runs"].split(",")]
    else:
        wanted = st.session_state.get(_KEY, [])
    wanted = [part for part in dict.fromkeys(wanted) if part][:MOST]
    known = {row.id: row for row in rows}
    select(wanted)
    return [known[part] for part in wanted if part in known], [part for part in wanted if part not in known]


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
    """Write ids of an address for people; shorten text that is no id."""
    return ", ".join(part if store.valid_id(part) else repr(part[:60]) for part in ids)
