"""Who may read what kvlab writes: this account alone, whatever the umask; with KVLAB_SHARE=group its group too."""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE, GROUP = "KVLAB_SHARE", "group"

_sharing = threading.Lock()
_inside, _outside = 0, 0  # threads in ``as_in``, and the umask to go back to


def folder_mode() -> int:
    return 0o770 if _shared() else 0o700


def file_mode() -> int:
    return 0o660 if _shared() else 0o600


def keep() -> None:
    """From now on keep the files of this process private, those of libraries and of its children too."""
    os.umask(0o777 & ~folder_mode())


def make(folder: Path) -> None:
    """Create a folder of kvlab alone, or give one that exists its access. Raises OSError if it cannot be created."""
    folder.mkdir(mode=folder_mode(), parents=True, exist_ok=True)
    with suppress(OSError):  # of another account, or on a file system without access modes
        mode = stat.S_IMODE(folder.stat().st_mode)
        if mode & 0o777 != folder_mode():
            folder.chmod(mode & ~0o777 | folder_mode())  # a group that the folder hands on stays


@contextmanager
def as_in(folder: Path) -> Iterator[None]:
    """Give new files the access of ``folder`` or its nearest parent: a cache of models may be shared."""
    global _inside, _outside
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    mode = stat.S_IMODE(existing.stat().st_mode)
    with _sharing:
        before = os.umask(0o777 & ~mode | 0o002)
        _outside = _outside if _inside else before
        _inside += 1
    try:
        yield
    finally:
        with _sharing:
            _inside -= 1
            if not _inside:
                os.umask(_outside)


def _shared() -> bool:
    return os.environ.get(VARIABLE) == GROUP
