"""All runs at a glance: one row each, from the status and the small records, read again only where a file changed."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kvlab.runs import monitor, notes, run_queue, store
from kvlab.runs.lenient import Count, Lenient, Number
from kvlab.runs.metrics import MEMORY, Peak, Reader, peak
from kvlab.runs.records import REPORT, VERDICT, Measured, Report, Status, Verdict
from kvlab.runs.run_queue import STOP

SMALL = 4 << 20  # bytes of a status or record that is still read for one row
TAIL = 1 << 16  # bytes at the end of metrics.jsonl in which the last step is looked for


@dataclass(frozen=True)
class Row:
    """One run. Numbers are None when they are not known; cross-entropies are held-out, in nats per token."""

    id: str
    folder: Path
    kind: str  # one of store.KINDS or "unknown"
    name: str
    state: str  # as monitor.judge gives it
    phase: str
    stopping: bool
    ahead: int | None  # runs before a queued one
    step: int | None
    steps: int | None  # asked for
    verdict: str | None  # "pass", "fail" or "pending"
    loss: float | None  # of the last step
    ce_before: float | None
    ce_after: float | None
    peak: Peak | None
    device: str | None
    started: datetime | None
    elapsed_s: float | None
    note: str

    @property
    def active(self) -> bool:
        return self.state in store.ACTIVE


class History:
    """The rows of one runs/ folder. Any thread may read them; two at once at worst read a file twice."""

    def __init__(self, root: Path):
        self.root = root
        self._kept: dict[tuple[str, str], tuple[tuple[int, int, int], Any]] = {}  # (run, file): signature, found

    def rows(self, now: datetime | None = None) -> list[Row]:
        """Newest first. Never raises for what is in runs/."""
        now = now or datetime.now(UTC)
        folders = store.listing(self.root)
        places = {entry.folder.name: place for place, entry in reversed(list(enumerate(run_queue.entries(self.root))))}
        rows = [self._row(folder, places, now) for folder in folders]
        names = {folder.name for folder in folders}
        for key in [key for key in list(self._kept) if key[0] not in names]:
            self._kept.pop(key, None)
        return rows

    def _row(self, folder: Path, places: dict[str, int], now: datetime) -> Row:
        status = self._read(folder, store.STATUS, lambda at: Status.of(store.read_status(at))) or Status()
        state = monitor.judge(status, now)
        active = state in store.ACTIVE
        verdict = self._read(folder, VERDICT, lambda at: Verdict.read(at / VERDICT)) or Verdict()
        report = self._read(folder, REPORT, lambda at: Report.read(at / REPORT)) or Report()
        last = self._read(folder, store.METRICS, _last_step) or LastStep()
        first = status.history[0] if status.history else status
        known = {"id": folder.name, "folder": folder, "state": state, "phase": status.phase}
        return Row(
            **known,
            kind=status.kind if status.kind in store.KINDS else "unknown",
            name=status.name or folder.name,
            stopping=active and (folder / STOP).exists(),
            ahead=places.get(folder.name) if state == "queued" else None,
            **{"step": last.step, "loss": last.loss, "verdict": verdict.state},
            steps=self._steps(folder, verdict),
            ce_before=(report.before or Measured()).ce,
            ce_after=(report.after or Measured()).ce,
            peak=self._peak(folder, active),
            device=report.device.device or status.queue.device,
            started=monitor.moment(first.started or status.started),
            elapsed_s=monitor.elapsed(status, now if active else None),
            note=self._read(folder, notes.NOTES, notes.read) or "",
        )

    def _steps(self, folder: Path, verdict: Verdict) -> int | None:
        """As the checkpoint table ends; YAML is slow to read, and is for a run that has no table yet."""
        steps = [row.step for row in verdict.checkpoints if row.step is not None]
        if steps:
            return max(steps)
        return self._read(folder, store.CONFIG, lambda at: Asked.of(store.read_config(at)).max_steps)

    def _peak(self, folder: Path, active: bool) -> Peak | None:
        kept = self._kept.get((folder.name, MEMORY))
        # The table of a run at work is kept, so that only what is new in the file is read.
        reader = (kept and kept[1] and kept[1][0]) or Reader(folder / MEMORY)
        found = self._read(folder, MEMORY, lambda _: (reader if active else None, peak(reader.read())))
        return found[1] if found else None

    def _read(self, folder: Path, name: str, read: Callable[[Path], Any]) -> Any:
        """What ``read`` finds in a file of a run, kept until the file changes; None for one that is not there."""
        key = folder.name, name
        try:
            found = os.lstat(f"{folder}/{name}")  # not as paths, which take most of the time of hundreds of runs
        except OSError:
            self._kept.pop(key, None)
            return None
        signature = found.st_mtime_ns, found.st_size, found.st_ino
        kept = self._kept.get(key)
        if kept is None or kept[0] != signature:
            small = found.st_size <= SMALL or name in (store.METRICS, MEMORY)
            kept = self._kept[key] = signature, read(folder) if small else None
        return kept[1]


class LastStep(Lenient):
    """The last step of metrics.jsonl."""

    step: Count | None = None
    loss: Number | None = None


class Asked(Lenient):
    """What a row shows of the settings."""

    max_steps: Count | None = None


def _last_step(folder: Path) -> LastStep:
    """The last whole line of metrics.jsonl that is a step; damaged lines behind it are passed over."""
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
