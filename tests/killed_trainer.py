"""The real trainer of a run, which is sent SIGKILL in the middle of a phase: ``python killed_trainer.py PHASE FOLDER``.

Killed from within, for no one outside could hit the milliseconds that some phases take.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import accelerate

from kvlab.train import loop, process, record_words, run

# Phase -> a call that is made in the middle of it, and how many of them are let through.
IN_THE_MIDDLE = {
    "loading": (run, "load", 1),  # the teacher is there, the student is not
    "training": (loop.Loop, "step", 2),
    "saving": (accelerate.Accelerator, "save_state", 1),  # the second checkpoint
    "reporting": (record_words, "summary", 1),  # the first is before the training
}


def interrupt_at(phase: str, interrupt: Callable[[], None], replace: Callable[..., None] = setattr) -> None:
    """``interrupt`` is called in the middle of ``phase``."""
    place, name, let_through = IN_THE_MIDDLE[phase]
    real, calls = getattr(place, name), []

    def call(*args, **kwargs):
        calls.append(name)
        found = real(*args, **kwargs)
        if len(calls) > let_through:
            interrupt()
        return found

    replace(place, name, call)


if __name__ == "__main__":
    interrupt_at(sys.argv[1], lambda: os.kill(os.getpid(), signal.SIGKILL))
    sys.exit(process.perform(Path(sys.argv[2])))
