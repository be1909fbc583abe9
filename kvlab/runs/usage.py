"""The memory of a run over time, memory.jsonl: its curve, and its peak as a share of the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kvlab.runs.metrics import NAN, Table

MEMORY = "memory.jsonl"


@dataclass(frozen=True)
class Peak:
    """The most memory that was in use, in bytes. ``share``: of ``total``; both None when that is not known."""

    used: int
    total: int | None
    what: str  # "device": all that is in use on the GPU, other people's too; "process": this run's own memory
    phase: str

    @property
    def share(self) -> float | None:
        return self.used / self.total if self.total else None


def curve(table: Table) -> tuple[str, list[float], list[float]]:
    """What is shown of memory.jsonl -> "device" or "process", seconds of work so far, bytes in use.

    Without a GPU the trainer gives the process's memory for the device's; it is called by its name.
    """
    resident, used = table.column("process_rss"), table.column("device_used")
    gpu = any(math.isfinite(all_of_it) and all_of_it != own for all_of_it, own in zip(used, resident))
    return ("device", _going_on(table.column("t")), used) if gpu else ("process", _going_on(table.column("t")), resident)


def peak(table: Table) -> Peak | None:
    """The highest point of the memory curve, or the mark of torch or the process that no sample caught; None without."""
    what, _, used = curve(table)
    marks = table.column("torch_peak" if what == "device" else "process_peak")
    used = [max(filter(math.isfinite, pair), default=NAN) for pair in zip(used, marks)]
    known = [(value, row) for row, value in enumerate(used) if math.isfinite(value)]
    if not known:
        return None
    best, at = max(known, key=lambda found: found[0])
    totals = [total for total in table.column("device_total") if math.isfinite(total) and total > 0]
    phase = table.rows[at].get("phase")
    return Peak(int(best), int(totals[-1]) if totals else None, what, phase if isinstance(phase, str) else "")


def _going_on(times: Sequence[float]) -> list[float]:
    """Times of a clock that begins anew when a run is resumed, made to go on where it stopped."""
    first, before, passed, moments = next(filter(math.isfinite, times), NAN), NAN, 0.0, []
    for moment in times:
        if moment < before:
            passed, first = passed + before - first, moment
        before = moment if math.isfinite(moment) else before
        moments.append(passed + moment - first)
    return moments
