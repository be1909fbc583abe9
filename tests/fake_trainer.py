"""A trainer with nothing to train, which fills a run folder as the real one does; test_training.py has it started.

Settings of the run: ``steps``; ``hang`` or ``die`` at a phase (``signal``: by which), once, so that a resumed run gets
through; ``stubborn``: SIGTERM and the stop file are ignored; ``fault``: a function of FAULTS is called while training;
``pace``: seconds of a step.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from kvlab.errors import Cancelled, KvlabError
from kvlab.runs import store
from kvlab.runs.live_status import LiveStatus

PHASES = ("loading", "fitting the map", "evaluating before", "training", "evaluating after", "saving", "reporting")


def no_module() -> None:
    raise ModuleNotFoundError("No module named 'peft'", name="peft")


def full_disk() -> None:
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.os.fsync = refuse
    refuse()


FAULTS = {call.__name__: call for call in (no_module, full_disk)}


class Trainer:
    def __init__(self, folder: Path):
        self.folder, self.config = folder, store.read_config(folder)
        self.stop = threading.Event()
        self.live = LiveStatus(folder, threading.Event())
        self.total = self.config.get("steps", 3)

    def run(self) -> None:
        self.note("begins")
        if self.config.get("stubborn"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        else:
            signal.signal(signal.SIGTERM, lambda *_: self.stop.set())
        with self.live:
            try:
                for phase in PHASES:
                    self.enter(phase)
                state = "done"
            except Cancelled:
                self.live.progress("saving", 0, 1)
                state = "cancelled"
        self.note("ends")
        self.live.finish(state)

    def enter(self, phase: str) -> None:
        self.live.progress(phase, 0, 1)
        store.append(self.folder / "training.log", f"{phase}\n".encode())
        if phase == "training":
            self.train()
        first = not (self.folder / "been").exists()
        if first and phase in (self.config.get("hang"), self.config.get("die")):
            (self.folder / "been").touch()
            if phase == self.config.get("die"):
                os.kill(os.getpid(), self.config.get("signal", signal.SIGKILL))
            child = subprocess.Popen(["sleep", "1000"])
            store.append(self.folder / "child", f"{child.pid}\n".encode())
            self.wait()

    def train(self) -> None:
        begun = self.checkpoint()
        if begun:
            store.append_metrics(self.folder, {"resumed_from": begun})
        for step in range(begun + 1, self.total + 1):
            self.obey()
            time.sleep(self.config.get("pace", 0))
            loss = 3.0 / step
            store.append_metrics(self.folder, {"step": step, "loss": loss, "ce": loss, "tokens_per_s": 10.0 * step})
            store.append(
                self.folder / "memory.jsonl", b'{"t": %d, "phase": "training", "process_rss": %d}\n' % (step, step)
            )
            self.live.progress("training", step, self.total)
            self.save(step)
        if fault := self.config.get("fault"):
            FAULTS[fault]()

    def wait(self) -> None:
        while True:
            self.obey()
            time.sleep(0.01)

    def obey(self) -> None:
        if not self.config.get("stubborn") and (self.stop.is_set() or (self.folder / "stop").exists()):
            raise Cancelled

    def checkpoint(self) -> int:
        saved = self.folder / "checkpoint" / "step"
        return int(saved.read_text()) if saved.exists() else 0

    def save(self, step: int) -> None:
        (self.folder / "checkpoint").mkdir(exist_ok=True)
        (self.folder / "checkpoint" / "step").write_text(str(step))

    def note(self, what: str) -> None:
        """A line in a file that all runs of a test share."""
        descriptor = os.open(self.folder.parent / "course", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{self.folder.name} {what}\n".encode())
        os.close(descriptor)


def main() -> None:
    folder = Path(sys.argv[1])
    if not store.read_config(folder):
        error = KvlabError("config-unreadable", expected="settings", found="garbage", remedy="launch again")
        store.write_status(folder, state="failed", error=error.to_dict())
        return
    Trainer(folder).run()


if __name__ == "__main__":
    main()
