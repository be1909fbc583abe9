"""Judge the metric lines of a run: the checklist's checkpoints and verdict, scaled to ``max_steps``. No torch here.

A checkpoint is pending until the run reaches its step, then pass or fail with its value and threshold in words. One
that forbids something for the whole run (NaN, memory, collapse) fails as soon as it happens and passes at the end. If
a run breaks off, the next checkpoint fails; later ones stay pending and give the reason.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Any

from kvlab.language import Message, phrase
from kvlab.request.train import Thresholds

PENDING, PASS, FAIL = "pending", "pass", "fail"
LAST = 5  # last losses whose mean decides convergence
WINDOW = 0.2  # share of the steps to smooth a loss over
NOISE = 2.0  # standard errors of a smoothed loss that do not count as a rise
BEFORE_SPIKE = 20  # earlier losses to compare a spike with
COLLAPSIBLE = ("key", "value")
COLLAPSED = {
    ("variance", "key"): phrase(
        "the variance of the student's keys fell to {ratio:.1%}, below {limit:.0%}: a collapse"
    ),
    ("variance", "value"): phrase(
        "the variance of the student's values fell to {ratio:.1%}, below {limit:.0%}: a collapse"
    ),
    ("rank", "key"): phrase("the rank of the student's keys fell to {ratio:.1%}, below {limit:.0%}: a collapse"),
    ("rank", "value"): phrase("the rank of the student's values fell to {ratio:.1%}, below {limit:.0%}: a collapse"),
}

Record = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """One line of the table."""

    step: int
    name: str
    state: str  # "pending" | "pass" | "fail"
    value: float | None
    threshold: float | None
    words: Message

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "words": self.words.to_dict()}


def in_force(records: Iterable[Record]) -> list[Record]:
    """Return the valid step lines: when a resumed run repeats steps, only the repetition counts."""
    valid: list[Record] = []
    for record in records:
        if isinstance(record.get("resumed_from"), int):
            valid = [r for r in valid if r["step"] <= record["resumed_from"]]
        elif isinstance(record.get("step"), int):
            valid.append(record)
    return valid


def milestones(max_steps: int) -> tuple[int, int, int]:
    """Return the steps of "forward passes", "loss converging" and "training stable": 10, 50 and 100 of 100."""
    return max(1, round(max_steps * 0.1)), max(1, round(max_steps * 0.5)), max_steps


def judge(
    records: Sequence[Record],
    max_steps: int,
    thresholds: Thresholds | None = None,
    *,
    control: bool = False,
    loaded: bool = True,
    peak_share: float | None = None,
    ended: bool = False,
    error: Message | str | None = None,
) -> list[Checkpoint]:
    """Return the table so far.

    ``control``: the run is one, whose loss need not converge: it must only not rise by more than chance.
    ``peak_share``: the most memory in use, as a share of the device; ``ended``: no more lines will come; ``error``: why
    the run broke off.
    """
    thresholds = thresholds or Thresholds()
    records = in_force(records)
    done = records[-1]["step"] if records else 0
    early, half, last = milestones(max_steps)
    losses = [_loss(record) for record in records]
    broken = None
    if ended and done < last:
        broken = Message("the run ended at step {step}", step=done)
        if error:
            broken = Message("the run ended at step {step}: {error}", step=done, error=error)

    def reached(step: int, name: str, judged) -> Checkpoint:
        """Call ``judged() -> (passed, value, threshold, words)`` once the run has reached the step."""
        if done >= step:
            passed, value, threshold, words = judged()
            return Checkpoint(step, name, PASS if passed else FAIL, value, threshold, words)
        next_one = loaded and step == min(m for m in (early, half, last) if m > done)
        state = FAIL if broken and next_one else PENDING
        return Checkpoint(step, name, state, None, None, broken or Message("waits for step {step}", step=step))

    def throughout(name: str, passed: bool, value: float | None, threshold: float | None, words: Message) -> Checkpoint:
        state = PASS if done >= last else PENDING
        if not passed:
            state = FAIL
        if broken:
            words = Message("{remark}; {end}", remark=words, end=broken)
        elif not records and state == PENDING:  # nothing can be said of steps that are still to come
            value, words = None, Message("waits for step {step}", step=1)
        return Checkpoint(last, name, state, value, threshold, words)

    def started() -> Checkpoint:
        if loaded:
            return Checkpoint(0, "models loaded", PASS, None, None, Message("models and data are loaded"))
        words = Message("still loading")
        if ended:
            words = Message("not loaded: {error}", error=error) if error else Message("not loaded: the run ended")
        return Checkpoint(0, "models loaded", FAIL if ended else PENDING, None, None, words)

    no_error = Message.plural(early, "1 step without an error", "{n} steps without an error")
    table = [
        started(),
        reached(early, "forward passes", lambda: (True, done, early, no_error)),
        reached(half, "loss converging", lambda: _converging(losses[:half], None if control else thresholds.converged)),
        reached(last, "training stable", lambda: _stable(losses, half, thresholds.stable)),
        throughout("no NaN or Inf", *_finite(records)),
        throughout("few spikes", *_few_spikes(losses, max_steps, thresholds)),
        throughout("no collapse", *_no_collapse(records, thresholds)),
    ]
    if peak_share is not None:
        words = Message(
            "peak {share:.0%} of the device's memory, limit {limit:.0%}", share=peak_share, limit=thresholds.memory
        )
        table.append(throughout("memory", peak_share < thresholds.memory, peak_share, thresholds.memory, words))
    return table


def state_of(table: Sequence[Checkpoint]) -> str:
    """Return fail if any checkpoint failed, pass if all passed, else pending."""
    states = {checkpoint.state for checkpoint in table}
    if FAIL in states:
        return FAIL
    return PASS if states == {PASS} else PENDING


def smoothed(losses: Sequence[float], window: int) -> float:
    """Return the mean of the finite ones among the last ``window`` losses; NaN without any."""
    finite = [loss for loss in losses[-window:] if math.isfinite(loss)]
    return fmean(finite) if finite else math.nan


def _loss(record: Record) -> float:
    loss = record.get("loss")
    return float(loss) if isinstance(loss, int | float) else math.nan


def _converging(losses: Sequence[float], threshold: float | None) -> tuple[bool, float | None, float | None, Message]:
    first, now = losses[0], smoothed(losses, LAST)
    ratio = now / first if first > 0 else math.nan
    # Documents differ: if the first ones are hard, the loss falls although the student learns nothing.
    chance = _chance(losses)
    if threshold is None:
        words = Message(
            "mean of the last {n} losses {now:.4g} against {first:.4g} at step 1: of a control it must only not rise "
            "by more than chance, {chance:.2g}",
            **{"n": min(LAST, len(losses)), "now": now, "first": first, "chance": chance},
        )
        return now <= first + chance, _number(ratio), None, words
    passed = ratio < threshold and (first - now > chance or threshold >= 1)
    values = {"n": min(LAST, len(losses)), "now": now, "first": first, "ratio": ratio, "limit": threshold}
    words = Message(
        "mean of the last {n} losses {now:.4g} against {first:.4g} at step 1: {ratio:.0%}, wanted below {limit:.0%}; "
        "by chance they differ by {chance:.2g}",
        **values,
        chance=chance,
    )
    return passed, _number(ratio), threshold, words


def _chance(losses: Sequence[float]) -> float:
    """Return how far the first loss may exceed the mean of the last ones by chance; 0 with too few losses."""
    finite = [loss for loss in losses[len(losses) - min(BEFORE_SPIKE, len(losses) // 2) :] if math.isfinite(loss)]
    return NOISE * stdev(finite) * math.sqrt(1 + 1 / LAST) if len(finite) > 2 else 0.0


def _stable(losses: Sequence[float], half: int, threshold: float) -> tuple[bool, float | None, float, Message]:
    window = max(1, round(len(losses) * WINDOW))
    before, now = smoothed(losses[:half], window), smoothed(losses, window)
    ratio = now / before if before > 0 else math.nan
    # The two means are of different documents, so they differ by this much without a rise.
    noise = NOISE * math.hypot(*(_error_of_mean(part) for part in (losses[:half][-window:], losses[-window:])))
    values = {"window": window, "now": now, "before": before, "half": half, "noise": noise}
    words = Message(
        "smoothed over {window} steps, the loss is {now:.4g} and was {before:.4g} at step {half}, "
        "give or take {noise:.2g}",
        **values,
    )
    return now <= threshold * before + noise, _number(ratio), threshold, words


def _error_of_mean(losses: Sequence[float]) -> float:
    finite = [loss for loss in losses if math.isfinite(loss)]
    return stdev(finite) / math.sqrt(len(finite)) if len(finite) > 1 else 0.0


def _finite(records: Sequence[Record]) -> tuple[bool, int, int, Message]:
    wrong = [record for record in records if record.get("nonfinite")]
    if not wrong:
        return True, 0, 0, Message("every number so far is finite")
    first = wrong[0]
    words = Message("step {step}: {names} is NaN or Inf", step=first["step"], names=list(first["nonfinite"]))
    return False, len(wrong), 0, words


def _few_spikes(losses: Sequence[float], max_steps: int, thresholds: Thresholds) -> tuple[bool, int, int, Message]:
    allowed, spikes = math.floor(max_steps * thresholds.spikes), 0
    for n in range(LAST, len(losses)):
        before = [loss for loss in losses[max(0, n - BEFORE_SPIKE) : n] if math.isfinite(loss)]
        spikes += bool(before) and losses[n] > thresholds.spike * median(before) > 0
    values = {"n": spikes, "times": thresholds.spike, "allowed": allowed}
    words = Message("{n} losses above {times:g} times the median before them, at most {allowed} allowed", **values)
    return spikes <= allowed, spikes, allowed, words


def _no_collapse(records: Sequence[Record], thresholds: Thresholds) -> tuple[bool, float | None, float, Message]:
    variances = {kind: _mean_of(records[-LAST:], f"variance_ratio_{kind}") for kind in COLLAPSIBLE}
    ranks = {}
    for kind in COLLAPSIBLE:
        first, now = (_mean_of(part, f"effective_rank_{kind}") for part in (records[:1], records[-LAST:]))
        ranks[kind] = now / first if first > 0 else math.nan
    for name, ratios, threshold in (("variance", variances, thresholds.variance), ("rank", ranks, thresholds.rank)):
        for kind, ratio in ratios.items():
            if ratio < threshold:
                words = Message(COLLAPSED[name, kind], ratio=ratio, limit=threshold)
                return False, _number(ratio), threshold, words
    lowest = min(variances.values(), key=lambda ratio: ratio if math.isfinite(ratio) else math.inf)
    words = Message("least variance of the student's keys and values: not measured")
    if math.isfinite(lowest):
        words = Message("least variance of the student's keys and values: {share:.0%}", share=lowest)
    return True, _number(lowest), thresholds.variance, words


def _mean_of(records: Sequence[Record], name: str) -> float:
    values = [record[name] for record in records if isinstance(record.get(name), int | float)]
    return fmean(values) if values else math.nan


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
