"""The state of a run on disk, from which the same command goes on: Accelerate's own, and the step it was saved at."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from accelerate import Accelerator

from kvlab.train import drafts

# That tied weights are saved once is no warning.
logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)

FOLDER, STEP = "checkpoint", "step.json"


def save(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Weights, optimiser, scaler and random states after ``step``; the one before is there until this is whole.

    Raises RunError ``disk-full`` or ``runs-unwritable``.
    """
    new, old, kept = (folder / f"{FOLDER}{suffix}" for suffix in (".new", ".old", ""))
    with drafts.written(new):
        if accelerator.is_main_process:
            drafts.remove(new)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(new))
        accelerator.wait_for_everyone()
        if not accelerator.is_main_process:
            return
        (new / STEP).write_text(json.dumps({"step": step, "processes": accelerator.num_processes}), encoding="utf-8")
        shutil.rmtree(old, ignore_errors=True)
        if kept.exists():
            kept.rename(old)
        new.rename(kept)
        shutil.rmtree(old, ignore_errors=True)


def saved_step(folder: Path) -> int:
    """The step that a run can go on from; 0 where it has no checkpoint."""
    _, step = _newest(folder)
    return step


def load(accelerator: Accelerator, folder: Path) -> int:
    """Take up the newest whole checkpoint -> its step. There must be one."""
    found, step = _newest(folder)
    accelerator.load_state(str(found))
    return step


def _newest(folder: Path) -> tuple[Path | None, int]:
    # A process killed between the two renames of ``save`` leaves the state under one of the other names.
    for suffix in ("", ".new", ".old"):
        found = folder / f"{FOLDER}{suffix}"
        try:
            step = json.loads((found / STEP).read_text(encoding="utf-8"))["step"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(step, int):
            return found, step
    return None, 0
