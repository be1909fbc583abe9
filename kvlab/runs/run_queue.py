"""The training runs that wait or run on this host, in order: one empty file each in runs/.queue/HOST/.

A file is there from the moment a run is queued until its end is recorded, and the keeper, one process per host,
looks after what the files name. The files are only an index: whether a run may start is decided under its own lock.
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
from kvlab.language import Message
from kvlab.runs import process, store
from kvlab.runs.failures import last_words
from kvlab.runs.records import Queue

FOLDER = ".queue"  # in runs/
KEEPER_LOCK, KEEPER_LOG = "keeper.lock", "keeper.log"
RUN_LOCK = ".lock"  # in a run's folder, held by its process and by whoever changes a run that has none
STOP = "stop"  # in a run's folder: please finish the step, save and end
ANY_DEVICE = "auto"

# What runs a training folder, which is its last argument. -P: a file torch.py in the current folder is not imported.
TRAINER = (sys.executable, "-P", "-m", "kvlab.train")
KEEPER = (sys.executable, "-P", "-m", "kvlab.runs.keeper")
KEEPER_START = 60.0  # seconds; a network file system can be slow to give Python its modules


class Entry(NamedTuple):
    """A run in the queue. ``marker``: its file, which is another one when the run is queued again."""

    marker: Path
    folder: Path


def here(root: Path) -> Path:
    """The folder of this host's queue."""
    return root / FOLDER / socket.gethostname()


def entries(root: Path) -> list[Entry]:
    """The runs of this host that wait or run, first come first."""
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
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),  # the keeper may have been started under another
    }
    remove(folder)
    store.write_status(folder, queue=queue)
    _enter(folder)


def recover(root: Path) -> None:
    """Put waiting runs of this host back that have no place in the queue: whoever queued them died in between.

    Reads the status of every run. Raises RunError ``runs-unwritable``, ``disk-full``.
    """
    placed = {entry.folder for entry in entries(root)}
    for folder in reversed(store.listing(root)):
        status = store.read_status(folder)
        ours = Queue.of(status.get("queue")).host == socket.gethostname()
        if status.get("state") == "queued" and ours and folder not in placed:
            _enter(folder)  # should it have been on its way, it has two places, and still is begun once


def remove(folder: Path) -> None:
    """Take a run out of the queue of whatever host."""
    for marker in (folder.parent / FOLDER).glob(f"*/*-{folder.name}"):
        with suppress(OSError):
            marker.unlink()


def place(folder: Path) -> int | None:
    """How many runs of this host were queued earlier and have not ended; None for a run that is not in its queue."""
    names = [entry.folder.name for entry in entries(folder.parent)]
    return names.index(folder.name) if folder.name in names else None


def device(status: dict[str, Any]) -> str:
    """The device that a run was queued for."""
    return Queue.of(status.get("queue")).device or ANY_DEVICE


def visible_devices(status: dict[str, Any]) -> str | None:
    """CUDA_VISIBLE_DEVICES where the run was queued; None when it was not set."""
    return Queue.of(status.get("queue")).visible_devices


def attend(root: Path, trainer: Sequence[str] | None = None) -> None:
    """See that a keeper looks after the queue, if anything is in it. Cheap when one does.

    Raises RunError ``keeper-unstartable``, ``runs-unwritable``, ``disk-full``.
    """
    if not entries(root) or keeper(root) is not None:
        return
    log = here(root) / KEEPER_LOG
    command = [*KEEPER, str(root), *(trainer or TRAINER)]
    try:
        with store.disk_errors(root), open(log, "ab") as output:
            begun = output.tell()
            code = subprocess.run(
                command,
                **{"stdout": output, "stderr": output, "env": {**process.environment(), "KVLAB_RUNS": str(root)}},
                **process.DETACHED,
                timeout=KEEPER_START,
                check=False,
            ).returncode
        found = None
        if code:
            end = {"how": process.exit_words(code), "log": last_words(log, begun)}
            found = Message("{how}; from the end of its log:\n{log}", **end)
    except subprocess.TimeoutExpired:
        found = Message("it did not start within {n:g} s", n=KEEPER_START)
    if found:
        raise RunError(
            "keeper-unstartable",
            expected=Message("a process that starts queued runs one after the other"),
            found=found,
            remedy=Message(
                "close other programs if the machine is short of memory or processes; the queue goes on with: "
                "python -m kvlab runs list. Log: {log}",
                log=log,
            ),
        )


def keeper(root: Path) -> int | None:
    """The pid of this host's keeper; None when none is at work."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads((here(root) / KEEPER_LOCK).read_bytes())
        if process.exists(found["pid"], found["process_started"]):
            return found["pid"]
    return None


def _enter(folder: Path) -> None:
    with store.disk_errors(folder.parent):
        here(folder.parent).mkdir(parents=True, exist_ok=True)
        (here(folder.parent) / f"{time.time_ns():020d}-{folder.name}").touch()


def _run_id(marker: Path) -> str:
    return marker.name.partition("-")[2]
