"""The vocabulary of training runs, for pages, reports and the command line: one state has one word everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvlab.language import Message, phrase, say
from kvlab.results.training.chinese import CHINESE
from kvlab.runs.store import STATES

MARKS = {"pass": phrase("✓ passed"), "fail": phrase("✗ failed"), "pending": phrase("… pending")}
CHECKPOINTS = {
    "models loaded": phrase("models loaded"),
    "forward passes": phrase("forward passes"),
    "loss converging": phrase("loss converging"),
    "training stable": phrase("training stable"),
    "no NaN or Inf": phrase("no NaN or Inf"),
    "few spikes": phrase("few spikes"),
    "no collapse": phrase("no collapse"),
    "memory": phrase("memory"),
}


def state_words(state: str) -> str:
    """The state of a run (kvlab.runs.monitor.judge) in the current language; an unknown one as it is."""
    return say(STATES[state]) if state in STATES else str(state)


def checkpoint_words(name: object) -> str:
    """The name of a checkpoint of the verdict; an unknown one as it is."""
    return say(CHECKPOINTS[name]) if isinstance(name, str) and name in CHECKPOINTS else str(name)


def mark_words(state: object) -> str | None:
    """A checkpoint's or verdict's ✓, ✗ or … with its word; None for an unknown state."""
    return say(MARKS[state]) if isinstance(state, str) and state in MARKS else None


def remarked(row: Mapping[str, Any]) -> str:
    """The verdict's remark on a checkpoint, a row of verdict.json; of older versions in their English."""
    return str(Message.read(row.get("words") or ""))


def verdict_words(state: object, checkpoints: Sequence[Mapping[str, Any]], steps: object) -> str:
    """The verdict of a run that has ended, in one sentence of Markdown.

    ``checkpoints``: the rows of verdict.json; ``steps``: how many the run was asked for.
    """
    if state == "pass":
        return say(
            "**Verdict: passed.** All {checkpoints} checkpoints passed in {steps} steps.",
            checkpoints=len(checkpoints),
            steps=steps,
        )
    failed = [checkpoint_words(row.get("name")) for row in checkpoints if row.get("state") == "fail"]
    if failed:
        return say("**Verdict: failed** in {steps} steps, at: {names}.", steps=steps, names=failed)
    return say("**No verdict:** the run ended before all of its checkpoints were judged.")


ENGLISH: dict[str, str] = {
    "title": "Validation run {id}",
    "name": "Name: {name}",
    "summary": "State: {state}. Verdict: {verdict}. Steps: {done} of {steps}.",
    "control": "This run is a control ({control}): it must not gain.",
    "state queued": "queued",
    "state running": "running",
    "state done": "done",
    "state failed": "failed",
    "state cancelled": "cancelled",
    "state lost": "lost",
    "phase starting": "starting",
    "phase loading": "loading",
    "phase fitting the map": "fitting the map",
    "phase evaluating before": "evaluating before",
    "phase training": "training",
    "phase evaluating after": "evaluating after",
    "phase saving": "saving",
    "phase reporting": "reporting",
    "checks": "Checks",
    "check": "check",
    "status": "status",
    "remark": "remark",
    "heads": "head projection 12 → 2",
    "heads-dims": "heads and dimensions 28 → 2, 128 → 64",
    "resampling": "time resampling 80 → 50",
    "empty": "edge case T = 0",
    "one": "edge case T = 1",
    "integration": "integration",
    "overall": "overall",
    "not run": "not run with this report; this runs the seven checks: {command}",
    "time run": "time run",
    "all passed": "all passed",
    "failed ones": "failed",
    "run": "Run",
    "step": "step",
    "checked": "checked",
    "loss": "loss",
    "memory device": "GPU memory",
    "memory process": "process memory (no GPU)",
    "conditions": "For the whole run",
    "condition": "condition",
    "checkpoint models loaded": "models loaded",
    "checkpoint forward passes": "forward passes",
    "checkpoint loss converging": "loss converging",
    "checkpoint training stable": "training stable",
    "checkpoint no NaN or Inf": "no NaN or Inf",
    "checkpoint few spikes": "few spikes",
    "checkpoint no collapse": "no collapse",
    "checkpoint memory": "memory",
    "report": "Report",
    "field": "field",
    "value": "value",
    "start": "start time",
    "end": "end time",
    "runtime error": "RuntimeError",
    "first loss": "loss at step 1",
    "final loss": "final loss",
    "peak": "peak memory",
    "peak value": "{used}{share} while {phase} ({source})",
    "of total": ", {share:.0%} of {total}",
    "source process": "this process's memory, of the machine's (no GPU in use)",
    "source nvml": "NVML: the whole device, other processes included",
    "source cuda": "CUDA: the whole device, other processes included",
    "all steps": "all {steps} steps done",
    "throughput": "throughput",
    "tokens": "{tokens:.0f} tokens/s",
    "trained parameters": "trained parameters",
    "documents": "documents",
    "documents value": "{train} to train on, {heldout} held out",
    "held out": "Held out: before and after",
    "held out words": "On {documents} held-out documents ({tokens} tokens, {rows} rows), before the first step and "
    "after the last. Falling KV errors prove nothing by themselves: compare the cross-entropy with a control's.",
    "this run": "this run",
    "ce": "cross-entropy (nats per token)",
    "kv_key": "K error (of the targets' variance)",
    "kv_value": "V error (of the targets' variance)",
    "no control": "No finished run of the same settings as a control lies beside this one.",
    "not evaluated": "not measured: the run did not come to its evaluation",
    "control run": "control {control}: {id}",
    "none run": "KV run {id}",
    "functional": "Functional test: the student on the projected cache",
    "functional words": "The cache of the first {prefix} of {documents} held-out documents is replaced by the one that "
    "maps and fusion project at that moment ({share_replaced} of its tokens; special tokens, sinks and tokens "
    "without a teacher step keep the student's own), and the student reads on. KL and change of cross-entropy (ΔCE) in "
    "nats per token over the {n} tokens that follow, against the student's own cache of the same moment; ± standard "
    "error over documents, of changes over the paired differences. Its own cache, injected, differs from the plain "
    "forward by {largest_difference} of the largest logit ({tolerance} allowed). The verdict does not depend on this "
    "test. Controls: the student's mean, and the projected rows shuffled; not measured here: token identity alone, and "
    "a teacher of random weights (which is a run of its own).",
    "functional unsure": "Nothing is reported: the student's own cache, injected, does not reproduce its logits (they "
    "differ by {largest_difference} of the largest logit, {tolerance} is allowed).",
    "functional too short": "not measured: in no held-out document's first half is there a token to replace",
    "functional before": "before",
    "functional after": "after",
    "functional change": "change",
    "functional cache": "cache",
    "kl": "KL {when}",
    "delta_ce": "ΔCE {when}",
    "cache projected": "projected",
    "cache mean": "mean (control)",
    "cache shuffled": "shuffled (control)",
    "cache of": "projected, {run}",
    "forecast": "Memory: forecast and measured",
    "no forecast": "no forecast was recorded",
    "forecast words": "Forecast {forecast} (from {lower} to {upper}) above what was in use before loading, for "
    "timelines of {tokens} tokens. ",
    "forecast measured": "Measured: peak {peak} less {baseline} before loading is {growth}. "
    "Forecast over measured: {ratio:.2f}. Both are of: {source}.",
    "forecast unmeasured": "No peak was measured.",
    "part": "part",
    "size": "size",
    "part student weights": "student weights",
    "part trained weights": "LoRA adapters, trainable maps and router",
    "part gradients": "gradients",
    "part optimizer": "optimizer state (AdamW, two moments)",
    "part teacher weights": "teacher weights",
    "part teacher pass": "a teacher's forward: its cache and working memory",
    "part activations": "student activations, kept for the backward pass",
    "part activations recomputed": "student activations (one layer at a time, recomputed)",
    "part logits": "logits and their cross-entropy",
    "part kv": "student keys and values in the KV loss",
    "part targets": "teacher features and targets of the KV loss",
    "part maps": "maps from teacher to student",
    "part statistics": "sums of the ridge fit (before training)",
    "part fit": "reading a batch for the fit (before training)",
    "part moments": "second moments of the student's rows",
    "part libraries": "libraries and their work space",
    "problems": "Problems and how each was solved",
    "no problems": "None.",
    "problem": "{state} ({kind}): {found}",
    "resumed": "Resumed at {when}{step}.",
    "from step": " from step {step}",
    "open": "Not solved yet. What to do: {remedy}",
    "garbage": "{count} damaged lines were passed over in the logged numbers; all others were read.",
    "data notes": "Noted while reading the documents",
    "notes": "Notes",
    "success": "Success",
    "criterion checks": "all seven checks pass",
    "criterion steps": "all steps ran, with no RuntimeError",
    "criterion loss": "the loss declined by more than chance, never NaN or Inf",
    "criterion memory": "memory under {limit:.0%}",
    "again": "To run it again",
    "settings": "Settings, versions, seed",
    "setting": "setting",
    "seed": "seed",
    "device": "device",
    "on device": "{device}, precision {precision}",
    "pass": "✓ pass",
    "fail": "✗ fail",
    "pending": "… pending",
    "unknown": "–",
    "colon": ": ",
    "yes": "yes",
    "no": "no",
    "none": "none",
    "figure loss": "Loss terms: thin as logged, thick smoothed (moving average, weight 0.9)",
    "figure loss axis": "loss term",
    "figure router": "Weight of each teacher in the target",
    "figure router axis": "weight (mean over rows)",
    "figure memory device": "GPU memory in use over time",
    "figure memory process": "Memory of this process over time (no GPU in use)",
    "figure memory axis": "memory in use (GiB)",
    "figure limit": "{limit:.0%} of {total}",
    "figure limit above": "{limit:.0%} of the machine is {limited}, above this figure",
    "figure time": "time at work (s)",
    "figure step": "optimizer step",
    "figure held out": "Held-out documents, before and after",
    "figure before": "before",
    "figure after": "after",
    "figure control": "control {control}",
    "figure baseline": "before loading",
    "figure thinned": "One of {every} points is drawn.",
    "figure none": "{figure}: nothing was logged that could be drawn.",
    "term loss": "loss",
    "term ce": "CE (nats per token)",
    "term kv_key": "K error (target variances)",
    "term kv_value": "V error (target variances)",
    "term entropy": "entropy (share of the largest)",
}

WORDS: dict[str, dict[str, str]] = {"en": ENGLISH, "zh": CHINESE}
