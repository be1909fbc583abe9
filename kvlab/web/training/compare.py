"""Several training runs side by side: their results and the settings that differ."""

from collections.abc import Callable, Sequence

import streamlit as st

from kvlab.language import phrase, say
from kvlab.results.safe_csv import neutral
from kvlab.results.training import helps, records
from kvlab.results.training.records import BY_DOCUMENT
from kvlab.results.training.words import mark_words
from kvlab.results.words import sentences
from kvlab.runs.history import Row
from kvlab.runs.lenient import finite
from kvlab.web import settings_differ
from kvlab.web.training import charts, source, table, words
from kvlab.web.widgets import count, grid, number, table_height

PEAKS = {
    ("device",): phrase("Peak memory: of the GPU."),
    ("process",): phrase("Peak memory: of the run’s own process."),
    ("device", "process"): phrase("Peak memory: of the GPU or the run’s own process."),
}
# The settings that choose the held-out text, and those that choose the targets.
SAMPLE = ("seed", "data", "eval_documents", "max_tokens")
# With other training documents, other beginnings of held-out ones are repeated and do not count.
REPEATED = ("max_steps", "batch_size", "gradient_accumulation_steps")
AGAINST = ("teachers", "map", "time", "layers", "row_weights", "sinks", "fusion", "control")


def results(rows: Sequence[Row], colours: dict[str, int]) -> None:
    """Draw the results of several runs. ``colours``: position of each run's colour, by id; not of a single run."""
    st.subheader(say("Results side by side"))
    columns = _columns(rows)
    results = table.frame(rows, columns)
    for name in ("kl", "output"):
        pair = [f"{name}_before", f"{name}_after"]
        if results[pair].isna().all(axis=None):
            results = results.drop(columns=pair)
    coloured = table.coloured(results, [charts.colour(colours.get(row.id, 0)) for row in rows])
    alt = say("Verdict, held-out cross-entropy and KV errors before and after, memory and pace of each selected run")
    grid(coloured, table.configs(columns), alt, table_height(len(results), 460))
    st.caption(_about(rows))


def _columns(rows: Sequence[Row]) -> table.Columns:
    text, column = st.column_config.TextColumn, st.column_config.NumberColumn
    judged = source.helps_of(rows)
    baseline = next((row for row in rows if row.labels.baseline), None)
    ce = say("Held-out cross-entropy, nats per token.")
    key = say("Held-out KV(K): squared error over the target's variance.")
    value = say("Held-out KV(V): squared error over the target's variance.")
    outputs = say("Held-out error of the heads' outputs, over the variance of the own ones before training.")
    kl = say(
        "Functional test: KL on the projected cache against the student's own cache of that moment, nats per token."
    )
    pace = say("One over the median of the last 20 steps.")
    documents = count(say("n docs"), say("Held-out documents; no step is trained on them."))
    tokens = count(say("n tokens"), say("Predicted tokens, over which CE is the mean."))
    steps = count(say("n rows"), say("Student steps with a target, over which K and V are the mean."))
    peak = column(say("peak GiB"), format="%.2f", help=say("Most memory in use."))
    return {
        "line": (text("", width=26), lambda row: "━━"),
        "run": (text(say("run"), width=290), lambda row: neutral(words.label(row))),
        "helps": (text(say("it helps"), width=118), lambda row: helps.mark(judged.get(row.id))),
        "verdict": (text(say("it runs"), width=78), lambda row: mark_words(row.verdict)),
        "control": (text(say("control"), width=100), words.control_name),
        **_beside(baseline),
        "ce before": (number(say("CE before"), ce), _measured("before", "ce")),
        "ce after": (number(say("CE after"), ce), _measured("after", "ce")),
        "kv_key before": (number(say("K before"), key), _measured("before", "kv_key")),
        "kv_key after": (number(say("K after"), key), _measured("after", "kv_key")),
        "kv_value before": (number(say("V before"), value), _measured("before", "kv_value")),
        "kv_value after": (number(say("V after"), value), _measured("after", "kv_value")),
        "output_before": (number(say("outputs before"), outputs), _measured("before", "kv_output")),
        "output_after": (number(say("outputs after"), outputs), _measured("after", "kv_output")),
        "kl_before": (number(say("KL before"), kl), lambda row: _kl(row, "before")),
        "kl_after": (number(say("KL after"), kl), lambda row: _kl(row, "after")),
        "documents": (documents, _measured("before", "documents")),
        "tokens": (tokens, _measured("before", "tokens")),
        "rows": (steps, _measured("before", "rows")),
        "peak": (peak, table.peak),
        "share": (column(say("of total"), format="percent"), lambda row: row.peak.share if row.peak else None),
        "steps/s": (column(say("steps/s"), format="%.2f", help=pace), lambda row: source.of(row.folder).steps_per_s()),
    }


def _beside(baseline: Row | None) -> table.Columns:
    """Return the columns of a run's results minus those of the baseline, after the training."""
    if baseline is None:
        return {}
    about = say("After the training, minus that of the baseline ★; lower is better.")
    measures = {
        "ce_after": "CE − ★",
        "kl_after": "KL − ★",
        "kv_key_after": say("K − ★"),
        "kv_value_after": say("V − ★"),
    }

    def minus(name: str) -> Callable[[Row], float | None]:
        first = getattr(baseline, name)
        return lambda row: None if None in (first, getattr(row, name)) else getattr(row, name) - first

    known = [name for name in measures if getattr(baseline, name) is not None]
    return {f"{name} less": (number(measures[name], about), minus(name)) for name in known}


def _measured(when: str, name: str) -> Callable[[Row], float | None]:
    return lambda row: finite(source.of(row.folder).measured(when).get(name))


def _kl(row: Row, when: str) -> float | None:
    function = records.read(source.of(row.folder).report().get("functional"))
    return function["variants"]["projected"][when]["kl"] if function and function["reproduces"] else None


def settings(rows: Sequence[Row]) -> None:
    settings_differ.table([source.settings(row) for row in rows], [words.label(row) for row in rows])


def _other_tokens(rows: Sequence[Row]) -> bool:
    """Return whether other tokens of the held-out documents may have counted in these runs."""
    counts = [[n for _, n in source.of(row.folder).measured("before").get(BY_DOCUMENT) or []] for row in rows]
    return not all(counts) or any(count != counts[0] for count in counts)


def _about(rows: Sequence[Row]) -> str:
    all_settings = [source.settings(row) for row in rows]
    whose = tuple(sorted({row.peak.what for row in rows if row.peak}))
    text = (*SAMPLE, *REPEATED) if _other_tokens(rows) else SAMPLE
    sample = settings_differ.differing(text, all_settings)
    against = settings_differ.differing(AGAINST, all_settings)
    notes = [
        say(
            "CE, K and V: means over held-out documents, which no step is trained on, before the first and after the "
            "last step."
        )
    ]
    if whose:
        notes.append(say(PEAKS[whose]))
    if sample:
        text = phrase("**Not on the same documents**, as {settings} differ: compare the changes, not the values.")
        notes.append(say(text, settings=sample))
    if against:
        text = phrase("K and V are errors against each run’s own targets, which differ by {settings}.")
        notes.append(say(text, settings=against))
    return sentences(*notes)
