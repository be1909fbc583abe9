"""Several training runs side by side: what came out, and what was set differently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from kvlab.language import phrase, say
from kvlab.results.safe_csv import neutral
from kvlab.results.training import records
from kvlab.results.training.words import mark_words
from kvlab.runs.history import Row
from kvlab.runs.lenient import finite
from kvlab.web import settings_differ
from kvlab.web.training import charts, source, words
from kvlab.web.widgets import GIB, count, number, sentences, table_height

MEASURED = ("ce", "kv_key", "kv_value")
TEXTS = ("line", "run", "verdict")
PEAKS = {
    ("device",): phrase("Peak memory: of the GPU."),
    ("process",): phrase("Peak memory: of the run’s own process."),
    ("device", "process"): phrase("Peak memory: of the GPU or the run’s own process."),
}
# What decides on which held-out text a run is measured.
SAMPLE = ("seed", "data", "eval_documents", "max_tokens")
AGAINST = ("teachers", "map", "time", "layers", "sinks", "fusion", "control")


def results(rows: Sequence[Row]) -> None:
    st.subheader(say("Results side by side"))
    table, columns = [_result(row) for row in rows], _columns()
    if not any(name.startswith("kl ") for row in table for name in row):
        columns = {name: column for name, column in columns.items() if not name.startswith("kl ")}
    frame = pd.DataFrame(table, columns=list(columns))
    frame = frame.astype({name: "float64" for name in columns if name not in TEXTS})
    css = [f"color: {charts.colour(position)}" for position in range(len(rows))]
    st.dataframe(
        frame.style.apply(lambda _: css, subset=["line"]),
        hide_index=True,
        column_config=columns,
        height=table_height(len(frame), 460),
        placeholder="–",
        alt=say("Verdict, held-out cross-entropy and KV errors before and after, memory and pace of each selected run"),
    )
    st.caption(_about(rows))


def _columns() -> dict[str, Any]:
    ce, key, value = (
        say("Held-out cross-entropy, nats per token."),
        say("Held-out KV(K): squared error over the target's variance."),
        say("Held-out KV(V): squared error over the target's variance."),
    )
    kl = say(
        "Functional test: KL on the projected cache against the student's own cache of that moment, nats per token."
    )
    peak, pace = say("Most memory in use."), say("One over the median of the last 20 steps.")
    return {
        "line": st.column_config.TextColumn("", width=30),
        "run": st.column_config.TextColumn(say("run"), width=170),
        "verdict": st.column_config.TextColumn(say("verdict"), width=80),
        "ce before": number(say("CE before"), ce),
        "ce after": number(say("CE after"), ce),
        "kv_key before": number(say("K before"), key),
        "kv_key after": number(say("K after"), key),
        "kv_value before": number(say("V before"), value),
        "kv_value after": number(say("V after"), value),
        "kl before": number(say("KL before"), kl),
        "kl after": number(say("KL after"), kl),
        "documents": count(say("n docs"), say("Held-out documents; no step is trained on them.")),
        "tokens": count(say("n tokens"), say("Predicted tokens, over which CE is the mean.")),
        "rows": count(say("n rows"), say("Student steps with a target, over which K and V are the mean.")),
        "peak": st.column_config.NumberColumn(say("peak GiB"), format="%.2f", help=peak),
        "share": st.column_config.NumberColumn(say("of total"), format="percent"),
        "steps/s": st.column_config.NumberColumn(say("steps/s"), format="%.2f", help=pace),
    }


def settings(rows: Sequence[Row]) -> None:
    settings_differ.table([source.settings(row) for row in rows], [words.label(row) for row in rows])


def _result(row: Row) -> dict[str, Any]:
    files = source.of(row.folder)
    before, after = files.measured("before"), files.measured("after")
    result: dict[str, Any] = {
        "line": "━━",
        "run": neutral(words.label(row)),
        "verdict": mark_words(row.verdict),
        "peak": row.peak.used / GIB if row.peak else None,
        "share": row.peak.share if row.peak else None,
        "steps/s": files.steps_per_s(),
    }
    for name in MEASURED:
        result[f"{name} before"], result[f"{name} after"] = finite(before.get(name)), finite(after.get(name))
    function = records.read(files.report().get("functional"))
    if function and function["reproduces"]:
        for when in ("before", "after"):
            result[f"kl {when}"] = function["variants"]["projected"][when]["kl"]
    for name in ("documents", "tokens", "rows"):
        result[name] = finite(before.get(name))
    return result


def _about(rows: Sequence[Row]) -> str:
    all_settings = [source.settings(row) for row in rows]
    whose = tuple(sorted({row.peak.what for row in rows if row.peak}))
    sample = settings_differ.differing(SAMPLE, all_settings)
    against = settings_differ.differing(AGAINST, all_settings)
    return sentences(
        say(
            "CE, K and V: means over held-out documents, which no step is trained on, before the first and after the "
            "last step."
        ),
        whose and say(PEAKS[whose]),
        sample
        and say(
            "**Not on the same documents**, as {settings} differ: compare the changes, not the values.",
            settings=sample,
        ),
        against
        and say("K and V are errors against each run’s own targets, which differ by {settings}.", settings=against),
    )
