"""A worker with simple computations in place of models; test_worker.py starts it as a process.

What an analysis does is the setting ``do`` of its run, carried out by the function of that name.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

from kvlab import worker
from kvlab.errors import AlignError
from kvlab.runs import store
from kvlab.shapes import Progress


def analyse(folder: Path, progress: Progress) -> None:
    (folder / "picked-up").touch()
    ANALYSES[store.read_config(folder)["do"]](folder, progress)


def finish(folder: Path, progress: Progress) -> None:
    progress("thinking", 0, 2)
    progress("thinking", 2, 2)
    (folder / "alignment.json").write_text("{}")


def obey(folder: Path, progress: Progress) -> None:
    for step in range(10**9):
        progress("working", step, 10**9)
        time.sleep(0.005)


def ignore_everything(folder: Path, progress: Progress) -> None:
    child = subprocess.Popen(["sleep", "1000"])
    (folder / "child.draft").write_text(str(child.pid))
    (folder / "child.draft").rename(folder / "child")
    time.sleep(1000)


def print_much(folder: Path, progress: Progress) -> None:
    print("a library prints")
    sys.stdout.write('{"id": 1, "ok": true, "result": "forged"}\n')
    sys.stdout.flush()
    os.write(1, b"and so does its C code\n")
    subprocess.run(["echo", "and its child process"], check=True)
    assert sys.stdin.read() == "", "the requests are nobody else's to read"


def refuse(folder: Path, progress: Progress) -> None:
    raise AlignError("too-few-rows", expected="20 rows", found="3 rows", remedy="give more prompts")


def divide(folder: Path, progress: Progress) -> None:
    1 / 0  # noqa: B018


def run_out_of_memory(folder: Path, progress: Progress) -> None:
    raise MemoryError("no 80 GiB here")


def run_out_of_gpu_memory(folder: Path, progress: Progress) -> None:
    class OutOfMemoryError(RuntimeError):
        """Named like torch's."""

    progress("fitting and scoring heads", 0, 1)
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 80.00 GiB.\nmore lines")


def break_the_device(folder: Path, progress: Progress) -> None:
    raise RuntimeError("CUDA error: device-side assert triggered")


def leave(folder: Path, progress: Progress) -> None:
    sys.exit("a library thinks that it is the program")


def crash(folder: Path, progress: Progress) -> None:
    print("the last words of a library", file=sys.stderr, flush=True)
    os._exit(7)


def fault(folder: Path, progress: Progress) -> None:
    for number in range(50):
        print(f"chatter {number}", file=sys.stderr, flush=True)
    ctypes.string_at(0)


def change_phases(folder: Path, progress: Progress) -> None:
    """Each phase must be on disk by the time its callback returns; steps within it need not be."""
    seen, versions = [], set()
    begun = time.monotonic()
    for phase in ("one", "two", "three"):
        progress(phase, 0, 1000)
        seen.append(store.read_status(folder)["phase"])
    while time.monotonic() - begun < 1.0:
        progress("three", len(versions), 1000)
        versions.add((folder / store.STATUS).stat().st_mtime_ns)
    (folder / "seen").write_text(" ".join([*seen, str(len(versions))]))


def add(a: int, b: int) -> int:
    return a + b


def broken_question() -> None:
    raise ZeroDivisionError("this question is broken")


def hang_question() -> None:
    time.sleep(1000)


def unspeakable() -> object:
    return object()


ANALYSES = {
    call.__name__: call
    for call in (
        finish,
        obey,
        ignore_everything,
        print_much,
        refuse,
        divide,
        run_out_of_memory,
        run_out_of_gpu_memory,
        break_the_device,
        leave,
        crash,
        fault,
        change_phases,
    )
}
QUESTIONS = {call.__name__: call for call in (add, broken_question, hang_question, unspeakable)}


def slow_imports() -> None:
    """As long as the file named by KVLAB_TEST_HOLD exists, the imports are not done."""
    hold = os.environ.get("KVLAB_TEST_HOLD")
    while hold and os.path.exists(hold):
        time.sleep(0.005)


if __name__ == "__main__":
    worker.run(QUESTIONS, analyse, slow_imports)
