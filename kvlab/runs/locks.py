"""Lock files. A lock ends with its holder, however the holder dies.

The kernel keeps the locks (flock), so there is no stale lock to clear. A process that inherits the open file holds the
lock too. On NFS, Linux turns flock into a lock at the server, which holds between hosts unless the mount says
local_lock.
"""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kvlab.errors import RunError, system_reason
from kvlab.host import privacy
from kvlab.language import Message
from kvlab.runs import process, store
from kvlab.runs.records import Status

RETRY = 0.02  # seconds
PASSING = 2.0  # seconds within which whoever only looks at a run or changes it releases its lock
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def take(path: Path, seconds: float = 0.0) -> int | None:
    """Lock a file, and create it if missing; write this process into it, so that others can name the holder.

    Returns its descriptor, or None if another process holds the lock for longer than ``seconds``. Closing the
    descriptor releases the lock. Raises RunError ``lock-unsupported``, ``runs-unwritable`` or ``disk-full``.
    """
    with store.disk_errors(path.parent):
        # Open for writing: NFS needs it for an exclusive lock.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, privacy.file_mode())
    deadline = time.monotonic() + seconds
    try:
        while not _locked(descriptor, path):
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(RETRY)
    except RunError:
        os.close(descriptor)
        raise
    sign(descriptor)
    return descriptor


def sign(descriptor: int) -> None:
    """Write this process as the holder into a lock file."""
    with suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(process.identity()).encode(), 0)


@contextmanager
def held(path: Path, seconds: float = 0.0) -> Iterator[bool]:
    """Hold the lock inside ``with``; yields False if another process has it. Raises as take does."""
    descriptor = take(path, seconds)
    try:
        yield descriptor is not None
    finally:
        _release(descriptor)


@contextmanager
def owned(path: Path) -> Iterator[None]:
    """Hold the lock of a run while this process works in its folder.

    A process that ``begin`` has become holds the lock already, and the processes of a launcher share the launcher's.
    Raises RunError ``run-busy``, which names the process that holds it, and as take does.
    """
    # A process may outlive its launcher and the launcher's lock, so it holds a second one of its own.
    with _held_or_shared(path), _held_or_shared(_of_process(path)):
        yield


@contextmanager
def _held_or_shared(path: Path) -> Iterator[None]:
    descriptor = take(path)
    if descriptor is None and not _ours(path):
        descriptor = take(path, PASSING)
        if descriptor is None:
            raise busy(path)
    try:
        yield
    finally:
        _release(descriptor)


def wait_for_end(path: Path, seconds: float) -> None:
    """Wait until the process that ``owned`` the lock of a run has ended, for ``seconds`` at most."""
    of_process = _of_process(path)
    if of_process.exists():
        with suppress(RunError), held(of_process, seconds):
            pass


def _of_process(path: Path) -> Path:
    return path.with_name(f"{path.name}.process")


def busy(path: Path) -> RunError:
    """Return the error of a lock of a run that another process holds."""
    holder = Status.read(path)
    found, remedy = Message("a process that has it still"), Message("wait until it is gone")
    if holder.pid is not None:
        who = {"pid": holder.pid, "host": holder.host}
        found = Message("process {pid} on {host}, which has it", **who)
        remedy = Message("wait until it has ended, or end it on {host}: kill {pid}", **who)
    expected = Message("a run that no other process works on: {folder}", folder=path.parent)
    return RunError("run-busy", expected=expected, found=found, remedy=remedy)


def _release(descriptor: int | None) -> None:
    if descriptor is not None:
        with suppress(OSError):
            os.ftruncate(descriptor, 0)  # it names nobody now
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # also releases a copy that another thread's fork has just made
        os.close(descriptor)


def _ours(path: Path) -> bool:
    """Return whether this process or one that it descends from holds the lock."""
    holder = Status.read(path)
    return process.is_ancestor(holder.pid, holder.process_started)


def _locked(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise RunError(
            "lock-unsupported",
            expected=Message("a file system that can lock files (flock) at {folder}", folder=path.parent),
            found=system_reason(error),
            remedy=Message("keep runs on a local disk: KVLAB_RUNS=FOLDER; or mount this file system with locks"),
        ) from error
    return True
