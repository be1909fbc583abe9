"""All runs at a glance: one row each, from the status and the small records, read again only where a file changed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kvlab.runs import monitor, notes, run_queue, store
from kvlab.runs.metrics import Reader
from kvlab.runs.run_queue import STOP
from kvlab.runs.metrics import MEMORY, Peak, peak

REPORT, VERDICT = "report.json", "verdict.json"
SMALL = 4 << 20  # bytes of a status or record that is still read for one row
TAIL = 1 << 16  # bytes at the end of metrics.jsonl in which the last step is looked for

Fields = dict[str, Any]


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
        gone = {run for run, _ in list(self._kept)} - {folder.name for folder in folders}
        for key in [key for key in list(self._kept) if key[0] in gone]:
            self._kept.pop(key, None)
        return rows

    def _row(self, folder: Path, places: dict[str, int], now: datetime) -> Row:
        status = self._read(folder, store.STATUS, store.read_status) or {}
        state = monitor.judge(status, now)
        active = state in store.ACTIVE
        verdict, report = self._json(folder, VERDICT), self._json(folder, REPORT)
        last = self._read(folder, store.METRICS, _last_step) or {}
        return Row(
            id=folder.name,
            folder=folder,
            kind=status.get("kind") if status.get("kind") in store.KINDS else "unknown",
            name=_text(status.get("name")) or folder.name,
            state=state,
            phase=_text(status.get("phase")) or "",
            stopping=active and (folder / STOP).exists(),
            ahead=places.get(folder.name) if state == "queued" else None,
            step=last.get("step"),
            steps=self._steps(folder, verdict),
            verdict=verdict.get("state") if verdict.get("state") in ("pass", "fail", "pending") else None,
            loss=finite(last.get("loss")),
            ce_before=finite(_table(report.get("before")).get("ce")),
            ce_after=finite(_table(report.get("after")).get("ce")),
            peak=self._peak(folder, active),
            device=_text(_table(report.get("device")).get("device")) or _queued_for(status),
            started=monitor.moment(_first_start(status)),
            elapsed_s=monitor.elapsed(status, now if active else None),
            note=self._read(folder, notes.NOTES, notes.read) or "",
        )

    def _steps(self, folder: Path, verdict: Fields) -> int | None:
        """As the checkpoint table ends; YAML is slow to read, and is for a run that has no table yet."""
        table = verdict.get("checkpoints")
        known = [_whole(_table(row).get("step")) for row in table] if isinstance(table, list) else []
        found = max((step for step in known if step is not None), default=None)
        if found is None:
            found = _whole(self._read(folder, store.CONFIG, lambda at: store.read_config(at).get("max_steps")))
        return found

    def _peak(self, folder: Path, active: bool) -> Peak | None:
        kept = self._kept.get((folder.name, MEMORY))
        # The table of a run at work is kept, so that only what is new in the file is read.
        reader = (kept and kept[1] and kept[1][0]) or Reader(folder / MEMORY)
        found = self._read(folder, MEMORY, lambda _: (reader if active else None, peak(reader.read())))
        return found[1] if found else None

    def _json(self, folder: Path, name: str) -> Fields:
        return self._read(folder, name, lambda at: _object(at / name)) or {}

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


def _last_step(folder: Path) -> Fields:
    """The last whole line of metrics.jsonl that is a step; damaged lines behind it are passed over."""
    try:
        descriptor = os.open(folder / store.METRICS, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - TAIL, 0))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return {}
    for line in reversed(lines):
        with suppress(ValueError, RecursionError):
            record = json.loads(line, parse_constant=lambda _: None)
            if isinstance(record, dict) and _whole(record.get("step")) is not None:
                return record
    return {}


def _object(path: Path) -> Fields:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            return _table(json.loads(file.read(), parse_constant=lambda _: None))
    except (OSError, ValueError, RecursionError):
        return {}


def _first_start(status: Fields) -> object:
    history = status.get("history")
    first = _table(history[0]) if isinstance(history, list) and history else {}
    return first.get("started") or status.get("started")


def _queued_for(status: Fields) -> str | None:
    return _text(_table(status.get("queue")).get("device"))


def _table(value: object) -> Fields:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    # JSON can hold halves of characters, which nothing else takes.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def finite(value: object) -> float | None:
    """A number of a record; None for anything else."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
    with suppress(OverflowError):
        return float(value) if known else None
    return None
