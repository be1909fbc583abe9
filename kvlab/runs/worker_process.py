"""Run one worker process from start to end: send requests, read answers, and record its end in its runs.

The process has its own session and ends when its stdin closes, so that nothing outlives the web server.
"""

import itertools
import json
import re
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from kvlab.errors import KvlabError, RunError, system_reason
from kvlab.language import Message
from kvlab.runs import store
from kvlab.runs.failures import last_words
from kvlab.runs.job import mark, release, server_gone
from kvlab.runs.process import end_group, environment, exit_words, group_members

LOG_LIMIT = 5 << 20  # bytes above which a new worker starts a new log
LAST_ANSWERS = 0.5  # seconds to read a dead process's last answers; its child may keep the pipe open
SRUN_SPEAKS = 16 << 10  # bytes at the start of its log
GONE_WITHIN = 10.0  # seconds for a killed process to be gone


class Allocation(NamedTuple):
    """Where srun has brought a worker: "waiting" for its allocation, "here", or "ended"; ``job``: its id, if known."""

    state: str
    job: str | None


class WorkerProcess:
    """A worker process. One thread reads its answers, another waits for its end.

    When it ends, the run that it computed fails; ``resubmit`` receives the runs that only waited.
    """

    def __init__(self, command: Sequence[str], log: Path, resubmit: Callable[[list[Path]], None]):
        self._log, self._resubmit = log, resubmit
        self.runs: dict[Path, Future] = {}  # not yet ended
        self.ended = threading.Event()  # the process is gone and its runs are marked
        self._pending: dict[int, Future] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._stopped, self._cancelled = False, set()  # ended by this side; decides how its runs are recorded
        self._closed = False
        self._worked = False  # it has finished an analysis
        self._ping: Future | None = None  # a ping without an answer so far
        self._ready = False
        with store.disk_errors(log):
            store.make_root(log.parent)
            if log.exists() and log.stat().st_size > LOG_LIMIT:
                log.replace(log.with_suffix(".old.log"))
            with open(log, "ab", opener=store.private) as stderr:
                self._log_start = stderr.tell()
                self._popen = _spawn(command, stderr)
        self.pid = self._popen.pid
        self._reader = threading.Thread(target=self._read, name="worker answers", daemon=True)
        self._reader.start()
        threading.Thread(target=self._await_end, name="worker end", daemon=True).start()

    def send(self, call: str, args: dict[str, Any], folder: Path | None = None) -> Future:
        """Send a request; the Future holds its answer. Raises RunError ``worker-died`` if the process is gone."""
        answer: Future = Future()
        with self._lock:
            if self._closed:
                raise self._died()
            number = next(self._numbers)
            self._pending[number] = answer
            if folder is not None:
                self.runs[folder] = answer
            try:
                self._popen.stdin.write(json.dumps({"id": number, "call": call, "args": args}).encode() + b"\n")
                self._popen.stdin.flush()
            except OSError:
                del self._pending[number]
                self.runs.pop(folder, None)
                raise self._died() from None
        return answer

    def ready(self, patience_s: float) -> bool:
        """Return whether its imports are done. Raises RunError ``worker-died``.

        Waits up to ``patience_s`` seconds for an answer, and does not send a second ping while one is open.
        """
        if not self._ready:
            self._ping = ping = self._ping or self.send("ping", {})
            with suppress(TimeoutError):
                self._ready = bool(ping.result(patience_s)["ready"])
                self._ping = None
        return self._ready

    def allocation(self) -> Allocation:
        """Read in the log of this process what srun says of its job. Cheap."""
        said = log_since(self._log, self._log_start)
        jobs = re.findall(r"^srun: job (\d+) (queued and waiting|has been allocated)", said, re.MULTILINE)
        job, what = jobs[-1] if jobs else (None, "")
        if self.ended.is_set():
            return Allocation("ended", job)
        return Allocation("waiting" if what.startswith("queued") and not self._ready else "here", job)

    def stop(self, grace_s: float) -> None:
        self._stopped = True
        with self._lock:
            self._close_stdin()
        if not self.ended.wait(grace_s):
            self.kill()

    def kill(self, cancelled: Path | None = None) -> None:
        """Kill the process and its children, and wait until they are gone. Raises ``worker-unkillable``."""
        if cancelled is not None:
            self._cancelled.add(cancelled)
        if not (end_group(self.pid, GONE_WITHIN) and self.ended.wait(GONE_WITHIN)):
            raise RunError(
                "worker-unkillable",
                expected=Message("process group {pid} to be gone after signal 9 (SIGKILL)", pid=self.pid),
                found=Message("still there: {pids}", pids=group_members(self.pid)),
                remedy=Message(
                    "it waits for a disk or a driver; when it does not end by itself, ask your administrator"
                ),
            )

    def _read(self) -> None:
        for line in self._popen.stdout:
            with suppress(ValueError, KeyError, TypeError):
                answer = json.loads(line)
                self._settle(answer["id"], answer)

    def _settle(self, number: int, answer: dict[str, Any]) -> None:
        with self._lock:
            future = self._pending.pop(number)
            folder = next((folder for folder, waiting in self.runs.items() if waiting is future), None)
        self._worked = self._worked or folder is not None
        error = None if answer["ok"] else KvlabError.from_dict(answer["error"])
        if folder is not None:
            # Changes nothing unless the worker could not write the end itself, for lack of disk space.
            mark(folder, "failed" if error else "done", answer.get("error"))
            with self._lock:
                self.runs.pop(folder, None)
        if error is None:
            future.set_result(answer["result"])
        else:
            future.set_exception(error)

    def _await_end(self) -> None:
        code = self._popen.wait()
        self._reader.join(LAST_ANSWERS)
        try:
            waiting = self._record_end(code)
            # Kill its children. The system assigns pids in turn, so no other group has its number yet.
            end_group(self.pid, GONE_WITHIN)
            self._reader.join(LAST_ANSWERS)
            if not self._reader.is_alive():
                self._popen.stdout.close()
        finally:
            self.ended.set()
        if waiting:
            self._resubmit(waiting)

    def _record_end(self, code: int) -> list[Path]:
        """Record the end of every unfinished run and question. Returns the runs to queue again instead."""
        with self._lock:
            self._close_stdin()
            runs, pending = list(self.runs), list(self._pending.values())
            self.runs, self._pending = {}, {}
        error = self._died(code)
        states = {folder: store.read_status(folder).get("state") for folder in runs}
        # Do not queue again after a worker that died before it computed anything: the next would die too.
        worked = self._worked or any(state != "queued" for state in states.values())
        waiting = []
        for folder in runs:
            if folder in self._cancelled:
                mark(folder, "cancelled")
            elif worked and states[folder] == "queued" and not self._stopped:
                release(folder)
                waiting.append(folder)
            else:
                intended = self._stopped or self._cancelled
                mark(folder, "failed", server_gone() if intended else error.to_dict())
        for future in pending:
            future.set_exception(error)
        return waiting

    def _close_stdin(self) -> None:
        self._closed = True
        with suppress(OSError):  # an earlier failed write fails again when flushed
            self._popen.stdin.close()

    def _died(self, code: int | None = None) -> RunError:
        code = self._popen.returncode if code is None else code
        how = exit_words(code) if code is not None else Message("it is gone")
        tail = last_words(self._log, self._log_start)
        return RunError(
            "worker-died",
            expected=Message("the worker process to answer"),
            found=Message("{how}; from the end of its log:\n{log}", how=how, log=tail) if tail else how,
            remedy=Message(
                "launch again, which starts a new worker; if it dies again, use a smaller model, fewer tokens per "
                "batch or a 16-bit number type. Its whole log: {log}",
                log=self._log,
            ),
        )


def log_since(log: Path, start: int) -> str:
    """Return the first text of a log from byte ``start`` on, where srun speaks; empty if it cannot be read."""
    with suppress(OSError), open(log, "rb") as file:
        file.seek(start)
        return file.read(SRUN_SPEAKS).decode("utf-8", "replace")
    return ""


def _spawn(command: Sequence[str], stderr) -> subprocess.Popen:
    try:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": stderr}
        return subprocess.Popen(command, **pipes, start_new_session=True, env=environment())
    except OSError as error:
        raise RunError(
            "worker-unstartable",
            expected=Message("a new process for the computations"),
            found=Message("{reason}: {command}", reason=system_reason(error), command=command[0]),
            remedy=Message("close other programs if the machine is short of memory or processes, then try again"),
        ) from error
