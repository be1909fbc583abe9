"""The table of all runs, and the selection in it."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from kvlab.language import say
from kvlab.results import summary
from kvlab.results.safe_csv import neutral
from kvlab.results.training import helps
from kvlab.results.training.words import mark_words
from kvlab.runs import store
from kvlab.runs.history import Row
from kvlab.web import language
from kvlab.web.training import charts, source, words
from kvlab.web.widgets import GIB, count, grid, number, table_height

HEIGHT = 330
# The columns of each kind of run; the line is there when several are selected.
RESULTS = {
    "training": ("helps", "verdict", "control", "steps", "ce_before", "ce_after", "kl", "key", "value", "loss", "peak"),
    "analysis": ("prompts", "documents", "tokens", "gain_key", "gain_value"),
    "injection": ("prompts", "documents", "tokens", "kl", "kl_control"),
    "certificate": ("prompts", "documents", "tokens", "kl", "kl_control"),
}
FIRST = ("line", "baseline", "name", "started", "state")
LAST = ("elapsed", "tags", "note", "device")
TEXTS = ("line", "baseline", "name", "run", "state", "helps", "verdict", "control", "steps", "device", "started")
TEXTS += ("tags", "note", "prompts")  # columns without numbers

Columns = dict[str, tuple[Any, Callable[[Row], Any]]]  # name: how the column is shown, and a run's value in it


def panel(rows: Sequence[Row], selected: Sequence[Row], colours: dict[str, int], kind: str) -> None:
    """Draw the table of runs of a ``kind``, or of all. ``colours``: position in the figure, by run id."""
    key, columns = _key(rows, selected), _columns(rows, colours)
    results = RESULTS.get(kind) or tuple(dict.fromkeys(name for names in RESULTS.values() for name in names))
    shown = [name for name in (*FIRST, *results, *LAST) if name != "line" or colours]
    if not any(row.labels.baseline for row in rows):
        shown.remove("baseline")
    numbers = frame(rows, {name: columns[name] for name in shown})
    numbers["started"] = pd.to_datetime(numbers["started"], utc=True, errors="coerce")
    css = [charts.colour(colours[row.id]) if row.id in colours else "" for row in rows]
    grid(
        coloured(numbers, css) if colours else numbers,  # a plain table is cheaper
        configs(columns),
        say("Runs, newest first: state, results, time, tags and note"),
        table_height(max(len(rows), 1), HEIGHT),
        key=key,
        on_select=lambda: _picked(key, rows, selected),
        selection_mode="multi-row",
        selection_default={"selection": {"rows": _positions(rows, selected)}},
    )


def matching(rows: Sequence[Row], words: str) -> list[Row]:
    """Return the runs of which name, tags, note, control, state or id hold every one of these words."""
    wanted = words.casefold().split()
    return [row for row in rows if all(word in _searched(row) for word in wanted)] if wanted else list(rows)


def _searched(row: Row) -> str:
    parts = (words.name(row), row.name, row.id, *row.labels.tags, row.note, row.control or "", words.state(row))
    return "\n".join(parts).casefold()


def frame(rows: Sequence[Row], columns: Columns) -> pd.DataFrame:
    """Build a table of one row per run; unknown numbers are NaN."""
    table = pd.DataFrame({name: [value(row) for row in rows] for name, (_, value) in columns.items()})
    return table.astype({name: "float64" for name in columns if name not in TEXTS})


def coloured(table: pd.DataFrame, colours: Sequence[str]):
    """Draw the lines "━━" of a table in these colours."""
    return table.style.apply(lambda _: [f"color: {colour}" if colour else "" for colour in colours], subset=["line"])


def configs(columns: Columns) -> dict[str, Any]:
    return {name: config for name, (config, _) in columns.items()}


def _columns(rows: Sequence[Row], colours: dict[str, int]) -> Columns:
    text, plain_number = st.column_config.TextColumn, st.column_config.NumberColumn
    judged = source.helps_of(rows)
    found = {row.id: summary.of_run(row.folder, row.kind) for row in rows}
    line = text("", width=30, help=say("The colour of the run in the figure below."))
    baseline = text("", width=30, help=say("★ the baseline: pinned, and what others are compared with."))
    helping = say("Whether the student got better than before and than its controls, on held-out documents.")
    verdict = text(say("it runs"), width=80, help=say("The checkpoints of the run, all together."))
    before = number(say("CE before"), say("Held-out cross-entropy before the first step, nats per token."))
    after = number(say("CE after"), say("Held-out cross-entropy after the last step, nats per token."))
    kl = say("Functional test: KL of the student on the projected cache against its own, nats per token.")
    own = say("The same without a teacher: from the student's own tokens.")
    gain = say("R² beyond the strongest control, mean over heads, on held-out documents.")
    tokens = count(say("n tokens"), say("Held-out student tokens that were scored."))
    memory = say("Most memory in use: of the GPU, or without one of the run's own process.")
    started = st.column_config.DatetimeColumn(
        say("started"), format="YYYY-MM-DD HH:mm", width=132, timezone=language.zone(), help=language.zone()
    )
    elapsed = plain_number(say("seconds"), format="%.0f", help=say("Of work, over all resumptions."))
    return {
        "line": (line, lambda row: "━━" if row.id in colours else ""),
        "baseline": (baseline, lambda row: "★" if row.labels.baseline else ""),
        "name": (text(say("run"), width=300), lambda row: neutral(words.name(row))),
        "state": (text(say("state"), width=84), words.state),
        "helps": (text(say("it helps"), width=118, help=helping), lambda row: helps.mark(judged.get(row.id))),
        "verdict": (verdict, lambda row: mark_words(row.verdict)),
        "control": (text(say("control"), width=100), words.control_name),
        "prompts": (text(say("prompts"), width=120), lambda row: neutral(words.prompts(row))),
        "documents": (count(say("n prompts")), lambda row: found[row.id].documents),
        "tokens": (tokens, lambda row: found[row.id].tokens),
        "gain_key": (number(say("gain K"), gain), lambda row: found[row.id].gain_key),
        "gain_value": (number(say("gain V"), gain), lambda row: found[row.id].gain_value),
        "steps": (text(say("step / of"), width=80), words.steps),
        "ce_before": (before, lambda row: row.ce_before),
        "ce_after": (after, lambda row: row.ce_after),
        "kl": (number("KL", kl), lambda row: found[row.id].kl if row.kind in store.COMPUTED else row.kl_after),
        "kl_control": (number(say("KL, no teacher"), own), lambda row: found[row.id].kl_control),
        "key": (
            number(say("K error"), say("Held-out KV error of K after the training.")),
            lambda row: row.kv_key_after,
        ),
        "value": (
            number(say("V error"), say("Held-out KV error of V after the training.")),
            lambda row: row.kv_value_after,
        ),
        "loss": (number(say("final loss"), say("Of the last step that was logged.")), lambda row: row.loss),
        "peak": (plain_number(say("peak GiB"), format="%.2f", help=memory), peak),
        "device": (text(say("device"), width=52), lambda row: row.device),
        "started": (started, lambda row: row.started),
        "elapsed": (elapsed, lambda row: row.elapsed_s),
        "tags": (text(say("tags"), width=100), lambda row: neutral(", ".join(row.labels.tags))),
        "note": (text(say("note"), width=200), lambda row: neutral(" ".join(row.note.split())[:200])),
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
