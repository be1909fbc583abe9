"""The words, colours and dashes of the Runs page."""

from __future__ import annotations

from kvlab.language import mark, say
from kvlab.runs.history import Row
from kvlab.ui import report_words

STATES = {
    "done": mark("finished"),
    "failed": mark("failed"),
    "cancelled": mark("stopped"),
    "lost": mark("lost"),
}
VERDICTS = {"pass": mark("✓ passed"), "fail": mark("✗ failed"), "pending": mark("… pending")}

# What a run logs: its name, and the axis with the unit. Anything else is shown by the name it is logged under.
METRICS = {
    "loss": (mark("Total loss"), mark("total loss")),
    "ce": (mark("Cross-entropy (CE), training"), mark("training CE, nats per token")),
    "kv_key": (mark("KV error of K, training"), mark("KV(K), error² / variance")),
    "kv_value": (mark("KV error of V, training"), mark("KV(V), error² / variance")),
    "heldout": (mark("Cross-entropy (CE), held-out"), mark("held-out CE, nats per token")),
    "memory": (mark("Memory in use"), mark("memory in use, GiB")),
    "entropy": (mark("Router entropy"), mark("router entropy, 1 = even")),
    "tokens_per_s": (mark("Throughput"), mark("student tokens per second")),
    "grad_norm": (mark("Gradient norm"), mark("gradient norm, unclipped")),
    "lr": (mark("Learning rate"), mark("learning rate")),
    "variance_ratio_key": (mark("Variance of K"), mark("K variance / at start")),
    "variance_ratio_value": (mark("Variance of V"), mark("V variance / at start")),
    "effective_rank_key": (mark("Effective rank of K"), mark("(Σλ)² / Σλ² of K")),
    "effective_rank_value": (mark("Effective rank of V"), mark("(Σλ)² / Σλ² of V")),
}
NOT_CURVES = ("step", "tokens", "seconds")  # logged, and no measure of the run

# Okabe and Ito's colours, which colour-blind people tell apart, without yellow; grey for black, on a dark page too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A8F98", "#56B4E9", "#E69F00")
DASHES = ([1, 0], [6, 3], [2, 2], [9, 3, 2, 3])
DRAWN = 12  # runs that are laid over each other at most


def state(row: Row) -> str:
    """How it stands, as short as a column of the history."""
    if row.stopping:
        return say("stopping")
    if row.state == "queued":
        return _waiting(row.ahead)
    if row.state == "running":
        return say("running: {phase}", phase=report_words.phase(row.phase)) if row.phase else say("running")
    return say(STATES[row.state])


def _waiting(ahead: int | None) -> str:
    if ahead is None:
        return say("waiting")
    return say("waiting: {n} before it", n=ahead) if ahead else say("waiting: next")


def standing(row: Row) -> str:
    """The same for the heading of one run."""
    if row.stopping:
        return say("stopping: it finishes its step and saves")
    return say("lost: its process is gone") if row.state == "lost" else state(row)


def verdict(row: Row) -> str | None:
    return say(VERDICTS[row.verdict]) if row.verdict else None


def label(row: Row) -> str:
    """A short name that no other run has."""
    return f"{row.name[:40]} · {row.id[-4:]}"


def steps(row: Row) -> str | None:
    if row.step is None and row.steps is None:
        return None
    return f"{row.step or 0} / {'?' if row.steps is None else row.steps}"


def metric(name: str) -> str:
    if name.startswith("router.") and name[7:].isdigit():
        return say("Router weight of teacher {n}", n=int(name[7:]) + 1)
    return say(METRICS[name][0]) if name in METRICS else name


def axis(name: str) -> str:
    if name.startswith("router."):
        return say("weight of the teacher, of 1")
    return say(METRICS[name][1]) if name in METRICS else say("{name}, as logged", name=name)


def colour(position: int) -> str:
    return COLOURS[position % len(COLOURS)]


def dash(position: int) -> list[int]:
    """Seven colours and four dashes: 28 runs before a pair comes again, and paper without colours shows four."""
    return DASHES[position % len(DASHES)]
