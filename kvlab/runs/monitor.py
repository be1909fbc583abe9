"""Judge the state of a run from its folder: an active status whose process is gone counts as lost."""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from kvlab.errors import PARTS, RunError
from kvlab.language import Message
from kvlab.runs import process, store
from kvlab.runs.records import Ended, Status
from kvlab.runs.run_queue import STOP

# Clocks of two hosts differ, and shared file systems show changes late.
SLACK = timedelta(minutes=5)


@dataclass(frozen=True)
class View:
    """One run for people. Times are UTC ISO text, durations seconds, None when unknown."""

    id: str
    folder: Path
    kind: str
    name: str
    state: str  # store.ACTIVE, store.FINAL or "lost"
    phase: str
    done: int
    total: int
    started: str | None
    updated: str | None
    elapsed_s: float | None
    phase_remaining_s: float | None  # of the current phase, at its pace so far
    silent_s: float | None  # since the last heartbeat of an active run
    overdue: bool  # an active run with a late heartbeat: one long step, or stuck
    host: str | None
    pid: int | None
    error: dict[str, str] | None  # kind, expected, found, remedy; also of a lost run
    files: tuple[str, ...]
    stopping: bool = False  # the user asked it to stop; it finishes its step and saves

    @property
    def active(self) -> bool:
        return self.state in store.ACTIVE

    @cached_property
    def config(self) -> dict[str, Any]:
        """Read the settings on first use: YAML is slow, and lists of many runs do not need it."""
        return store.read_config(self.folder)

    @property
    def share(self) -> float | None:
        """Return the done share of the current phase, 0 to 1; None if unknown."""
        return min(self.done / self.total, 1.0) if self.total > 0 else None


def judge(status: Status | dict[str, Any], now: datetime | None = None) -> str:
    """Return the status's own state, or "lost" for an active run without a process.

    On this host the process decides (pid and start time; a zombie is dead). A run of another host is lost when
    its heartbeat is overdue by SLACK. A queued run that no process has taken waits until its deadline, if it has one.
    """
    status = Status.of(status)
    if status.state in store.FINAL:
        return status.state
    if status.state is None:
        return "lost"
    now = now or datetime.now(UTC)
    due = moment(status.next_heartbeat_due)
    if status.state == "queued" and status.pid is None:
        return "lost" if due is not None and now > due else "queued"
    if status.host == socket.gethostname():
        return status.state if process.exists(status.pid, status.process_started) else "lost"
    return status.state if due is not None and now <= due + SLACK else "lost"


def view(folder: Path, now: datetime | None = None) -> View:
    """Return everything that a page shows of a run, also of an incomplete or damaged folder."""
    now = now or datetime.now(UTC)
    stored = store.read_status(folder)
    status = Status.of(stored)
    state = judge(status, now)
    active = state in store.ACTIVE
    return View(
        id=folder.name,
        folder=folder,
        kind=status.kind or "unknown",
        name=status.name or folder.name,
        state=state,
        **{name: getattr(status, name) for name in ("phase", "done", "total", "started", "updated", "host", "pid")},
        elapsed_s=elapsed(status, now if active else None),
        phase_remaining_s=_phase_remaining(status, now) if state == "running" else None,
        silent_s=_seconds_since(status.heartbeat, now) if active else None,
        overdue=active and overdue(status, now),
        error=_lost(status, bool(stored)) if state == "lost" else status.error,
        files=_files(folder),
        stopping=active and (folder / STOP).exists(),
    )


def overdue(status: Status, now: datetime) -> bool:
    """Return whether the next heartbeat of an active run is late."""
    due = moment(status.next_heartbeat_due)
    return due is not None and now > due


def moment(text: object) -> datetime | None:
    """Parse a time of a status; None if it is missing or invalid."""
    try:
        parsed = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def elapsed(status: Status, now: datetime | None) -> float | None:
    """Return the seconds of work recorded in a status, up to ``now`` for an active run; of a resumed one, all of it."""
    running = _seconds_since(status.started, now) if now else None
    earlier = [_worked(end) for end in status.history]
    last = max((seconds for seconds in (status.elapsed_s, running) if seconds is not None), default=None)
    known = [seconds for seconds in (*earlier, last) if seconds is not None]
    return sum(known) if known else None


def _worked(end: Ended) -> float | None:
    """Return the seconds of work before an earlier end; older versions recorded only its moments."""
    if end.elapsed_s is not None:
        return end.elapsed_s
    updated = moment(end.updated)
    return _seconds_since(end.started, updated) if updated else None


def _phase_remaining(status: Status, now: datetime) -> float | None:
    passed = _seconds_since(status.phase_started, now)
    return passed * max(status.total - status.done, 0) / status.done if passed is not None and status.done else None


def _seconds_since(text: object, now: datetime) -> float | None:
    begin = moment(text)
    return max((now - begin).total_seconds(), 0.0) if begin else None


def _lost(status: Status, readable: bool) -> dict[str, Any]:
    # The queue's keeper saw the process end and wrote the cause.
    if status.cause and all(status.cause.get(key) for key in ("kind", *PARTS)):
        return status.cause
    expected, found = Message("a process to work on this run"), Message("none took it up")
    if status.pid is not None:
        expected = Message("process {pid} on {host} to work on this run", pid=status.pid, host=status.host)
        found = Message(
            "no such process any more; last sign of life {time}",
            time=status.heartbeat or status.updated,
        )
    elif not readable:
        found = Message("no readable status in the run's folder")
    remedy = Message(
        "launch it again from its settings; if it ended by itself, its log files say how far it came, and a machine "
        "out of memory is the usual cause"
    )
    return RunError("run-lost", expected=expected, found=found, remedy=remedy).to_dict()


def _files(folder: Path) -> tuple[str, ...]:
    with suppress(OSError), os.scandir(folder) as entries:
        names = [e.name for e in entries if e.is_file(follow_symlinks=False) and not e.name.startswith(".")]
        return tuple(sorted(names))
    return ()
