"""The words, colours and dashes of the Runs page."""

from __future__ import annotations

from kvlab.runs.history import Row

STATES = {"done": "finished", "failed": "failed", "cancelled": "stopped", "lost": "lost"}
VERDICTS = {"pass": "✓ passed", "fail": "✗ failed", "pending": "… pending"}
EXPLAINED = {"lost": "lost: its process is gone", "stopping": "stopping: it finishes its step and saves"}

# What a run logs: its name, and the axis with the unit. Anything else is shown by the name it is logged under.
METRICS = {
    "loss": ("Total loss", "total loss"),
    "ce": ("Cross-entropy (CE), training", "training CE, nats per token"),
    "kv_key": ("KV error of K, training", "KV(K), error² / variance"),
    "kv_value": ("KV error of V, training", "KV(V), error² / variance"),
    "heldout": ("Cross-entropy (CE), held-out", "held-out CE, nats per token"),
    "memory": ("Memory in use", "memory in use, GiB"),
    "entropy": ("Router entropy", "router entropy, 1 = even"),
    "tokens_per_s": ("Throughput", "student tokens per second"),
    "grad_norm": ("Gradient norm", "gradient norm, unclipped"),
    "lr": ("Learning rate", "learning rate"),
    "variance_ratio_key": ("Variance of K", "K variance / at start"),
    "variance_ratio_value": ("Variance of V", "V variance / at start"),
    "effective_rank_key": ("Effective rank of K", "(Σλ)² / Σλ² of K"),
    "effective_rank_value": ("Effective rank of V", "(Σλ)² / Σλ² of V"),
}
NOT_CURVES = ("step", "tokens", "seconds")  # logged, and no measure of the run

# Okabe and Ito's colours, which colour-blind people tell apart, without yellow; grey for black, on a dark page too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A8F98", "#56B4E9", "#E69F00")
DASHES = ([1, 0], [6, 3], [2, 2], [9, 3, 2, 3])
DRAWN = 12  # runs that are laid over each other at most


def state(row: Row) -> str:
    """How it stands, as short as a column of the history."""
    if row.stopping:
        return "stopping"
    if row.state == "queued":
        return (
            "waiting" if row.ahead is None else "waiting: next" if not row.ahead else f"waiting: {row.ahead} before it"
        )
    if row.state == "running":
        return f"running: {row.phase}" if row.phase else "running"
    return STATES[row.state]


def standing(row: Row) -> str:
    """The same for the heading of one run."""
    return EXPLAINED.get(state(row), state(row))


def label(row: Row) -> str:
    """A short name that no other run has."""
    return f"{row.name[:40]} · {row.id[-4:]}"


def steps(row: Row) -> str | None:
    if row.step is None and row.steps is None:
        return None
    return f"{row.step or 0} / {'?' if row.steps is None else row.steps}"


def metric(name: str) -> str:
    if name.startswith("router.") and name[7:].isdigit():
        return f"Router weight of teacher {int(name[7:]) + 1}"
    return METRICS[name][0] if name in METRICS else name


def axis(name: str) -> str:
    if name.startswith("router."):
        return "weight of the teacher, of 1"
    return METRICS[name][1] if name in METRICS else f"{name}, as logged"


def colour(position: int) -> str:
    return COLOURS[position % len(COLOURS)]


def dash(position: int) -> list[int]:
    """Seven colours and four dashes: 28 runs before a pair comes again, and paper without colours shows four."""
    return DASHES[position % len(DASHES)]
