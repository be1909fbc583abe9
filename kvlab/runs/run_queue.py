"""The queue of this host's training runs, in order: one empty file each in runs/.queue/HOST/.

A file exists from the moment a run is queued until its end is recorded. The keeper, one process per host, looks after
the runs that the files name. The files are only an index: the run's own lock decides whether it may start.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from kvlab.errors import RunError
from kvlab.host import privacy
from kvlab.language import Message
from kvlab.runs import process, store
from kvlab.runs.failures import last_words
from kvlab.runs.records import Queue

FOLDER = ".queue"  # in runs/
KEEPER_LOCK, KEEPER_LOG = "keeper.lock", "keeper.log"
RUN_LOCK = ".lock"  # in a run's folder; its process holds it, or whoever changes a run without a process
STOP = "stop"  # in a run's folder: asks the run to finish its step, save and end
ANY_DEVICE = "auto"

# The command that runs a training folder, its last argument. -P: do not import a torch.py of the current folder.
TRAINER = (sys.executable, "-P", "-m", "kvlab.train")
KEEPER = (sys.executable, "-P", "-m", "kvlab.runs.keeper")
KEEPER_START = 60.0  # seconds; importing modules from a network file system can be slow


class Entry(NamedTuple):
    """A run in the queue. ``marker`` is its file; a run that is queued again gets a new one."""

    marker: Path
    folder: Path


def here(root: Path) -> Path:
    """Return the folder of this host's queue."""
    return root / FOLDER / socket.gethostname()


def entries(root: Path) -> list[Entry]:
    """Return the runs of this host that wait or run, the first queued first."""
    with suppress(OSError):
        markers = sorted(path for path in here(root).iterdir() if store.valid_id(_run_id(path)))
        return [Entry(marker, root / _run_id(marker)) for marker in markers]
    return []


def add(folder: Path, device: str) -> None:
    """Put a run whose status is "queued" at the end of this host's queue.

    ``device``: "cpu", "cuda:1" ...; a run on "auto" shares the host with no other. The caller starts the keeper
    (``attend``). Raises RunError ``runs-unwritable``, ``disk-full``.
    """
    queue = {
        "host": socket.gethostname(),
        "device": "cuda:0" if device == "cuda" else device,
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),  # the keeper's own value may differ
    }
    remove(folder)
    store.write_status(folder, queue=queue)
    _enter(folder)


def recover(root: Path) -> None:
    """Put waiting runs of this host back into the queue if the process that queued them died before it entered them.

    Reads the status of every run. Raises RunError ``runs-unwritable``, ``disk-full``.
    """
    placed = {entry.folder for entry in entries(root)}
    for folder in reversed(store.listing(root)):
        status = store.read_status(folder)
        ours = Queue.of(status.get("queue")).host == socket.gethostname()
        if status.get("state") == "queued" and ours and folder not in placed:
            _enter(folder)  # a run that enters at the same moment gets two places, but still starts once


def remove(folder: Path) -> None:
    """Take a run out of every host's queue."""
    for marker in (folder.parent / FOLDER).glob(f"*/*-{folder.name}"):
        with suppress(OSError):
            marker.unlink()


def place(folder: Path) -> int | None:
    """Return how many runs are ahead of a run in this host's queue; None if it is not in the queue."""
    names = [entry.folder.name for entry in entries(folder.parent)]
    return names.index(folder.name) if folder.name in names else None


def device(status: dict[str, Any]) -> str:
    """Return the device that a run was queued for."""
    return Queue.of(status.get("queue")).device or ANY_DEVICE


def visible_devices(status: dict[str, Any]) -> str | None:
    """Return CUDA_VISIBLE_DEVICES of the process that queued the run; None if it was not set."""
    return Queue.of(status.get("queue")).visible_devices


def attend(root: Path, trainer: Sequence[str] | None = None) -> None:
    """Start a keeper if the queue has runs and no keeper. Cheap if there is one.

    Raises RunError ``keeper-unstartable``, ``runs-unwritable``, ``disk-full``.
    """
    if not entries(root) or keeper(root) is not None:
        return
    log = here(root) / KEEPER_LOG
    command = [*KEEPER, str(root), *(trainer or TRAINER)]
    environment = {**process.environment(), "KVLAB_RUNS": str(root)}
    problem = None
    try:
        with store.disk_errors(root), open(log, "ab", opener=store.private) as output:
            log_start = output.tell()
            code = subprocess.run(
                command,
                stdout=output,
                stderr=output,
                env=environment,
                **process.DETACHED,
                timeout=KEEPER_START,
                check=False,
            ).returncode
        if code:
            how, tail = process.exit_words(code), last_words(log, log_start)
            problem = Message("{how}; from the end of its log:\n{log}", how=how, log=tail)
    except subprocess.TimeoutExpired:
        problem = Message("it did not start within {n:g} s", n=KEEPER_START)
    if problem:
        raise RunError(
            "keeper-unstartable",
            expected=Message("a process that starts queued runs one after the other"),
            found=problem,
            remedy=Message(
                "close other programs if the machine is short of memory or processes; the queue goes on with: "
                "python -m kvlab runs list. Log: {log}",
                log=log,
            ),
        )


def keeper(root: Path) -> int | None:
    """Return the pid of this host's keeper; None if no keeper runs."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        identity = json.loads((here(root) / KEEPER_LOCK).read_bytes())
        if process.exists(identity["pid"], identity["process_started"]):
            return identity["pid"]
    return None


def _enter(folder: Path) -> None:
    with store.disk_errors(folder.parent):
        privacy.make(folder.parent / FOLDER)
        privacy.make(here(folder.parent))
        (here(folder.parent) / f"{time.time_ns():020d}-{folder.name}").touch()


def _run_id(marker: Path) -> str:
    return marker.name.partition("-")[2]
