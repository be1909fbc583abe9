"""Run one analysis, or another work with a folder; the folder records the outcome even if the work fails."""

import logging
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kvlab.errors import Cancelled, KvlabError, RunError
from kvlab.language import Message
from kvlab.runs import failures, store
from kvlab.runs.live_status import LiveStatus
from kvlab.shapes import Progress

LOG = "worker.log"  # in the run's folder, for errors that the user did not cause

Analyse = Callable[[Path, Progress], None]

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """A requested analysis, from the queue to its end. Other threads may stop or abandon it."""

    folder: Path
    expected: Message | None = None  # in the error of a failure that nobody foresaw; None: of an analysis
    ended: threading.Event = field(default_factory=threading.Event)
    _stop: threading.Event = field(default_factory=threading.Event)
    _server_gone: bool = False
    _live: LiveStatus | None = None

    def stop(self, server_gone: bool = False) -> None:
        """End the analysis at its next progress call: cancelled, or failed because the server is gone."""
        self._server_gone = server_gone
        self._stop.set()

    def abandon(self) -> None:
        """Record that the server is gone, for a computation that does not reach its next progress call."""
        if self._live is not None:
            _record(lambda: self._live.finish("failed", server_gone()))

    def perform(self, analyse: Analyse) -> dict[str, Any] | None:
        """Compute; write progress and end to the folder's status. Returns the error of a failed run, else None."""
        state, error_fields = "done", None
        self._live = LiveStatus(self.folder, self._stop)
        try:
            with self._live:
                analyse(self.folder, self._live.progress)
        except Cancelled:
            state, error_fields = ("failed", server_gone()) if self._server_gone else ("cancelled", None)
        except BaseException as error:  # record any error; none may end the worker
            expected = self.expected or Message("the analysis to run to its end")
            state, error_fields = "failed", explain(error, expected, self._live.phase)
            if not isinstance(error, KvlabError):
                log.exception("analysis %s failed", self.folder.name)
                lines = traceback.format_exc().encode("utf-8", "replace")
                _record(lambda: store.append(self.folder / LOG, lines))
        unrecorded = _record(lambda: self._live.finish(state, error_fields))
        return error_fields or unrecorded


def explain(error: BaseException, expected: Message, phase: str = "") -> dict[str, Any]:
    """Return any exception in ``phase`` as the fields of a KvlabError, with advice if its kind is known."""
    if isinstance(error, KvlabError):
        return error.to_dict()
    kind, remedy = failures.kind_of(error), failures.fault_remedy(LOG)
    if kind == "out-of-memory":
        return failures.out_of_memory(error, phase).to_dict()
    if kind == "device-error":
        expected, remedy = Message("the device to compute without errors"), failures.device_remedy()
    else:
        kind = "unexpected"
    return KvlabError(kind, expected=expected, found=failures.first_words(error), remedy=remedy).to_dict()


def server_gone() -> dict[str, Any]:
    """Return the error of an analysis that ended with its worker, as KvlabError.to_dict."""
    return RunError(
        "worker-stopped",
        expected=Message("the worker process to be left running until the analysis was done"),
        found=Message("the app ended it: the app was closed, memory was freed, or another run had to be killed"),
        remedy=Message("launch the analysis again"),
    ).to_dict()


def mark(folder: Path, state: str, error: dict[str, Any] | None = None) -> None:
    """Record the end of a run that nobody computes; leave a run that has ended already."""
    if store.read_status(folder).get("state") not in store.FINAL:
        _record(lambda: store.write_status(folder, state=state, error=error))


def release(folder: Path) -> None:
    """Record that the process that queued a waiting run is gone and that another will take the run."""
    due = store.timestamp(datetime.now(UTC) + store.UNCLAIMED)
    _record(lambda: store.write_status(folder, pid=None, process_started=None, next_heartbeat_due=due))


def _record(write: Callable[[], Any]) -> dict[str, Any] | None:
    try:
        write()
    except RunError as error:
        log.warning("%s", error)
        return error.to_dict()
    return None
