"""Save and load the state of a run: Accelerate's state and the step. A draft replaces the last checkpoint whole."""

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from accelerate import Accelerator
from safetensors import SafetensorError

from kvlab.runs import store

# Silence a warning that tied weights are saved once.
logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)

FOLDER, STEP = "checkpoint", "step.json"


def save(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Save weights, optimiser, scaler and random states after ``step``; the last checkpoint stays until this is whole.

    Raises RunError ``disk-full`` or ``runs-unwritable``.
    """
    new, old, current = (folder / f"{FOLDER}{suffix}" for suffix in (".new", ".old", ""))
    with written(new):
        if accelerator.is_main_process:
            remove(new)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(new))
        accelerator.wait_for_everyone()
        if not accelerator.is_main_process:
            return
        (new / STEP).write_text(json.dumps({"step": step, "processes": accelerator.num_processes}), encoding="utf-8")
        shutil.rmtree(old, ignore_errors=True)
        if current.exists():
            current.rename(old)
        new.rename(current)
        shutil.rmtree(old, ignore_errors=True)


def saved_step(folder: Path) -> int:
    """Return the step from which a run can resume; 0 where it has no checkpoint."""
    return newest(folder)[1]


def load(accelerator: Accelerator, folder: Path) -> int:
    """Load the newest whole checkpoint and return its step. There must be one."""
    state, step = newest(folder)
    accelerator.load_state(str(state))
    return step


def newest(folder: Path) -> tuple[Path | None, int]:
    """Return the newest whole checkpoint and its step; None and 0 where there is none."""
    # A process killed between the two renames of ``save`` leaves the state under one of the other names.
    for suffix in ("", ".new", ".old"):
        state = folder / f"{FOLDER}{suffix}"
        with suppress(OSError, ValueError, KeyError, TypeError):
            step = json.loads((state / STEP).read_text(encoding="utf-8"))["step"]
            if isinstance(step, int):
                return state, step
    return None, 0


@contextmanager
def written(draft: Path) -> Iterator[None]:
    """Write ``draft``, a file or a folder. Remove it when that fails, to free space for the error report.

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
    """Remove a file or a folder, if it is there."""
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)


def _raise_if_full(folder: Path, error: Exception) -> None:
    """Raise OSError if the disk is full; safetensors hides that in its text, torch.save behind "unexpected pos 576"."""
    if os.strerror(errno.ENOSPC) in str(error):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
    probe = folder / f".{os.getpid()}.probe"
    try:
        probe.write_bytes(bytes(64 << 10))
    finally:
        probe.unlink(missing_ok=True)
