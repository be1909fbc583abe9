"""Write the status of an active run to disk, from a small thread beside the computation."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kvlab.errors import Cancelled, RunError
from kvlab.runs import store
from kvlab.runs.process import identity

INTERVAL = 0.25  # seconds at least between two writes of progress within a phase
HEARTBEAT = 5.0  # seconds at most between two writes
DUE = timedelta(seconds=3 * HEARTBEAT)

log = logging.getLogger(__name__)


class LiveStatus:
    """Use around the work: ``with LiveStatus(folder, stop) as live: work(live.progress)``, then ``finish``.

    A computation never waits for the disk within a phase, and continues if the status cannot be written.
    """

    def __init__(self, folder: Path, stop: threading.Event):
        self.folder = folder
        self._stop = stop
        self._at = ("starting", 0, 0)  # (phase, done, total), replaced as a whole, so that no reader needs a lock
        self._begun = time.monotonic()
        self._phase_started = store.timestamp()
        self._changed, self._over = threading.Event(), threading.Event()
        self._writing, self._finishing = threading.Lock(), threading.Lock()
        self._keeper = threading.Thread(target=self._keep, name="status", daemon=True)

    @property
    def phase(self) -> str:
        return self._at[0]

    def __enter__(self) -> LiveStatus:
        """Write the first status and start the thread. Raises RunError if the status cannot be written."""
        self._write(state="running", started=store.timestamp(), error=None, **identity())
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def progress(self, phase: str, done: int, total: int) -> None:
        """Record progress (shapes.Progress). Raises Cancelled once ``stop`` is set."""
        new_phase = phase != self._at[0]
        if new_phase:
            self._phase_started = store.timestamp()
        self._at = (phase, done, total)
        if self._stop.is_set():
            raise Cancelled
        if new_phase:
            self._write_if_possible()
        else:
            self._changed.set()

    def finish(self, state: str, error: dict[str, Any] | None = None) -> None:
        """Write how the run ended; only the first call counts. Raises RunError if it cannot be written."""
        with self._finishing:
            self._end()
            if store.read_status(self.folder).get("state") not in store.FINAL:
                self._write(state=state, error=error)

    def _end(self) -> None:
        self._over.set()
        self._changed.set()
        if self._keeper.is_alive():
            self._keeper.join()

    def _keep(self) -> None:
        while not self._over.is_set():
            self._changed.wait(HEARTBEAT)
            self._changed.clear()
            if not self._over.is_set():
                self._write_if_possible()
                self._over.wait(INTERVAL)

    def _write_if_possible(self) -> None:
        try:
            self._write()
        except RunError as error:
            log.warning("status of %s not written: %s", self.folder.name, error)

    def _write(self, **fields) -> None:
        with self._writing:  # the last writer also has the newest progress
            phase, done, total = self._at
            now = datetime.now(UTC)
            store.write_status(
                self.folder,
                phase=phase,
                done=done,
                total=total,
                phase_started=self._phase_started,
                elapsed_s=round(time.monotonic() - self._begun, 3),
                heartbeat=store.timestamp(now),
                next_heartbeat_due=store.timestamp(now + DUE),
                **fields,
            )
