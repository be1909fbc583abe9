"""The keeper of a host's queue: ``python -m kvlab.runs.keeper RUNS COMMAND ...``, detached from whoever started it.

It starts each queued run when its device is free, sees how its process ends, and ends itself when the queue is empty.
When it dies, the runs go on, and the next launch or list starts another, which takes up what it finds.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kvlab.errors import KvlabError, RunError
from kvlab.request.settings import checked
from kvlab.request.train import TrainConfig
from kvlab.runs import locks, monitor, process, run_queue, store
from kvlab.runs.failures import explain
from kvlab.runs.run_queue import ANY_DEVICE, Entry

POLL = 0.05  # seconds between two looks at the processes that it started
LOOK = 1.0  # seconds between two looks at the queue, which may lie on a slow disk
LAST_WRITES = 5.0  # seconds for what an ended process has left behind to let its lock go
OUTPUT, LOG = "output.log", "training.log"  # what the process prints, and what it writes for people

log = logging.getLogger("kvlab.runs.keeper")


class Keeper:
    """``command``: what runs a training folder, given as its last argument."""

    def __init__(self, root: Path, command: Sequence[str]):
        self._root, self._command = root, tuple(command)
        self._children: dict[Entry, subprocess.Popen] = {}
        self._given_up: set[Entry] = set()  # what cannot be recorded now; the next keeper tries again

    def work(self) -> None:
        """Until nothing waits or runs any more."""
        left, looked = 1, float("-inf")
        while left or self._children:
            look = os.WEXITED | os.WNOHANG | os.WNOWAIT
            ended = [entry for entry, child in self._children.items() if os.waitid(os.P_PID, child.pid, look)]
            for entry in ended:
                self._see_the_end(entry)
            if ended or time.monotonic() - looked > LOOK:
                self._look()
                left, looked = len(self.waiting()), time.monotonic()
            time.sleep(POLL)

    def waiting(self) -> list[Entry]:
        """What the queue holds for this keeper, the running ones included."""
        return [entry for entry in run_queue.entries(self._root) if entry not in self._given_up]

    def _look(self) -> None:
        """Start what can start, and clear away what has ended unseen. An earlier run never waits for a later one."""
        busy = [run_queue.device(store.read_status(entry.folder)) for entry in self._children]
        for entry in self.waiting():
            if entry in self._children:
                continue
            try:
                if device := self._device_of(entry, busy):
                    busy.append(device)
            except (RunError, OSError) as error:
                self._give_up(entry, error)

    def _device_of(self, entry: Entry, busy: list[str]) -> str | None:
        """The device that a run occupies or waits for, started if that is free; None when it has ended."""
        status = store.read_status(entry.folder)
        device = run_queue.device(status)
        if process.exists(status.get("pid"), status.get("process_started")):
            return device  # begun under another keeper
        if monitor.judge(status) != "queued":
            if status.get("host") == socket.gethostname():
                process.end_leftovers(status.get("pid"), status.get("process_started"))
            _record_end(entry, None)
        elif not any(device == other or ANY_DEVICE in (device, other) for other in busy):
            self._children[entry] = _start(entry.folder, self._command, run_queue.visible_devices(status))
        return device if entry.marker.exists() else None

    def _see_the_end(self, entry: Entry) -> None:
        child = self._children.pop(entry)
        process.end_group(child.pid)  # whatever it started; the group is its own until it is waited for
        code = child.wait()
        try:
            _record_end(entry, code)
        except (RunError, OSError) as error:
            self._give_up(entry, error)

    def _give_up(self, entry: Entry, error: Exception) -> None:
        log.warning("%s: %s", entry.folder.name, error)
        self._given_up.add(entry)


def keep(root: Path, command: Sequence[str]) -> None:
    """Be the keeper in a process of its own and return at once; do nothing when there is one already."""
    lock = locks.take(run_queue.here(root) / run_queue.KEEPER_LOCK)
    if lock is None:
        return
    signed, sign = os.pipe()
    if os.fork():  # the lock lives on in the child, which nobody has to wait for once it can be found
        os.close(sign)
        os.read(signed, 1)
        os._exit(0)
    _sign(lock)
    os.close(signed)
    os.close(sign)
    work = Keeper(root, command)
    while True:
        work.work()
        # Given up in this order, a run queued meanwhile is either seen below or finds no keeper and starts one.
        os.ftruncate(lock, 0)
        os.close(lock)
        lock = locks.take(run_queue.here(root) / run_queue.KEEPER_LOCK) if work.waiting() else None
        if lock is None:
            return
        _sign(lock)


def _sign(lock: int) -> None:
    identity = {key: value for key, value in process.identity().items() if key != "host"}
    with suppress(OSError):  # a full disk: others then find the lock taken instead
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps(identity).encode(), 0)


def _start(folder: Path, command: Sequence[str], visible_devices: str | None) -> subprocess.Popen:
    environment = process.environment()
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    if visible_devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible_devices
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with store.disk_errors(folder), open(os.open(folder / OUTPUT, flags, 0o666), "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "kvlab.runs.begin", str(folder), *command],
            **{"stdout": output, "stderr": output, "env": environment},
            **process.DETACHED,
        )


def _record_end(entry: Entry, code: int | None) -> None:
    """Write why a run ended that did not say so, and take it out of the queue. ``code`` None: nobody saw the end."""
    folder = entry.folder
    if not folder.is_dir():
        entry.marker.unlink(missing_ok=True)
        return
    with locks.held(folder / run_queue.RUN_LOCK, LAST_WRITES) as mine:
        status = store.read_status(folder)
        taken_up = process.exists(status.get("pid"), status.get("process_started"))
        if not mine or taken_up or not entry.marker.exists():  # by another keeper, or it was queued again meanwhile
            return
        state = status.get("state")
        if state == "queued":
            if not code:  # its process found the lock taken, and whoever had it has gone: it is to be started still
                return
            store.write_status(folder, state="failed", error=explain(code, folder / OUTPUT).to_dict())
        elif state in store.ACTIVE and not status.get("cause"):
            config = None
            with suppress(KvlabError):
                config = checked(TrainConfig, store.read_config(folder))
            cause = explain(code, folder / OUTPUT, folder / LOG, config=config)
            store.write_status(folder, cause=cause.to_dict())
        entry.marker.unlink(missing_ok=True)


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    keep(Path(sys.argv[1]), sys.argv[2:])
