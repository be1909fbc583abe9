"""The curves of a run as plain lists, for figures; long ones thinned, so that a report stays small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kvlab.runs.metrics import Table, smoothed
from kvlab.runs.usage import curve

TERMS = ("loss", "ce", "kv_key", "kv_value", "entropy")
MOST_POINTS = 2000  # of a curve; more than a figure has pixels

Fields = dict[str, Any]


def series(steps: Table, memory: Table) -> Fields:
    """``step`` and the terms over it, raw and smoothed; the router's weights; memory in bytes over seconds of work.

    ``every``: which share of the points is kept, one of so many. Of memory the largest of each group is.
    """
    numbers = steps.column("step")
    every = -(-len(numbers) // MOST_POINTS) or 1
    kept = _kept(len(numbers), every)
    terms = {name: steps.column(name) for name in TERMS if any(map(math.isfinite, steps.column(name)))}
    if "router.0" not in steps.columns:
        terms.pop("entropy", None)  # of the weights of a single teacher, which are always 1
    routers = sorted(name for name in steps.columns if name.startswith("router.") and name[7:].isdigit())
    of, times, used = curve(memory)
    group = -(-len(used) // MOST_POINTS) or 1
    peaks = [_largest(used, start, group) for start in range(0, len(used), group)]
    return {
        "every": every,
        "step": [int(numbers[at]) for at in kept],
        "raw": {name: [values[at] for at in kept] for name, values in terms.items()},
        "smooth": {name: [values[at] for at in kept] for name, values in _smooth(terms).items()},
        "router": [[steps.column(name)[at] for at in kept] for name in sorted(routers, key=lambda n: int(n[7:]))],
        "memory": {"of": of, "seconds": [times[at] for at in peaks], "bytes": [used[at] for at in peaks]},
    }


def _smooth(terms: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: smoothed(values) for name, values in terms.items()}


def _kept(count: int, every: int) -> list[int]:
    """Places of every so-manieth point, and the last."""
    places = list(range(0, count, every))
    return places if not count or places[-1] == count - 1 else [*places, count - 1]


def _largest(values: Sequence[float], start: int, length: int) -> int:
    places = range(start, min(start + length, len(values)))
    return max(places, key=lambda at: values[at] if math.isfinite(values[at]) else -math.inf)
