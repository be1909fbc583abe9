"""The keeper of a host's queue: ``python -m kvlab.runs.keeper RUNS COMMAND ...``, a detached process.

It starts each queued run when its device is free, records how its process ends, and exits when the queue is empty.
If it dies, the runs continue. The next launch or list starts another keeper, which adopts them.
"""

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
LAST_WRITES = 5.0  # seconds for the leftovers of an ended process to release its lock
OUTPUT, LOG = "output.log", "training.log"  # the process's output, and its log for people

log = logging.getLogger("kvlab.runs.keeper")


class Keeper:
    """``command`` runs a training folder, which is its last argument."""

    def __init__(self, root: Path, command: Sequence[str]):
        self._root, self._command = root, tuple(command)
        self._children: dict[Entry, subprocess.Popen] = {}
        self._given_up: set[Entry] = set()  # runs whose status cannot be written now; the next keeper tries again

    def work(self) -> None:
        """Work until no run waits or runs."""
        left, looked = 1, float("-inf")
        without_reaping = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while left or self._children:
            children = self._children.items()
            ended = [entry for entry, child in children if os.waitid(os.P_PID, child.pid, without_reaping)]
            for entry in ended:
                self._finish(entry)
            if ended or time.monotonic() - looked > LOOK:
                self._look()
                left, looked = len(self.waiting()), time.monotonic()
            time.sleep(POLL)

    def waiting(self) -> list[Entry]:
        """Return this keeper's entries of the queue, running ones included."""
        return [entry for entry in run_queue.entries(self._root) if entry not in self._given_up]

    def _look(self) -> None:
        """Start the runs whose device is free, and record unseen ends. An earlier run never waits for a later one."""
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
        """Start a run if its device is free. Return the device it occupies or waits for; None if it has ended."""
        status = store.read_status(entry.folder)
        device = run_queue.device(status)
        if process.exists(status.get("pid"), status.get("process_started")):
            return device  # another keeper started it
        if monitor.judge(status) != "queued":
            if status.get("host") == socket.gethostname():
                process.end_leftovers(status.get("pid"), status.get("process_started"))
            _record_end(entry, None)
        elif not any(device == other or ANY_DEVICE in (device, other) for other in busy):
            self._children[entry] = _start(entry.folder, self._command, run_queue.visible_devices(status))
        return device if entry.marker.exists() else None

    def _finish(self, entry: Entry) -> None:
        child = self._children.pop(entry)
        process.end_group(child.pid)  # its children too; until the wait below, no other group can have this number
        code = child.wait()
        try:
            _record_end(entry, code)
        except (RunError, OSError) as error:
            self._give_up(entry, error)

    def _give_up(self, entry: Entry, error: Exception) -> None:
        log.warning("%s: %s", entry.folder.name, error)
        self._given_up.add(entry)


def keep(root: Path, command: Sequence[str]) -> None:
    """Run the keeper in a forked process and end this one at once; do nothing if a keeper exists."""
    lock = locks.take(run_queue.here(root) / run_queue.KEEPER_LOCK)
    if lock is None:
        return
    ready, signal_ready = os.pipe()
    if os.fork():  # the child inherits the lock; exit once others can find its pid in the lock file
        os.close(signal_ready)
        os.read(ready, 1)
        os._exit(0)
    locks.sign(lock)
    os.close(ready)
    os.close(signal_ready)
    keeper = Keeper(root, command)
    while True:
        keeper.work()
        # Release first, then look: a run queued meanwhile is either seen here or finds no keeper and starts one.
        os.ftruncate(lock, 0)
        os.close(lock)
        lock = locks.take(run_queue.here(root) / run_queue.KEEPER_LOCK) if keeper.waiting() else None
        if lock is None:
            return


def _start(folder: Path, command: Sequence[str], visible_devices: str | None) -> subprocess.Popen:
    environment = process.environment()
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    if visible_devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible_devices
    with store.disk_errors(folder), open(folder / OUTPUT, "ab", opener=store.private) as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "kvlab.runs.begin", str(folder), *command],
            stdout=output,
            stderr=output,
            env=environment,
            **process.DETACHED,
        )


def _record_end(entry: Entry, code: int | None) -> None:
    """Record the cause of a run's unreported end, and take it out of the queue. ``code`` None: nobody saw the end."""
    folder = entry.folder
    if not folder.is_dir():
        entry.marker.unlink(missing_ok=True)
        return
    with locks.held(folder / run_queue.RUN_LOCK, LAST_WRITES) as mine:
        status = store.read_status(folder)
        runs = process.exists(status.get("pid"), status.get("process_started"))
        if not mine or runs or not entry.marker.exists():  # another keeper has it, or it was queued again
            return
        state = status.get("state")
        if state == "queued":
            if not code:  # its process found the lock taken, whose holder is now gone: leave it in the queue
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
