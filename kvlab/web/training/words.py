"""Sentences and short words for training runs; their vocabulary is kvlab.results.training.words."""

from typing import Any

from kvlab.language import phrase, plural, say
from kvlab.results import run_name
from kvlab.results.training import records
from kvlab.results.training.words import mark_words, state_words
from kvlab.runs.history import Row
from kvlab.runs.monitor import View
from kvlab.shapes import phase_words
from kvlab.web.widgets import UNKNOWN, duration

Run = Row | View  # both have id, folder, kind, name, state, phase, active, stopping

CONTROLS = {
    "ce-only": phrase("A control: no teacher has a part in the loss ({name})."),
    "shuffled-teacher": phrase("A control: the teacher's rows are out of order ({name})."),
    "random-teacher": phrase("A control: the teacher has random weights ({name})."),
}
CHANGES = {
    "ce": phrase("cross-entropy {before:.4f} → {after:.4f} nats per token"),
    "kv_key": phrase("KV error of K {before:.4f} → {after:.4f}"),
    "kv_value": phrase("of V {before:.4f} → {after:.4f}"),
    "kv_output": phrase("of head outputs {before:.4f} → {after:.4f}"),
}
COUNTS = {"documents": phrase("{n:,} documents"), "tokens": phrase("{n:,} tokens")}

# Name of each logged metric, and its axis with the unit. Other metrics appear under their logged name.
METRICS = {
    "loss": (phrase("Total loss"), phrase("total loss")),
    "ce": (phrase("Cross-entropy (CE), training"), phrase("training CE, nats per token")),
    "kv_key": (phrase("KV error of K, training"), phrase("KV(K), error² / variance")),
    "kv_value": (phrase("KV error of V, training"), phrase("KV(V), error² / variance")),
    "kv_output": (phrase("Error of head outputs, training"), phrase("KV(outputs), error² / variance")),
    "heldout": (phrase("Cross-entropy (CE), held-out"), phrase("held-out CE, nats per token")),
    "memory": (phrase("Memory in use"), phrase("memory in use, GiB")),
    "entropy": (phrase("Router entropy"), phrase("router entropy, 1 = even")),
    "tokens_per_s": (phrase("Throughput"), phrase("student tokens per second")),
    "grad_norm": (phrase("Gradient norm"), phrase("gradient norm, unclipped")),
    "lr": (phrase("Learning rate"), phrase("learning rate")),
    "variance_ratio_key": (phrase("Variance of K"), phrase("K variance / at start")),
    "variance_ratio_value": (phrase("Variance of V"), phrase("V variance / at start")),
    "effective_rank_key": (phrase("Effective rank of K"), phrase("(Σλ)² / Σλ² of K")),
    "effective_rank_value": (phrase("Effective rank of V"), phrase("(Σλ)² / Σλ² of V")),
}
STOPPING = phrase("stopping: it finishes its step and saves")
NOT_CURVES = ("step", "tokens", "seconds")  # logged, but not metrics


def label(run: Run) -> str:
    """Return a unique name of a run."""
    return f"{name(run)} · {run.id[-4:]}"


def name(run: Run) -> str:
    """Return the name of a run: its own, else what it is."""
    return run_name.of_run(run.folder, run.kind, run.name)


def control_name(row: Row) -> str:
    """Return the control that a run is; empty for a run with teachers."""
    return say(run_name.CONTROLS[row.control]) if row.control in run_name.CONTROLS else ""


def prompts(row: Row) -> str:
    return run_name.prompts_of(run_name.config_of(row.folder), row.kind)


def state(row: Row) -> str:
    """Describe the state of a run, short enough for a column of the history."""
    if row.stopping:
        return say("stopping")
    if row.state == "queued" and row.ahead is not None:
        ahead = say("{n} before it", n=row.ahead) if row.ahead else say("next")
        return say("{state}: {detail}", state=state_words(row.state), detail=ahead)
    if row.state == "running" and row.overdue:
        return say("{state}: {detail}", state=state_words(row.state), detail=say("no update, perhaps stuck"))
    if row.state == "running" and row.phase:
        return say("{state}: {detail}", state=state_words(row.state), detail=phase_words(row.phase))
    return state_words(row.state)


def standing(row: Row) -> str:
    """Describe the state of a run for its heading."""
    if row.stopping:
        return say(STOPPING)
    return say("lost: its process is gone") if row.state == "lost" else state(row)


def going_on(view: View) -> str:
    """Describe the phase and progress of a running run, and anything unusual."""
    phase = phase_words(view.phase or "starting")
    trains = view.phase in ("training", "saving")
    if view.total > 1:
        phase = say(
            "{phase}, step {done:,} of {total:,}" if trains else "{phase}, {done:,} of {total:,}",
            phase=phase,
            done=view.done,
            total=view.total,
        )
    parts = [phase[:1].upper() + phase[1:]]
    if not trains and view.phase_remaining_s is not None and view.total > 1:
        parts.append(say("about {time} left in this stage", time=duration(view.phase_remaining_s)))
    if view.stopping:
        parts.append(say(STOPPING))
    if view.overdue:
        parts.append(say("no update for {time}: a long step, or stuck", time=duration(view.silent_s)))
    return " · ".join(parts)


def waiting(ahead: int) -> str:
    """Describe a queued run with ``ahead`` runs before it."""
    if not ahead:
        return say(
            "First in the queue: it starts as soon as its device is free, within seconds when nothing else runs."
        )
    return plural(
        ahead,
        "The device is busy. 1 run is before it in the queue; it starts by itself, also when this page is closed.",
        "The device is busy. {n:,} runs are before it in the queue; it starts by itself, also when this page is "
        "closed.",
    )


def cancelled(view: View, killed: bool) -> str:
    """Say at which step the user ended a run; ``killed``: by force."""
    if view.total <= 1:
        return say("This run was killed.") if killed else say("This run was stopped.")
    return say(
        "This run was killed at step {done:,} of {total:,}."
        if killed
        else "This run was stopped at step {done:,} of {total:,}.",
        done=view.done,
        total=view.total,
    )


def steps(row: Row) -> str | None:
    if row.step is None and row.steps is None:
        return None
    return f"{row.step or 0} / {'?' if row.steps is None else row.steps}"


def damaged(lines: int) -> str:
    return say("{n} damaged lines of the logged numbers were passed over; all others were read.", n=lines)


def mark(state: object) -> str:
    """Return the ✓, ✗ or … of a checkpoint with its word, without a line break."""
    return (mark_words(state) or UNKNOWN).replace(" ", "\u00a0")


def metric(name: str) -> str:
    if name.startswith("router.") and name[7:].isdigit():
        return say("Router weight of teacher {n}", n=int(name[7:]) + 1)
    return say(METRICS[name][0]) if name in METRICS else name


def axis(name: str) -> str:
    if name.startswith("router."):
        return say("weight of the teacher, of 1")
    return say(METRICS[name][1]) if name in METRICS else say("{name}, as logged", name=name)


def change(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Write held-out cross-entropy and KV error at start and end; empty until the run has measured both."""
    parts = []
    for name, words in CHANGES.items():
        pair = before.get(name), after.get(name)
        if all(isinstance(value, int | float) for value in pair):
            parts.append(say(words, before=pair[0], after=pair[1]))
    if not parts:
        return ""
    counts = [say(words, n=after[name]) for name, words in COUNTS.items() if isinstance(after.get(name), int)]
    if not counts:
        return say("On held-out text, start → end: {parts}.", parts=parts)
    return say("On held-out text, start → end: {parts} (n = {counts}, not trained on).", parts=parts, counts=counts)


def function(record: object) -> str:
    """Write the functional test at start and end; empty for a run without it."""
    test = records.read(record)
    if test is None:
        return ""
    if not test["reproduces"]:
        return say(
            "The functional test reports nothing: the student's own cache, injected, does not reproduce its logits."
        )
    numbers = {}
    for when, values in test["variants"]["projected"].items():
        numbers |= {f"{name}_{when}": value for name, value in values.items()}
    numbers |= {name: test["variants"][name]["after"]["kl"] for name in ("mean", "shuffled")}
    if None in numbers.values() or not test["documents"]:
        return say("The functional test was not measured at both start and end.")
    return say(
        "Functional test, start → end: on the projected cache KL {kl_before:.3f} ± {kl_se_before:.3f} → {kl_after:.3f} "
        "± {kl_se_after:.3f} ({kl_change:+.3f} ± {kl_se_change:.3f}) and ΔCE {delta_ce_before:+.3f} ± "
        "{delta_ce_se_before:.3f} → {delta_ce_after:+.3f} ± {delta_ce_se_after:.3f} ({delta_ce_change:+.3f} ± "
        "{delta_ce_se_change:.3f}) nats per token against the student's own cache of that moment (KL of the controls "
        "at the end: mean cache {mean:.3f}, shuffled cache {shuffled:.3f}; n = {n:,} tokens of {documents:,} held-out "
        "documents).",
        **numbers,
        n=test["n"],
        documents=test["documents"],
    )


def control(name: object) -> str:
    """Describe a run that is a control; empty for others."""
    return say(CONTROLS[name], name=name) if isinstance(name, str) and name in CONTROLS else ""
