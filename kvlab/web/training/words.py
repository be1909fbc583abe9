"""Words for training runs: their states, checkpoints, numbers and verdicts."""

from __future__ import annotations

from typing import Any

from kvlab.language import current, phrase, plural, say
from kvlab.results.training import records
from kvlab.results.training.blocks import Quoted, pieces
from kvlab.results.training.sections import remark
from kvlab.results.training.words import WORDS
from kvlab.runs.history import Row
from kvlab.runs.metrics import Pace
from kvlab.runs.monitor import View
from kvlab.web.widgets import UNKNOWN, duration

PHASES = {
    "waiting": phrase("waiting"),
    "starting": phrase("starting its process"),
    "loading": phrase("loading models and data"),
    "fitting the map": phrase("fitting the map from teacher to student"),
    "evaluating before": phrase("measuring the untrained student on held-out text"),
    "training": phrase("training"),
    "evaluating after": phrase("measuring the trained student on held-out text"),
    "saving": phrase("saving a checkpoint"),
    "reporting": phrase("writing the report"),
}
CONTROLS = {
    "ce-only": phrase("A control: no teacher has a part in the loss ({name})."),
    "shuffled-teacher": phrase("A control: the teacher's rows are out of order ({name})."),
    "random-teacher": phrase("A control: the teacher has random weights ({name})."),
}
ENDS = {
    "failed": phrase("This run failed."),
    "lost": phrase("This run was lost: its process is gone and did not say how it ended."),
}
ASKED_KILL = phrase(
    "Kill ends the process and all that it started at once. The steps since the last checkpoint are lost; what was "
    "logged is kept. **Stop** finishes the step and saves."
)
NO_REASON = phrase("No reason was recorded. Its folder may be damaged; launch the run again.")
MEMORY = {"device": phrase("**GPU memory in use**"), "process": phrase("**Memory of this process** (no GPU)")}
CHANGES = {
    "ce": phrase("cross-entropy {before:.4f} → {after:.4f} nats per token"),
    "kv_key": phrase("KV error of K {before:.4f} → {after:.4f}"),
    "kv_value": phrase("of V {before:.4f} → {after:.4f}"),
}
COUNTS = {"documents": phrase("{n:,} documents"), "tokens": phrase("{n:,} tokens")}


def going_on(view: View) -> str:
    """What a running run is doing."""
    phase = say(PHASES[view.phase]) if view.phase in PHASES else view.phase or say(PHASES["starting"])
    counted = {"phase": phase, "done": view.done, "total": view.total}
    if view.phase in ("training", "saving") and view.total > 1:
        phase = say("{phase}, step {done:,} of {total:,}", **counted)
    elif view.total > 1:
        phase = say("{phase}, {done:,} of {total:,}", **counted)
    words = [phase]
    if view.phase not in ("training", "saving") and view.phase_remaining_s is not None and view.total > 1:
        words.append(say("about {time} left in this stage", time=duration(view.phase_remaining_s)))
    if view.stopping:
        words.append(say("asked to stop: it finishes its step, saves and ends"))
    if view.overdue:
        words.append(say("no sign of life for {time}: one long step, or stuck", time=duration(view.silent_s)))
    return capital(" · ".join(words))


def waiting(ahead: int) -> str:
    """A run in the queue with ``ahead`` runs before it."""
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
    """At which step a run was ended by its user; ``killed``: by force."""
    if view.total <= 1:
        return say("This run was killed.") if killed else say("This run was stopped.")
    return say(
        "This run was killed at step {done:,} of {total:,}."
        if killed
        else "This run was stopped at step {done:,} of {total:,}.",
        done=view.done,
        total=view.total,
    )


def memory(whose: str) -> str:
    """The title of the memory curve: of the "device", of the "process", or not known yet."""
    return say(MEMORY[whose]) if whose in MEMORY else say("**Memory in use**")


def result(state: object) -> str:
    """Of a checkpoint, with spaces that do not break."""
    return (phrase(state) or UNKNOWN).replace(" ", "\u00a0")


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def remaining(view: View, pace: Pace) -> str:
    """Of the training steps, at the pace of the last ones."""
    if not view.active or view.state == "queued":
        return UNKNOWN
    return f"{duration(pace.remaining_s)}" if pace.remaining_s is not None else UNKNOWN


def verdict(state: str | None, checkpoints: list[dict[str, Any]], view: View) -> str:
    """The verdict of a run that is done, in one sentence."""
    steps = view.config.get("max_steps", "?")
    if state == "pass":
        return say(
            "**Verdict: passed.** All {checkpoints} checkpoints passed in {steps} steps.",
            checkpoints=len(checkpoints),
            steps=steps,
        )
    failed = [checkpoint(str(c.get("name"))) for c in checkpoints if c.get("state") == "fail"]
    if failed:
        return say("**Verdict: failed** in {steps} steps, at: {names}.", steps=steps, names=say(", ").join(failed))
    return say("**No verdict:** the run has ended, and – of its checkpoints were judged.")


def change(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Held-out cross-entropy and KV error at start and end; empty until both are measured."""
    parts = []
    for name, words in CHANGES.items():
        pair = before.get(name), after.get(name)
        if all(isinstance(value, int | float) for value in pair):
            parts.append(say(words, before=pair[0], after=pair[1]))
    if not parts:
        return ""
    counts = [say(words, n=after[name]) for name, words in COUNTS.items() if isinstance(after.get(name), int)]
    told = {"parts": say(", ").join(parts), "counts": say(", ").join(counts)}
    if counts:
        return say("On held-out text, start → end: {parts} (n = {counts}, not trained on).", **told)
    return say("On held-out text, start → end: {parts}.", **told)


def cross_entropy(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What the change of held-out cross-entropy says, and what it cannot say."""
    first, last = before.get("ce"), after.get("ce")
    if not all(isinstance(value, int | float) for value in (first, last)):
        return ""
    if last == first:
        course = say("The student's held-out cross-entropy did not change.")
    elif last > first:
        course = say("The student's held-out cross-entropy rose by {by:.4f}.", by=last - first)
    else:
        course = say("The student's held-out cross-entropy fell by {by:.4f}.", by=first - last)
    caution = say("A falling KV loss alone proves nothing: compare this with a control run, such as CE only.")
    return say(" ").join([course, caution])


def function(record: object) -> str:
    """The functional test at start and end; empty for a run without it."""
    found = records.read(record)
    if found is None:
        return ""
    if not found["reproduces"]:
        return say(
            "The functional test reports nothing: the student's own cache, injected, does not reproduce its logits."
        )
    numbers = {
        f"{of}_{when}": value for when, values in found["variants"]["projected"].items() for of, value in values.items()
    }
    numbers |= {name: found["variants"][name]["after"]["kl"] for name in ("mean", "shuffled")}
    if None in numbers.values() or not found["documents"]:
        return say("The functional test was not measured at both start and end.")
    return say(
        "Functional test, start → end: on the projected cache KL {kl_before:.3f} ± {kl_se_before:.3f} → {kl_after:.3f} "
        "± {kl_se_after:.3f} ({kl_change:+.3f} ± {kl_se_change:.3f}) and ΔCE {delta_ce_before:+.3f} ± "
        "{delta_ce_se_before:.3f} → {delta_ce_after:+.3f} ± {delta_ce_se_after:.3f} ({delta_ce_change:+.3f} ± "
        "{delta_ce_se_change:.3f}) nats per token against the student's own cache of that moment (KL of the controls "
        "at the end: mean cache {mean:.3f}, shuffled cache {shuffled:.3f}; n = {n:,} tokens of {documents:,} held-out "
        "documents). The verdict does not depend on it.",
        **numbers,
        n=found["n"],
        documents=found["documents"],
    )


def control(name: object) -> str:
    """Said of a run that is a control; empty for others."""
    return say(CONTROLS[name], name=name) if name in CONTROLS else ""


def settings(changes: dict[str, Any]) -> str:
    """Settings that are changed, as on the command line."""
    return say(", ").join(f"{name} {value}" for name, value in changes.items())


STATES = {
    "done": phrase("finished"),
    "failed": phrase("failed"),
    "cancelled": phrase("stopped"),
    "lost": phrase("lost"),
}
VERDICTS = {"pass": phrase("✓ passed"), "fail": phrase("✗ failed"), "pending": phrase("… pending")}

# What a run logs: its name, and the axis with the unit. Anything else is shown by the name it is logged under.
METRICS = {
    "loss": (phrase("Total loss"), phrase("total loss")),
    "ce": (phrase("Cross-entropy (CE), training"), phrase("training CE, nats per token")),
    "kv_key": (phrase("KV error of K, training"), phrase("KV(K), error² / variance")),
    "kv_value": (phrase("KV error of V, training"), phrase("KV(V), error² / variance")),
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
        return say("running: {phase}", phase=phase(row.phase)) if row.phase else say("running")
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


def verdict_of(row: Row) -> str | None:
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


def phase(name: str) -> str:
    return WORDS[current()].get(f"phase {name}", name)


def checkpoint(name: str) -> str:
    return WORDS[current()].get(f"checkpoint {name}", name)


def mark(state: object) -> str | None:
    """Of a checkpoint: ✓, ✗ or … with a word; None for a state that there is not."""
    return WORDS[current()][str(state)] if state in ("pass", "fail", "pending") else None


def remarked(row: dict[str, Any]) -> str:
    """What the verdict remarked on a checkpoint, a row of verdict.json."""
    said = pieces(remark(row, current()))
    return "".join(str(part.text) if isinstance(part, Quoted) else part for part in said)
