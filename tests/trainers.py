"""Fixtures and waits for tests that start the fake trainer as real, detached processes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from kvlab.runs import monitor, run_queue, store, training
from tests.waiting import wait_until

FAKE = (sys.executable, str(Path(__file__).with_name("fake_trainer.py")))
SOON = 30  # seconds; the machine may be busy


@contextmanager
def nothing_outlives(root: Path) -> Iterator[None]:
    """Detached processes are nobody's children: they are known by the runs/ that they were started for."""
    threads = threading.active_count()
    yield

    def left() -> list[psutil.Process]:
        return [found for found in psutil.process_iter() if _runs_of(found) == str(root)]

    try:
        wait_until(lambda: not left(), SOON, "all processes of the test to be gone")
    finally:
        for process_left in left():
            with suppress(psutil.Error):
                process_left.kill()
    assert threading.active_count() == threads


def _runs_of(found: psutil.Process) -> str | None:
    try:
        return found.environ().get("KVLAB_RUNS") if found.pid != os.getpid() else None
    except (psutil.Error, OSError):
        return None


def launch(root: Path, **config) -> Path:
    return root / training.launch({"steps": 3, **config}, "test run", "cpu", root)


def state(folder: Path) -> str:
    return monitor.view(folder).state


def wait_for(folder: Path, *states: str) -> str:
    return wait_until(lambda: state(folder) in states and state(folder), SOON, f"{states}, not {state(folder)}")


def wait_for_phase(folder: Path, phase: str) -> int:
    wait_until(lambda: monitor.view(folder).phase == phase, SOON, f"the phase {phase}")
    return store.read_status(folder)["pid"]


def wait_until_idle(root: Path) -> None:
    wait_until(lambda: not run_queue.entries(root) and run_queue.keeper(root) is None, SOON, "an empty queue")
