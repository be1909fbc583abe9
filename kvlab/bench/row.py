"""Measure two things in turn, several times, and give their ratio as one line of the bench."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch

from kvlab.models.loading import wait

TIME = "× the time"  # at most the bar
MEMORY = "× the memory"  # at most the bar
FASTER = "× faster"  # at least the bar


@dataclass(frozen=True)
class Row:
    name: str
    against: str
    ratio: float  # median over the rounds; NaN where it was not measured
    low: float  # of the rounds
    high: float
    bar: float | None  # None: no bar to show
    holds: bool | None  # None: nothing to judge
    unit: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Spent:
    """Seconds of one call. On a busy machine processor time is more reliable than the clock."""

    clock: float
    processor: float  # of all threads of this process
    result: Any  # of the call


def judged(name: str, against: str, ratios: list[float], unit: str, bar: float | None, equal=True, **detail) -> Row:
    """Make a row from the ratio of every round; ``equal``: both sides gave the same result, as far as required."""
    ratio, holds = median(ratios), None
    if bar is not None:
        holds = equal and (ratio >= bar if unit == FASTER else ratio <= bar)
    return Row(name, against, ratio, min(ratios), max(ratios), bar, holds, unit, {"rounds": len(ratios), **detail})


def timed(
    name: str, against: str, rounds: list[tuple[Spent, Spent]], unit: str, bar: float | None, equal=True, **detail
) -> Row:
    """Make a row from rounds of kvlab's work and of the other side's."""

    def ratio(ours: float, other: float) -> float:
        return other / ours if unit == FASTER else ours / other

    return judged(
        name,
        against,
        [ratio(ours.clock, other.clock) for ours, other in rounds],
        unit,
        bar,
        equal,
        ratio_of_processor_time=median(ratio(ours.processor, other.processor) for ours, other in rounds),
        kvlab_s=[ours.clock for ours, _ in rounds],
        other_s=[other.clock for _, other in rounds],
        **detail,
    )


def not_measured(name: str, against: str, unit: str, bar: float, reason: str) -> Row:
    unknown = float("nan")
    return Row(name, against, unknown, unknown, unknown, bar, None, unit, {"not_measured": reason})


def spent(work: Callable[[], Any], device: torch.device) -> Spent:
    """Time one call, with nothing pending on the device before or after."""
    gc.collect()
    wait(device)
    clock, processor = perf_counter(), process_time()
    result = work()
    wait(device)
    return Spent(perf_counter() - clock, process_time() - processor, result)


def in_turn(
    ours: Callable[[], Any], other: Callable[[], Any], device: torch.device, rounds: int
) -> list[tuple[Spent, Spent]]:
    """Measure both in every round, in alternating order, so that other work on the machine affects both."""
    measured = []
    for number in range(rounds):
        if number % 2:
            other_spent, our_spent = spent(other, device), spent(ours, device)
        else:
            our_spent, other_spent = spent(ours, device), spent(other, device)
        measured.append((our_spent, other_spent))
    return measured
