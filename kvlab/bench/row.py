"""One line of the bench: two things measured in turn, several times, and the ratio between them."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch

TIME = "× the time"  # at most the bar
MEMORY = "× the memory"  # at most the bar
FASTER = "× faster"  # at least the bar


@dataclass(frozen=True)
class Row:
    name: str
    against: str
    ratio: float  # median over the rounds; not a number where it was not measured
    low: float  # of the rounds
    high: float
    bar: float | None  # None: shown without one
    holds: bool | None  # None: nothing to judge
    unit: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Spent:
    """Seconds of one call. On a busy machine the processor's own time tells more than the clock."""

    clock: float
    processor: float  # of all threads of this process
    result: Any  # of the call


def judged(name: str, against: str, ratios: list[float], unit: str, bar: float | None, equal=True, **detail) -> Row:
    """A row from the ratio of every round; ``equal``: the two sides gave the same result, as far as they must."""
    ratio = median(ratios)
    holds = None if bar is None else equal and (ratio >= bar if unit == FASTER else ratio <= bar)
    return Row(name, against, ratio, min(ratios), max(ratios), bar, holds, unit, {"rounds": len(ratios), **detail})


def timed(
    name: str, against: str, rounds: list[tuple[Spent, Spent]], unit: str, bar: float | None, equal=True, **detail
) -> Row:
    """A row from rounds of kvlab's own work and of what it is compared with."""

    def ratio(own: float, other: float) -> float:
        return other / own if unit == FASTER else own / other

    return judged(
        name,
        against,
        [ratio(own.clock, other.clock) for own, other in rounds],
        unit,
        bar,
        equal,
        ratio_of_processor_time=median(ratio(own.processor, other.processor) for own, other in rounds),
        kvlab_s=[own.clock for own, _ in rounds],
        other_s=[other.clock for _, other in rounds],
        **detail,
    )


def not_measured(name: str, against: str, unit: str, bar: float, reason: str) -> Row:
    unknown = float("nan")
    return Row(name, against, unknown, unknown, unknown, bar, None, unit, {"not_measured": reason})


def spent(work: Callable[[], Any], device: torch.device) -> Spent:
    """By one call, with nothing pending on the device before or after."""
    gc.collect()
    wait(device)
    clock, processor = perf_counter(), process_time()
    result = work()
    wait(device)
    return Spent(perf_counter() - clock, process_time() - processor, result)


def in_turn(
    own: Callable[[], Any], other: Callable[[], Any], device: torch.device, rounds: int
) -> list[tuple[Spent, Spent]]:
    """Both in every round, the order turned round each time: what else the machine does hits both."""
    measured = []
    for number in range(rounds):
        if number % 2:
            of_other, of_own = spent(other, device), spent(own, device)
        else:
            of_own, of_other = spent(own, device), spent(other, device)
        measured.append((of_own, of_other))
    return measured


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
