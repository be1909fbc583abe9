"""Lock files. A lock ends with its holder, however the holder dies.

The kernel keeps the locks (flock), so there is no stale lock to clear. A process that inherits the open file holds the
lock too. On NFS, Linux turns flock into a lock at the server, which holds between hosts unless the mount says
local_lock.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvlab.errors import RunError, system_reason
from kvlab.language import Message
from kvlab.runs import store

RETRY = 0.02  # seconds
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def take(path: Path, seconds: float = 0.0) -> int | None:
    """Lock a file, and create it if missing.

    Returns its descriptor, or None if another process holds the lock for longer than ``seconds``. Closing the
    descriptor releases the lock. Raises RunError ``lock-unsupported``, ``runs-unwritable`` or ``disk-full``.
    """
    with store.disk_errors(path.parent):
        # Open for writing: NFS needs it for an exclusive lock.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
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
    return descriptor


@contextmanager
def held(path: Path, seconds: float = 0.0) -> Iterator[bool]:
    """Hold the lock inside ``with``; yields False if another process has it. Raises as take does."""
    descriptor = take(path, seconds)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also releases a copy that another thread's fork has just made
            os.close(descriptor)


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
