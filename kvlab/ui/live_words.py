"""The words of a run: its state, phase, ends and verdict. No Streamlit, so that another language is another file."""

from __future__ import annotations

from typing import Any

from kvlab.runs.metrics import Pace
from kvlab.runs.monitor import View
from kvlab.ui.text import UNKNOWN, duration

PHASES = {
    "waiting": "waiting",
    "starting": "starting its process",
    "loading": "loading models and data",
    "fitting the map": "fitting the map from teacher to student",
    "evaluating before": "measuring the untrained student on held-out text",
    "training": "training",
    "evaluating after": "measuring the trained student on held-out text",
    "saving": "saving a checkpoint",
    "reporting": "writing the report",
}
MARKS = {"pass": "✓\u00a0pass", "fail": "✗\u00a0fail", "pending": "…\u00a0pending"}  # with spaces that do not break
CONTROLS = {
    "ce-only": "no teacher has a part in the loss",
    "shuffled-teacher": "the teacher's rows are out of order",
    "random-teacher": "the teacher has random weights",
}
ENDS = {
    "failed": "This run failed.",
    "lost": "This run was lost: its process is gone and did not say how it ended.",
}
ASKED_KILL = (
    "Kill ends the process and all that it started at once. The steps since the last checkpoint are lost; what was "
    "logged is kept. **Stop** finishes the step and saves."
)
NO_REASON = "No reason was recorded. Its folder may be damaged; launch the run again."


def going_on(view: View) -> str:
    """What a running run is doing."""
    words = [PHASES.get(view.phase, view.phase or PHASES["starting"])]
    if view.phase in ("training", "saving") and view.total > 1:
        words[0] += f", step {view.done:,} of {view.total:,}"
    elif view.total > 1:
        words[0] += f", {view.done:,} of {view.total:,}"
    if view.phase not in ("training", "saving") and view.phase_remaining_s is not None and view.total > 1:
        words.append(f"about {duration(view.phase_remaining_s)} left in this stage")
    if view.stopping:
        words.append("asked to stop: it finishes its step, saves and ends")
    if view.overdue:
        words.append(f"no sign of life for {duration(view.silent_s)}: one long step, or stuck")
    return capital(" · ".join(words))


def waiting(ahead: int) -> str:
    """A run in the queue with ``ahead`` runs before it."""
    if not ahead:
        return "First in the queue: it starts as soon as its device is free, within seconds when nothing else runs."
    before = "1 run is" if ahead == 1 else f"{ahead:,} runs are"
    return f"The device is busy. {before} before it in the queue; it starts by itself, also when this page is closed."


def memory(whose: str) -> str:
    """The title of the memory curve: of the "device", of the "process", or not known yet."""
    titles = {"device": "**GPU memory in use**", "process": "**Memory of this process** (no GPU)"}
    return titles.get(whose, "**Memory in use**")


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def remaining(view: View, pace: Pace) -> str:
    """Of the training steps, at the pace of the last ones."""
    if not view.active or view.state == "queued":
        return UNKNOWN
    return f"{duration(pace.remaining_s)}" if pace.remaining_s is not None else UNKNOWN


def verdict(state: str | None, checkpoints: list[dict[str, Any]], view: View) -> str:
    """The verdict of a run that is done, in one sentence."""
    steps = f"{view.config.get('max_steps', '?')} steps"
    if state == "pass":
        return f"**Verdict: passed.** All {len(checkpoints)} checkpoints passed in {steps}."
    failed = [str(c.get("name")) for c in checkpoints if c.get("state") == "fail"]
    if failed:
        return f"**Verdict: failed** in {steps}, at: {', '.join(failed)}."
    return f"**No verdict:** the run has ended, and {UNKNOWN} of its checkpoints were judged."


def change(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Held-out cross-entropy and KV error at start and end; empty until both are measured."""
    parts = []
    for name, words, unit in (
        ("ce", "cross-entropy", " nats per token"),
        ("kv_key", "KV error of K", ""),
        ("kv_value", "of V", ""),
    ):
        pair = before.get(name), after.get(name)
        if all(isinstance(value, int | float) for value in pair):
            parts.append(f"{words} {pair[0]:.4f} → {pair[1]:.4f}{unit}")
    if not parts:
        return ""
    counts = [f"{after[name]:,} {name}" for name in ("documents", "tokens") if isinstance(after.get(name), int)]
    sample = f" (n = {', '.join(counts)}, not trained on)" if counts else ""
    return f"On held-out text, start → end: {', '.join(parts)}{sample}."


def cross_entropy(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What the change of held-out cross-entropy says, and what it cannot say."""
    first, last = before.get("ce"), after.get("ce")
    if not all(isinstance(value, int | float) for value in (first, last)):
        return ""
    course = "rose" if last > first else "fell" if last < first else "did not change"
    by = f" by {abs(last - first):.4f}" if last != first else ""
    return (
        f"The student's held-out cross-entropy {course}{by}. A falling KV loss alone proves nothing: compare this with "
        "a control run, such as CE only."
    )


def control(name: object) -> str:
    """Said of a run that is a control; empty for others."""
    return f"A control: {CONTROLS[name]} ({name})." if name in CONTROLS else ""


def settings(changes: dict[str, Any]) -> str:
    """Settings that are changed, as on the command line."""
    return ", ".join(f"{name} {value}" for name, value in changes.items())
