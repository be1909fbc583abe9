"""Large files and folders that libraries write: under another name first, and gone again when the disk was full."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from kvlab.runs import store

PROBE = 64 << 10  # bytes


@contextmanager
def written(draft: Path) -> Iterator[None]:
    """Write ``draft``, a file or a folder. When that fails it is removed, so that there is room to say why.

    Raises RunError ``disk-full`` or ``runs-unwritable``, also where a library hides the system's reason.
    """
    try:
        with store.disk_errors(draft.parent):
            try:
                yield
            except (SafetensorError, RuntimeError) as error:
                _raise_if_full(draft.parent, error)
                raise
    except BaseException:
        remove(draft)
        raise


def remove(draft: Path) -> None:
    """Whatever it is, if it is there."""
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)


def _raise_if_full(folder: Path, error: Exception) -> None:
    """safetensors has the reason in its words only, and torch.save not even there: "unexpected pos 576 vs 534"."""
    if os.strerror(errno.ENOSPC) in str(error):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
    probe = folder / f".{os.getpid()}.probe"
    try:
        probe.write_bytes(bytes(PROBE))
    finally:
        probe.unlink(missing_ok=True)
