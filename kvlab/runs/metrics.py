"""Read the growing metrics.jsonl and memory.jsonl as columns; compute a run's pace and memory peak.

Torn and garbage lines are skipped and counted; numbers that were not finite are NaN. When a resumed run repeats steps,
the later records win.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from kvlab.runs import store

PACE_STEPS = 20  # last steps, whose median time gives the remaining time
DEPTH = 3  # of lists and tables in a record whose numbers are read
NAN = math.nan
ENDS, LEAST_AT_END = 0.2, 5  # share of the losses that count as start or end, and the least number of them
CERTAIN = 2.0  # standard errors beyond which a fall counts as real


@dataclass
class Table:
    """Columns of equal length, NaN where a row has no finite number. ``rows`` are the records themselves."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, list[float]] = field(default_factory=dict)

    def column(self, name: str) -> list[float]:
        """Return a column; all NaN if no row has it."""
        return self.columns.get(name) or [NAN] * len(self.rows)

    def add(self, row: dict[str, Any]) -> None:
        found = numbers(row)
        for name in found.keys() - self.columns.keys():
            self.columns[name] = [NAN] * len(self.rows)
        for name, values in self.columns.items():
            values.append(found.get(name, NAN))
        self.rows.append(row)

    def cut(self, length: int) -> None:
        """Remove the rows from number ``length`` on."""
        for values in (self.rows, *self.columns.values()):
            del values[length:]


class Reader:
    """Reads a growing file; ``read`` adds the new lines and returns the whole table."""

    def __init__(self, path: Path):
        self._path, self._offset = path, 0
        self.table = Table()
        self.garbage = 0  # complete lines that are no record
        self.torn = False  # the file ends in half a line, unfinished or cut off

    def read(self) -> Table:
        """Return the table so far. Never raises for the file's content, or for a missing file."""
        lines = store.read_lines(self._path, self._offset)
        if lines.offset < self._offset:  # the file was replaced by a shorter one
            self.table.cut(0)
            self.garbage = 0
            self._reset()
        self._offset = lines.offset
        self.garbage += lines.garbage
        for record in lines.records:
            self._add(record)
        try:
            self.torn = self._path.lstat().st_size > self._offset
        except OSError:
            self.torn = False
        return self.table

    def _add(self, record: dict[str, Any]) -> None:
        self.table.add(record)

    def _reset(self) -> None:
        """Clear the subclass's own state."""


class Steps(Reader):
    """Reads metrics.jsonl: one row per step, in the order of steps."""

    def __init__(self, folder: Path):
        super().__init__(folder / store.METRICS)
        self.resumed: list[int] = []  # the last steps before each resumption
        self.nonfinite: dict[str, int] = {}  # column -> the first step at which it was NaN or infinite

    def _add(self, record: dict[str, Any]) -> None:
        if (resumed := _whole(record.get("resumed_from"))) is not None:
            self.resumed.append(resumed)
            self._supersede(resumed + 1)
        step = _whole(record.get("step"))
        if step is None:
            self.garbage += resumed is None
            return
        self._supersede(step)
        self.table.add(record)
        names = record.get("nonfinite")
        for name in names if isinstance(names, list) else ():
            self.nonfinite.setdefault(str(name), step)

    def _supersede(self, step: int) -> None:
        steps = self.table.column("step")
        length = len(steps)
        while length and steps[length - 1] >= step:
            length -= 1
        self.table.cut(length)
        self.nonfinite = {name: first for name, first in self.nonfinite.items() if first < step}

    def _reset(self) -> None:
        self.resumed, self.nonfinite = [], {}


def smoothed(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Return the exponential moving average, corrected for its start. NaN stays NaN and does not count."""
    average, known, smooth = 0.0, 0.0, []
    for value in values:
        if math.isfinite(value):
            average = weight * average + (1 - weight) * value
            known = weight * known + (1 - weight)
        smooth.append(average / known if math.isfinite(value) else NAN)
    return smooth


def fell(losses: Sequence[float]) -> bool | None:
    """Return whether the last fifth of the losses is below the first by over two standard errors; None of under two.

    Each step reads other documents: in half of the runs that learn nothing, the later of two losses is the lower one.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    count = max(round(len(finite) * ENDS), min(LEAST_AT_END, len(finite) // 2))
    if not count:
        return None
    before, after = finite[:count], finite[-count:]
    noise = math.hypot(*(stdev(part) / math.sqrt(count) if count > 1 else 0.0 for part in (before, after)))
    return fmean(after) < fmean(before) - CERTAIN * noise


@dataclass(frozen=True)
class Pace:
    """The speed of a run; None where it is not known yet."""

    step: int
    seconds_per_step: float | None
    tokens_per_s: float | None
    remaining_s: float | None


def pace(table: Table, total: int) -> Pace:
    """Return the pace of a run of ``total`` steps: medians, as a first step or a pause is long.

    Of its last steps while it goes on; of all of them once the last is done, as its report says.
    """
    step = int(table.column("step")[-1]) if table.rows else 0
    counted = slice(None) if step >= total > 0 else slice(-PACE_STEPS, None)
    seconds, tokens = (median(table.column(name)[counted]) for name in ("seconds", "tokens_per_s"))
    return Pace(step, seconds, tokens, seconds * max(total - step, 0) if seconds is not None else None)


def numbers(row: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of a record, inner ones by dotted names (``router.0``); null is NaN."""
    found: dict[str, float] = {}
    if prefix.count(".") > DEPTH:
        return found
    for name, value in row.items():
        if isinstance(value, list):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, dict):
            found |= numbers(value, f"{prefix}{name}.")
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            found[prefix + name] = NAN
            with suppress(OverflowError):
                found[prefix + name] = NAN if value is None else float(value)
    return found


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def median(values: Sequence[float]) -> float | None:
    """Return the upper median of what is finite and above zero; None if nothing is."""
    known = sorted(value for value in values if math.isfinite(value) and value > 0)
    return known[len(known) // 2] if known else None


MEMORY = "memory.jsonl"


@dataclass(frozen=True)
class Peak:
    """The most memory in use, in bytes. ``share`` is of ``total``; both are None if unknown."""

    used: int
    total: int | None
    what: str  # "device": all memory in use on the GPU, other processes' too; "process": this run's memory
    phase: str

    @property
    def share(self) -> float | None:
        return self.used / self.total if self.total else None


def curve(table: Table) -> tuple[str, list[float], list[float]]:
    """Return the curve of memory.jsonl: "device" or "process", seconds of work so far, bytes in use.

    Without a GPU, the trainer writes the process's memory as the device's; the curve is then named "process".
    """
    resident, used = table.column("process_rss"), table.column("device_used")
    on_gpu = any(math.isfinite(device) and device != process for device, process in zip(used, resident))
    seconds = _continuous(table.column("t"))
    return ("device", seconds, used) if on_gpu else ("process", seconds, resident)


def peak(table: Table) -> Peak | None:
    """Return the highest memory of the curve, or the higher peak of torch or the process between two samples."""
    what, _, used = curve(table)
    peaks = table.column("torch_peak" if what == "device" else "process_peak")
    used = [max(filter(math.isfinite, pair), default=NAN) for pair in zip(used, peaks)]
    known = [(value, row) for row, value in enumerate(used) if math.isfinite(value)]
    if not known:
        return None
    highest, at = max(known, key=lambda sample: sample[0])
    totals = [total for total in table.column("device_total") if math.isfinite(total) and total > 0]
    phase = table.rows[at].get("phase")
    return Peak(int(highest), int(totals[-1]) if totals else None, what, phase if isinstance(phase, str) else "")


def _continuous(times: Sequence[float]) -> list[float]:
    """Return the seconds of work so far, from a clock that restarts at 0 when a run is resumed."""
    first, before, passed, moments = next(filter(math.isfinite, times), NAN), NAN, 0.0, []
    for moment in times:
        if moment < before:
            passed, first = passed + before - first, moment
        before = moment if math.isfinite(moment) else before
        moments.append(passed + moment - first)
    return moments
