"""The web server's side of the warm worker: start it, ask it, give it analyses, cancel them, survive its death."""

import atexit
import os
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from kvlab.errors import KvlabError, RunError
from kvlab.language import Message
from kvlab.runs import monitor, store
from kvlab.runs.job import mark, server_gone
from kvlab.runs.process import identity
from kvlab.runs.worker_process import GONE_WITHIN, Allocation, WorkerProcess

Answer = TypeVar("Answer")

# -P: do not import a torch.py of the current folder.
COMMAND = (sys.executable, "-P", "-m", "kvlab.worker")
# A command that carries the worker elsewhere, such as "srun -p gpu --gres gpu:1 --unbuffered".
LAUNCHER = "KVLAB_WORKER"
LOG = "worker.log"  # in runs/
QUEUE_PATIENCE = timedelta(days=1)  # how long a run queued on another host counts as queued without a sign of life


class Worker:
    """The one worker of this web server. It starts at first use, and again after it has ended.

    ``command`` replaces the real worker; ``log`` receives its stderr (default: runs/worker.log).
    Any thread may call every method.
    """

    def __init__(self, command: Sequence[str] | None = None, log: Path | None = None):
        self._launcher = shlex.split(os.environ.get(LAUNCHER, "")) if command is None else []
        self._command, self._log = (*self._launcher, *(COMMAND if command is None else command)), log
        self._process: WorkerProcess | None = None
        self._starting = threading.Lock()
        self._stopped = False  # stop was called, and no start since

    @property
    def elsewhere(self) -> bool:
        """Return whether a launcher carries the worker to another machine, whose memory is not this one's."""
        return bool(self._launcher)

    @property
    def alive(self) -> bool:
        return self.pid is not None

    @property
    def allocation(self) -> Allocation | None:
        """Return where srun has brought the worker; None for a worker of this machine, or one that never started."""
        process = self._process if "srun" in map(os.path.basename, self._launcher[:1]) else None
        return process.allocation() if process is not None else None

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and not process.ended.is_set() else None

    def start(self) -> WorkerProcess:
        """Start the worker unless it runs. Raises RunError ``worker-unstartable``, and as store.disk_errors does."""
        with self._starting:
            self._stopped = False
            return self._start_unless_running()

    def ask(self, call: str, timeout: float, **args: Any) -> Any:
        """Ask the worker a question and wait up to ``timeout`` seconds for its answer.

        Raises the KvlabError of the answer, or RunError ``worker-died``, ``worker-timeout``, or as start does.
        """
        try:
            return self.question(call, **args).result(timeout)
        except TimeoutError:
            raise RunError(
                "worker-timeout",
                expected=Message("an answer to {call} within {seconds:g} s", call=call, seconds=timeout),
                found=Message("none yet: the worker is busy starting, downloading, or with another question"),
                remedy=Message("try again in a moment; if it stays like this, restart the app"),
            ) from None

    def question(self, call: str, **args: Any) -> Future:
        """Ask a question; the Future holds its result or a KvlabError. Raises as start does, or ``worker-died``."""
        return self._with_process(lambda process: process.send(call, args))

    def ready(self, patience_s: float = 0.2) -> bool:
        """Return whether the worker has finished importing; start it if it does not run.

        Waits at most ``patience_s`` seconds, because a page asks. Raises as start does, or ``worker-died``.
        """
        return self._with_process(lambda process: process.ready(patience_s))

    def submit(self, folder: Path) -> None:
        """Queue the analysis of a run folder; its status reports the rest. Raises as start does, or ``worker-died``."""
        folder = folder.absolute()
        try:
            self._with_process(lambda process: _queue(process, folder))
        except RunError as error:
            mark(folder, "failed", error.to_dict())
            raise

    def cancel(self, folder: Path, grace_s: float = 5.0) -> str:
        """End an analysis and return the state it ended in. After ``grace_s`` seconds, kill the worker.

        Analyses that waited behind a killed one continue in a new worker.
        Raises RunError ``run-elsewhere`` for a run that another app computes, ``worker-unkillable``.
        """
        folder = folder.absolute()
        process = self._process
        ended = process.runs.get(folder) if process is not None else None
        if ended is None:
            return self._cancel_unattended(folder)
        with suppress(RunError):  # the worker has just died and its runs are being marked
            process.send("cancel", {"run": str(folder)})
        try:
            ended.exception(grace_s)
        except TimeoutError:
            process.kill(cancelled=folder)
        state = monitor.judge(store.read_status(folder))
        # A kill for another analysis ended its worker, and this one was queued in the next.
        return self.cancel(folder, grace_s) if state == "queued" else state

    def await_record(self, pid: int | None) -> None:
        """Wait until the statuses of its runs record the death of worker ``pid``. Ignores any other process.

        Until then its runs look lost: the process is gone and no status says why.
        """
        process = self._process
        if process is not None and process.pid == pid:
            process.ended.wait(GONE_WITHIN)

    def stop(self, grace_s: float = 5.0) -> None:
        """End the worker and its children; an unfinished analysis fails. Raises RunError ``worker-unkillable``."""
        with self._starting:
            self._stopped = True
            process = self._process
            atexit.unregister(self.stop)
        if process is not None:
            process.stop(grace_s)

    def _start_unless_running(self) -> WorkerProcess:
        if self._process is None or self._process.ended.is_set():
            log = self._log or store.runs_root() / LOG
            self._process = WorkerProcess(self._command, log, self._resubmit)
            atexit.unregister(self.stop)  # at most once
            atexit.register(self.stop)
        return self._process

    def _with_process(self, use: Callable[[WorkerProcess], Answer]) -> Answer:
        """Call ``use`` with the running worker; if that worker has died, with a new one."""
        process = self.start()
        try:
            return use(process)
        except RunError as error:
            if error.kind != "worker-died":
                raise
            process.ended.wait(GONE_WITHIN)
            return use(self.start())

    def _resubmit(self, folders: list[Path]) -> None:
        """Queue the waiting analyses of a dead worker again, unless the app is closing."""
        try:
            with self._starting:
                if self._stopped:
                    raise KvlabError.from_dict(server_gone())
                process = self._start_unless_running()
        except KvlabError as error:
            for folder in folders:
                mark(folder, "failed", error.to_dict())
            return
        for folder in folders:
            if store.read_status(folder).get("state") != "queued":  # cancelled meanwhile
                continue
            try:
                _queue(process, folder)
            except RunError as error:
                mark(folder, "failed", error.to_dict())

    def _cancel_unattended(self, folder: Path) -> str:
        status = store.read_status(folder)
        state = monitor.judge(status)
        if state == "running" or (state == "queued" and status.get("pid") is not None):
            raise RunError(
                "run-elsewhere",
                expected=Message("a run of this app"),
                found=Message(
                    "one that process {pid} on {host} computes", pid=status.get("pid"), host=status.get("host")
                ),
                remedy=Message("cancel it in the app or terminal that started it"),
            )
        if state == "queued":
            store.write_status(folder, state="cancelled")
            return "cancelled"
        return state


def _queue(process: WorkerProcess, folder: Path) -> Future:
    due = store.timestamp(datetime.now(UTC) + QUEUE_PATIENCE)
    store.write_status(
        folder, state="queued", phase="waiting", error=None, next_heartbeat_due=due, **identity(process.pid)
    )
    return process.send("analyse", {"folder": str(folder)}, folder)
