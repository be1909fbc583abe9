"""Run one training job; its folder records the outcome even if the process dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kvlab.errors import Cancelled, KvlabError, RunError
from kvlab.host import launched, memory, privacy
from kvlab.request.settings import read
from kvlab.request.train import TrainConfig
from kvlab.runs import failures, locks, store
from kvlab.runs.failures import NotFinite
from kvlab.runs.live_status import LiveStatus
from kvlab.runs.places import slurm_job
from kvlab.runs.records import REPORT_OF_FORM
from kvlab.runs.run_queue import RUN_LOCK, STOP
from kvlab.train.memory_watch import MemoryWatch
from kvlab.train.record import Record

if TYPE_CHECKING:
    from kvlab.train.run import Run

WRITING = 600.0  # seconds, at most, that the first process takes to write how a run ended
PASSED, FAILED, REFUSED = 0, 1, 2  # exit codes; a cancelled run counts as refused, because it is not finished


def perform(
    folder: Path,
    echo: Callable[[str], None] | None = None,
    run: type[Run] | None = None,
    config: TrainConfig | None = None,
) -> int:
    """Start or resume a run with the settings ``config``, by default those of ``config.yaml``; return the exit code.

    0: done and the verdict passed; 1: the run or the verdict failed; 2: refused before loading weights, or cancelled.
    Never raises for a failure of the run. ``echo`` gets every line of the log; ``run`` replaces the class Run.
    Every process of a launcher calls this. Only the first writes, holds the run's lock and knows the verdict; the
    others return 0 when they did their part, after the first has ended.
    """
    with ExitStack() as held:
        if launched.first():
            try:
                held.enter_context(locks.owned(folder / RUN_LOCK))
            except RunError as error:  # nothing may be written in the folder
                print(f"kvlab: {error}", file=sys.stderr)
                return REFUSED
            privacy.make(folder)  # an older version gave it to all
        return _perform(folder, echo, run, config)


def _perform(
    folder: Path, echo: Callable[[str], None] | None, run: type[Run] | None, config: TrainConfig | None
) -> int:
    first = launched.first()
    if first:  # those of an earlier end would pass for those of this one
        for name in REPORT_OF_FORM.values():
            with suppress(OSError):
                (folder / name).unlink()
    live = LiveStatus(folder, threading.Event()) if first else None
    record, at, asked = None, Phase(live), Stop(folder)
    try:
        with asked.heard() as stop, live or nullcontext():
            config = config or read(TrainConfig, folder)
            with MemoryWatch(folder, lambda: at.name, _device(config)) if first else nullcontext() as watch:
                peak = (lambda: watch.peak_share) if watch else float
                is_control = config.control != "none"
                record = Record(folder, config.max_steps, config.thresholds, peak, echo, first, is_control)
                # Imported here, so that a refused config and a missing package are recorded like any failure.
                from kvlab.train.run import Run

                state = (run or Run)(folder, config, record, watch, at, stop).go()
        ended, error, code = "done", None, FAILED if first and state != "pass" else PASSED
    except Cancelled:
        ended, error, code = "cancelled", None, REFUSED
        if asked.put_back:
            ended = "queued"
            _try(lambda: record.say("saved before the end of its job: the job is put back into the queue"))
        else:
            _try(lambda: record.say("stopped: the same command goes on from the checkpoint"))
    except BaseException as problem:  # the record must show any failure
        error = failures.advise(problem, config, at.name)
        ended, code = "failed", REFUSED if isinstance(problem, KvlabError) and not at.weights else FAILED
        _say_failure(record, problem, error)
    _try(lambda: record.close())
    if live is not None and ended == "queued":
        _try(lambda: live.finish(ended))
        _put_back(folder)
    elif live is not None:
        _try(lambda: live.finish(ended, error and error.to_dict()))
        _write_report(folder, record)
    elif code != FAILED:
        # A launcher kills the first process as soon as another ends with a refusal.
        locks.wait_for_end(folder / RUN_LOCK, WRITING)
    return code


def _device(config: TrainConfig) -> str:
    """Return the device of the run; a later check refuses a missing device with a message."""
    with suppress(KvlabError):
        return memory.device_memory(config.device).device
    return "cpu"


class Phase:
    """The current phase of a run, for the status, the memory samples and the texts of an error."""

    def __init__(self, live: LiveStatus | None):
        self._live = live
        self.name, self.weights = "starting", False

    def __call__(self, name: str, done: int = 0, total: int = 1) -> None:
        self.name = name
        if self._live is not None:
            self._live.progress(name, done, total)


class Stop:
    """A request to stop the run: by SIGTERM, SIGINT, SIGUSR2, or a file ``stop`` in its folder.

    Slurm sends SIGUSR2 before a job's time limit, and SIGTERM when another job takes its place: then the run saves and
    its job is put back (``put_back``). SIGUSR1 is left alone, because NCCL uses it.
    """

    def __init__(self, folder: Path):
        self._file, self._signalled = folder / STOP, threading.Event()
        self._numbers: set[int] = set()
        self._by_file = False

    @property
    def put_back(self) -> bool:
        """Return whether the run should go on in another allocation of its job."""
        if slurm_job.JOB not in os.environ or self._by_file:
            return False
        return signal.SIGUSR2 in self._numbers or (signal.SIGTERM in self._numbers and slurm_job.preempted())

    def _hear(self, number: int, *_: object) -> None:
        self._numbers.add(number)
        self._signalled.set()

    def __call__(self) -> bool:
        self._by_file = self._by_file or self._file.exists()
        return self._signalled.is_set() or self._by_file

    def check(self) -> None:
        """Raise Cancelled when asked to stop."""
        if self():
            raise Cancelled

    @contextmanager
    def heard(self) -> Iterator[Stop]:
        """Listen to the signals; at the end restore their handlers, and the first process removes the file."""
        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
                before[number] = signal.signal(number, self._hear)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if launched.first():  # any other may belong to a command that was refused in this folder
                with suppress(OSError):
                    self._file.unlink()


def _put_back(folder: Path) -> None:
    """Let a saved run wait without a process, and put its job back, which ends this process."""
    gone = dict.fromkeys(("pid", "process_started", "heartbeat", "next_heartbeat_due"))
    _try(lambda: store.write_status(folder, phase="waiting", **gone))
    try:
        slurm_job.put_back()
    except (OSError, subprocess.SubprocessError) as problem:
        print(f"the job could not be put back: {problem}", file=sys.stderr)
        _try(lambda: store.write_status(folder, state="cancelled", error=None))


def _say_failure(record: Record | None, problem: BaseException, error: failures.Failure) -> None:
    if record is None or not record.writes:
        traceback.print_exception(problem)  # nothing else reports it
        return
    record.echo = None  # the caller reports the error itself
    if isinstance(problem, NotFinite):
        _try(lambda: record.step(problem.line))
    words = f"FAILED ({error.kind}): expected {error.expected}; found {error.found}"
    details = "" if isinstance(problem, KvlabError) else "\n" + "".join(traceback.format_exception(problem))
    _try(lambda: record.say(f"{words}\nwhat to do: {error.remedy}{details}"))
    _try(lambda: record.verdict(ended=True, error=error.found))


def _write_report(folder: Path, record: Record | None) -> None:
    """Write the report of a run that ended in any way; a failure to write it does not fail the run."""
    try:
        from kvlab.results.training.facts import gather
        from kvlab.results.training.write import write

        write(gather(folder), folder)
    except Exception as problem:
        words = f"the report could not be written: {type(problem).__name__}: {problem}"
        run = folder.name if store.valid_id(folder.name) else folder
        _try(lambda: record.say(f"{words}; write it later: python -m kvlab runs report {run}"))


def _try(write: Callable[[], None]) -> None:
    """Write, but ignore errors: a full disk must not hide why the run ended."""
    with suppress(RunError, AttributeError):
        write()
