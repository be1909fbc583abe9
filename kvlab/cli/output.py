"""The folder that a command writes into: new, empty or its own, and locked while the command works in it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kvlab.errors import KvlabError, RunError
from kvlab.language import Message
from kvlab.results.alignment import data as alignment
from kvlab.results.alignment import so_far
from kvlab.results.function import data as function
from kvlab.runs import locks, monitor, store
from kvlab.runs.records import Status
from kvlab.runs.run_queue import RUN_LOCK

BEGUN = (RUN_LOCK, f".{store.STATUS}.")  # what a command that was killed at once leaves, or the beginning of its name
UNFINISHED = "unfinished*.safetensors"  # of an analysis or a functional test (kvlab.align.unfinished)


def refuse_foreign_run(folder: Path) -> None:
    """Raise RunError ``output-foreign`` unless the folder is new, empty or a training run. Writes nothing."""
    if Status.of(store.read_status(folder)).kind != "training":
        expected = Message("a new or empty folder, or one of a training run: {folder}", folder=folder)
        _refuse_files(folder, expected, "--output_dir")


def refuse_foreign_results(folder: Path) -> None:
    """Raise RunError ``output-foreign`` unless the folder is new, empty, or of ``align`` or ``inject``. Writes nothing.

    The result of one may be in it already: another analysis takes its place, and a functional test goes with it.
    """
    of_app = Status.of(store.read_status(folder)).kind in store.COMPUTED
    if of_app or so_far.read(folder) is not None or any(folder.glob(UNFINISHED)):
        return
    for read in (alignment.read, function.read):
        with suppress(KvlabError):
            read(folder)
            return
    expected = Message("a new or empty folder, or one with results of align or inject: {folder}", folder=folder)
    _refuse_files(folder, expected, "--out")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of results. Raises RunError ``run-busy``, which names the process that works in it."""
    if monitor.judge(store.read_status(folder)) in store.ACTIVE:  # of the web app's worker
        raise locks.busy(folder / store.STATUS)
    with locks.owned(folder / RUN_LOCK):
        yield


def _refuse_files(folder: Path, expected: Message, flag: str) -> None:
    names = []
    with store.disk_errors(folder), suppress(FileNotFoundError, NotADirectoryError):
        names = sorted(name for name in os.listdir(folder) if not name.startswith(BEGUN))
    if names:
        raise RunError(
            "output-foreign",
            expected=expected,
            found=Message("other files, such as {name}", name=names[0]),
            remedy=Message("choose another {flag}; nothing was changed in this one", flag=flag),
        )
