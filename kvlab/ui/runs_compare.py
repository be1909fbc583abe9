"""Several training runs side by side: what came out, and what was set differently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from kvlab.runs.history import Row, finite
from kvlab.safe_csv import neutral
from kvlab.ui import runs_source, runs_words, settings_differ
from kvlab.ui.text import GIB, count, number, table_height

MEASURED = ("ce", "kv_key", "kv_value")
RESULTS = {
    "line": st.column_config.TextColumn("", width=30),
    "run": st.column_config.TextColumn("run", width=170),
    "verdict": st.column_config.TextColumn("verdict", width=80),
    "ce before": number("CE before", "Held-out cross-entropy, nats per token."),
    "ce after": number("CE after", "Held-out cross-entropy, nats per token."),
    "kv_key before": number("K before", "Held-out KV(K): squared error over the target's variance."),
    "kv_key after": number("K after", "Held-out KV(K): squared error over the target's variance."),
    "kv_value before": number("V before", "Held-out KV(V): squared error over the target's variance."),
    "kv_value after": number("V after", "Held-out KV(V): squared error over the target's variance."),
    "documents": count("n docs", "Held-out documents; no step is trained on them."),
    "tokens": count("n tokens", "Predicted tokens, over which CE is the mean."),
    "rows": count("n rows", "Student steps with a target, over which K and V are the mean."),
    "peak": st.column_config.NumberColumn("peak GiB", format="%.2f", help="Most memory in use."),
    "share": st.column_config.NumberColumn("of total", format="percent"),
    "steps/s": st.column_config.NumberColumn(
        "steps/s", format="%.2f", help="One over the median of the last 20 steps."
    ),
}
# What decides on which held-out text a run is measured.
SAMPLE = ("seed", "data", "eval_documents", "max_tokens")
AGAINST = ("teachers", "map", "time", "layers", "sinks", "fusion", "control")


def results(rows: Sequence[Row]) -> None:
    st.subheader("Results side by side")
    table = [_result(row) for row in rows]
    frame = pd.DataFrame(table, columns=list(RESULTS))
    texts = ("line", "run", "verdict")
    frame = frame.astype({name: "float64" for name in RESULTS if name not in texts})
    css = [f"color: {runs_words.colour(position)}" for position in range(len(rows))]
    st.dataframe(
        frame.style.apply(lambda _: css, subset=["line"]),
        hide_index=True,
        column_config=RESULTS,
        height=table_height(len(frame), 460),
        placeholder="–",
        alt="Verdict, held-out cross-entropy and KV errors before and after, memory and pace of each selected run",
    )
    st.caption(_about(rows))


def settings(rows: Sequence[Row]) -> None:
    settings_differ.table([runs_source.settings(row) for row in rows], [runs_words.label(row) for row in rows])


def _result(row: Row) -> dict[str, Any]:
    report = runs_source.report(row.folder)
    before, after = (report.get(part) if isinstance(report.get(part), dict) else {} for part in ("before", "after"))
    found: dict[str, Any] = {
        "line": "━━",
        "run": neutral(runs_words.label(row)),
        "verdict": runs_words.VERDICTS.get(row.verdict or ""),
        "peak": row.peak.used / GIB if row.peak else None,
        "share": row.peak.share if row.peak else None,
        "steps/s": runs_source.steps_per_s(row.folder),
    }
    for name in MEASURED:
        found[f"{name} before"], found[f"{name} after"] = finite(before.get(name)), finite(after.get(name))
    for name in ("documents", "tokens", "rows"):
        found[name] = finite(before.get(name))
    return found


def _about(rows: Sequence[Row]) -> str:
    all_settings = [runs_source.settings(row) for row in rows]
    said = (
        "CE, K and V: means over held-out documents, which no step is trained on, before the first and after the last "
        "step."
    )
    whose = {"device": "the GPU", "process": "the run’s own process"}
    if found := {whose[row.peak.what] for row in rows if row.peak}:
        said += f" Peak memory: of {' or '.join(sorted(found))}."
    if sample := settings_differ.differing(SAMPLE, all_settings):
        said += (
            f" **Not on the same documents**, as {' and '.join(sample)} differ: compare the changes, not the values."
        )
    if against := settings_differ.differing(AGAINST, all_settings):
        said += f" K and V are errors against each run’s own targets, which differ by {', '.join(against)}."
    return said
