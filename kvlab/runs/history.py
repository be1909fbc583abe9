"""List all runs, one row each. Reads a run's status and small records again only when a file has changed."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kvlab.runs import labels, monitor, notes, run_queue, store
from kvlab.runs.labels import Labels
from kvlab.runs.lenient import Count, Lenient, Number
from kvlab.runs.metrics import MEMORY, Peak, Reader, peak
from kvlab.runs.records import REPORT, VERDICT, Measured, Report, Status, Verdict
from kvlab.runs.run_queue import STOP

SMALL = 4 << 20  # bytes of the largest status or record to read for one row
TAIL = 1 << 16  # bytes at the end of metrics.jsonl in which to look for the last step


@dataclass(frozen=True)
class Row:
    """One run. Unknown numbers are None; cross-entropies are held-out, in nats per token."""

    id: str
    folder: Path
    kind: str  # one of store.KINDS or "unknown"
    name: str
    state: str  # as monitor.judge gives it
    phase: str
    stopping: bool
    overdue: bool  # as in monitor.View
    ahead: int | None  # runs before a queued one
    step: int | None
    steps: int | None  # asked for
    verdict: str | None  # "pass", "fail" or "pending"
    loss: float | None  # of the last step
    control: str | None  # of a training run: "none" for one with teachers
    ce_before: float | None
    ce_after: float | None
    kl_after: float | None  # on the projected cache, nats per token
    kv_key_after: float | None  # held-out KV error
    kv_value_after: float | None
    peak: Peak | None
    device: str | None
    started: datetime | None
    elapsed_s: float | None  # of all its processes, where it was resumed
    note: str
    labels: Labels

    @property
    def active(self) -> bool:
        return self.state in store.ACTIVE


class History:
    """The rows of one runs/ folder. Any thread may read them; two at once may read a file twice."""

    def __init__(self, root: Path):
        self.root = root
        self._cache: dict[tuple[str, str], tuple[tuple[int, int, int], Any]] = {}  # (run, file): signature, value
        self._readers: dict[str, Reader] = {}  # of memory.jsonl of active runs

    def rows(self, now: datetime | None = None) -> list[Row]:
        """Return the rows, newest first. Never raises for the content of runs/."""
        now = now or datetime.now(UTC)
        folders = store.listing(self.root)
        places = {entry.folder.name: place for place, entry in reversed(list(enumerate(run_queue.entries(self.root))))}
        rows = [self._row(folder, places, now) for folder in folders]
        names = {folder.name for folder in folders}
        for name, file in list(self._cache):
            if name not in names:
                self._cache.pop((name, file), None)
                self._readers.pop(name, None)
        return rows

    def _row(self, folder: Path, places: dict[str, int], now: datetime) -> Row:
        status = self._read(folder, store.STATUS, lambda at: Status.of(store.read_status(at))) or Status()
        state = monitor.judge(status, now)
        active = state in store.ACTIVE
        verdict = self._read(folder, VERDICT, lambda at: Verdict.read(at / VERDICT)) or Verdict()
        report = self._read(folder, REPORT, lambda at: Report.read(at / REPORT)) or Report()
        last = self._read(folder, store.METRICS, _last_step) or LastStep()
        first = status.history[0] if status.history else status
        return Row(
            id=folder.name,
            folder=folder,
            state=state,
            phase=status.phase,
            kind=status.kind if status.kind in store.KINDS else "unknown",
            name=status.name or folder.name,
            stopping=active and (folder / STOP).exists(),
            overdue=active and monitor.overdue(status, now),
            ahead=places.get(folder.name) if state == "queued" else None,
            step=last.step,
            loss=last.loss,
            verdict=verdict.state,
            steps=self._steps(folder, verdict),
            control=control if isinstance(control := report.config.get("control"), str) else None,
            ce_before=(report.before or Measured()).ce,
            ce_after=(report.after or Measured()).ce,
            kl_after=_kl(report),
            kv_key_after=(report.after or Measured()).kv_key,
            kv_value_after=(report.after or Measured()).kv_value,
            peak=self._peak(folder, active),
            device=report.device.device or status.queue.device,
            started=monitor.moment(first.started or status.started),
            elapsed_s=monitor.elapsed(status, now if active else None),
            note=self._read(folder, notes.NOTES, notes.read) or "",
            labels=self._read(folder, labels.LABELS, labels.read) or Labels(),
        )

    def _steps(self, folder: Path, verdict: Verdict) -> int | None:
        """Return the last step of the checkpoint table, else of the settings, because YAML is slow to read."""
        steps = [row.step for row in verdict.checkpoints if row.step is not None]
        if steps:
            return max(steps)
        return self._read(folder, store.CONFIG, lambda at: RunSettings.of(store.read_config(at)).max_steps)

    def _peak(self, folder: Path, active: bool) -> Peak | None:
        # Keep the reader of an active run, so that it reads only the new lines next time.
        reader = self._readers.setdefault(folder.name, Reader(folder / MEMORY))
        highest = self._read(folder, MEMORY, lambda _: peak(reader.read()))
        if not active:
            self._readers.pop(folder.name, None)
        return highest

    def _read(self, folder: Path, name: str, load: Callable[[Path], Any]) -> Any:
        """Load a file of a run, or return the cached value while the file is unchanged; None for a missing file."""
        key = folder.name, name
        try:
            file = os.lstat(f"{folder}/{name}")  # a string: building paths takes most of the time of hundreds of runs
        except OSError:
            self._cache.pop(key, None)
            return None
        signature = file.st_mtime_ns, file.st_size, file.st_ino
        cached, value = self._cache.get(key, (None, None))
        if cached != signature:
            small = file.st_size <= SMALL or name in (store.METRICS, MEMORY)
            value = load(folder) if small else None
            self._cache[key] = signature, value
        return value


def _kl(report: Report) -> float | None:
    test = report.functional and report.functional.after
    return test.variants.projected.kl if test and test.own.reproduces else None


class LastStep(Lenient):
    """The last step of metrics.jsonl."""

    step: Count | None = None
    loss: Number | None = None


class RunSettings(Lenient):
    """The settings that a row shows."""

    max_steps: Count | None = None


def _last_step(folder: Path) -> LastStep:
    """Return the last complete line of metrics.jsonl that is a step; skip damaged lines after it."""
    try:
        descriptor = os.open(folder / store.METRICS, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - TAIL, 0))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return LastStep()
    for line in reversed(lines):
        with suppress(ValueError, RecursionError):
            step = LastStep.of(json.loads(line, parse_constant=lambda _: None))
            if step.step is not None:
                return step
    return LastStep()
