"""Read metrics.jsonl and memory.jsonl as columns, from where the last look stopped; a run's pace and memory peak.

Torn and garbage lines are skipped and counted, numbers that were not finite are NaN. When a resumed run repeats steps,
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

PACE_STEPS = 20  # the last steps, whose median time tells what remains
DEPTH = 3  # of lists and tables within a record, of which the numbers are read
NAN = math.nan
ENDS, LEAST_AT_END = 0.2, 5  # share of the losses that a start or an end is read from, and how many at least
CERTAIN = 2.0  # standard errors beyond which a fall is no chance


@dataclass
class Table:
    """Columns of equal length, NaN where a row has no finite number. ``rows``: the records themselves."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, list[float]] = field(default_factory=dict)

    def column(self, name: str) -> list[float]:
        """All NaN when no row has it."""
        return self.columns.get(name) or [NAN] * len(self.rows)

    def add(self, row: dict[str, Any]) -> None:
        numbers = _numbers(row)
        for name in numbers.keys() - self.columns.keys():
            self.columns[name] = [NAN] * len(self.rows)
        for name, values in self.columns.items():
            values.append(numbers.get(name, NAN))
        self.rows.append(row)

    def cut(self, length: int) -> None:
        """Forget the rows from number ``length`` on."""
        for values in (self.rows, *self.columns.values()):
            del values[length:]


class Reader:
    """Reads a growing file; ``read`` takes in what is new and gives the whole table."""

    def __init__(self, path: Path):
        self._path, self._offset = path, 0
        self.table = Table()
        self.garbage = 0  # whole lines that are no record
        self.torn = False  # the file ends in half a line, being written or cut off by a fault

    def read(self) -> Table:
        """The table so far. Never raises for what is in the file, or for a missing one."""
        lines = store.read_lines(self._path, self._offset)
        if lines.offset < self._offset:  # the file was begun anew
            self.table.cut(0)
            self.garbage = 0
            self._begin_anew()
        self._offset = lines.offset
        self.garbage += lines.garbage
        for record in lines.records:
            self._take(record)
        try:
            self.torn = self._path.lstat().st_size > self._offset
        except OSError:
            self.torn = False
        return self.table

    def _take(self, record: dict[str, Any]) -> None:
        self.table.add(record)

    def _begin_anew(self) -> None:
        """Forget what else is kept."""


class Steps(Reader):
    """metrics.jsonl: one row a step, in the order of steps."""

    def __init__(self, folder: Path):
        super().__init__(folder / store.METRICS)
        self.resumed: list[int] = []  # the steps after which the run went on when it was resumed
        self.nonfinite: dict[str, int] = {}  # per column, the first step at which it was NaN or infinite

    def _take(self, record: dict[str, Any]) -> None:
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
        kept = len(steps)
        while kept and steps[kept - 1] >= step:
            kept -= 1
        self.table.cut(kept)
        self.nonfinite = {name: first for name, first in self.nonfinite.items() if first < step}

    def _begin_anew(self) -> None:
        self.resumed, self.nonfinite = [], {}


def smoothed(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """The exponential moving average, corrected for its start; NaN is passed over and shown as NaN."""
    average, known, smooth = 0.0, 0.0, []
    for value in values:
        if math.isfinite(value):
            average = weight * average + (1 - weight) * value
            known = weight * known + (1 - weight)
        smooth.append(average / known if math.isfinite(value) else NAN)
    return smooth


def fell(losses: Sequence[float]) -> bool | None:
    """Whether the last fifth of the losses is below the first by more than two standard errors; None of under two.

    Each step is of other documents: of two single losses the later one is lower in half of all runs that learn nothing.
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
    """How fast a run is; None when that is not known yet."""

    step: int
    seconds_per_step: float | None
    tokens_per_s: float | None
    remaining_s: float | None


def pace(table: Table, total: int) -> Pace:
    """From the last steps of a run of ``total`` steps; medians, as the first step and a pause are long."""
    step = int(table.column("step")[-1]) if table.rows else 0
    seconds = _median(table.column("seconds")[-PACE_STEPS:])
    tokens = _median(table.column("tokens_per_s")[-PACE_STEPS:])
    return Pace(step, seconds, tokens, seconds * max(total - step, 0) if seconds is not None else None)


def _numbers(row: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a record, inner ones by dotted names (``router.0``); null is NaN."""
    found: dict[str, float] = {}
    if prefix.count(".") > DEPTH:
        return found
    for name, value in row.items():
        if isinstance(value, list):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{name}.")
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            found[prefix + name] = NAN
            with suppress(OverflowError):
                found[prefix + name] = NAN if value is None else float(value)
    return found


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _median(values: Sequence[float]) -> float | None:
    known = sorted(value for value in values if math.isfinite(value) and value > 0)
    return known[len(known) // 2] if known else None


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
    return (
        ("device", _going_on(table.column("t")), used) if gpu else ("process", _going_on(table.column("t")), resident)
    )


def peak(table: Table) -> Peak | None:
    """Return the peak of the memory curve, or the mark of torch or the process that no sample caught."""
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
