"""The words for training runs on pages, in reports and on the command line: one state has one word everywhere."""

from collections.abc import Mapping, Sequence
from typing import Any

from kvlab.language import Message, phrase, say
from kvlab.results.rendering import Quoted
from kvlab.runs.store import STATES

MARKS = {"pass": phrase("✓ passed"), "fail": phrase("✗ failed"), "pending": phrase("… pending")}
JUDGED = (
    *(phrase("models loaded"), phrase("forward passes"), phrase("loss converging"), phrase("training stable")),
    *(phrase("no NaN or Inf"), phrase("few spikes"), phrase("no collapse"), phrase("memory")),
)
CHECKPOINTS = dict(zip(JUDGED, JUDGED))  # name in verdict.json -> words
# Parts of a memory forecast (kvlab.request.forecast).
PARTS = {
    "student weights": phrase("student weights"),
    "trained weights": phrase("LoRA adapters, trainable maps and router"),
    "gradients": phrase("gradients"),
    "optimizer": phrase("optimizer state (AdamW, two moments)"),
    "teacher weights": phrase("teacher weights"),
    "teacher pass": phrase("a teacher's forward: its cache and working memory"),
    "activations": phrase("student activations, kept for the backward pass"),
    "activations recomputed": phrase("student activations (one layer at a time, recomputed)"),
    "logits": phrase("logits and their cross-entropy"),
    "kv": phrase("student keys and values in the KV loss"),
    "targets": phrase("teacher features and targets of the KV loss"),
    "outputs": phrase("head outputs over the own and the projected cache"),
    "maps": phrase("maps from teacher to student"),
    "statistics": phrase("sums of the ridge fit (before training)"),
    "fit": phrase("reading a batch for the fit (before training)"),
    "moments": phrase("second moments of the student's rows"),
    "libraries": phrase("libraries and their work space"),
}
# First words of the source in memory.jsonl -> words for people.
SOURCES = {
    "this process": phrase("this process's memory, of the machine's (no GPU in use)"),
    "NVML": phrase("NVML: the whole device, other processes included"),
    "CUDA": phrase("CUDA: the whole device, other processes included"),
}
MEMORY_OF = {"device": phrase("GPU memory"), "process": phrase("process memory (no GPU)")}


def state_words(state: str) -> str:
    """Translate the state of a run (kvlab.runs.monitor.judge); return an unknown one as it is."""
    return say(STATES[state]) if state in STATES else str(state)


def checkpoint_words(name: object) -> str:
    """Translate the name of a checkpoint; return an unknown one as it is."""
    return say(CHECKPOINTS[name]) if isinstance(name, str) and name in CHECKPOINTS else str(name)


def mark_words(state: object) -> str | None:
    """Return ✓, ✗ or … with the word for the state of a checkpoint or verdict; None for an unknown state."""
    return say(MARKS[state]) if isinstance(state, str) and state in MARKS else None


def remarked(row: Mapping[str, Any]) -> str:
    """Translate the remark on a checkpoint, a row of verdict.json; older versions wrote it in English."""
    return str(Message.read(row.get("words") or ""))


def verdict_words(state: object, checkpoints: Sequence[Mapping[str, Any]], steps: object) -> str:
    """Say whether an ended run works, by its checkpoints, in one sentence of Markdown.

    ``checkpoints``: the rows of verdict.json; ``steps``: the requested number.
    """
    if state == "pass":
        words = phrase("**It runs: passed.** All {checkpoints} checkpoints passed in {steps} steps.")
        return say(words, checkpoints=len(checkpoints), steps=steps)
    failed = [checkpoint_words(row.get("name")) for row in checkpoints if row.get("state") == "fail"]
    if failed:
        return say("**It runs: failed** in {steps} steps, at: {names}.", steps=steps, names=failed)
    return say("**It runs: not judged.** The run ended before all of its checkpoints were judged.")


def source_words(source: object, of: str) -> str:
    """Say how memory was measured. ``of``: "device" or "process", for an unknown source."""
    known = next((words for begin, words in SOURCES.items() if str(source or "").startswith(begin)), None)
    if known:
        return say(known)
    return Quoted(source) if source else say(MEMORY_OF[of])
