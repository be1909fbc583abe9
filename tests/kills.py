"""`python -m tests.kills [N]`: kill N real trainers (100), spread over every phase; the tests run a tenth of them.

Each is sent SIGKILL just before it opens, renames or removes a file of its run. Then its lock is free, the run reads as
lost, resumes, keeps every line that it had logged, and ends with the losses of a run that nothing happened to. One that
had recorded its end stays done, and the next look writes its report. Exit code 1: something of this did not hold.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from math import isclose
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from kvlab.results.training.verdict import in_force
from kvlab.results.training.write import complete
from kvlab.runs import locks, monitor, store
from kvlab.runs.records import REPORT_OF_FORM
from kvlab.runs.run_queue import RUN_LOCK
from kvlab.train import process
from kvlab.train import run as _run  # noqa: F401  torch and all that a run imports, before the first fork
from tests.training import metrics, tiny_pair

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
WRITING_REPORT = "writing the report"  # after the end is recorded
FEW = {"fit_documents": 4, "eval_documents": 1, "layers": "depth"}  # what a run reads takes no part in a kill

Phases = list[list]  # [name, number of changes to the files of the run], in order; a name may come again
Place = tuple[int, int]  # the number of a phase, and of a change in it


class Watch:
    """Count the changes to the files of a run in this process, phase by phase, and call ``at_change`` before each."""

    def __init__(self, folder: Path, at_change: Callable[[Place], None]):
        self.phases: Phases = [["starting", 0]]
        self._folder, self._at_change = f"{folder}/", at_change
        real_call, real_report = process.Phase.__call__, process._write_report

        def call(at, name, *rest):
            self._enter(name)
            real_call(at, name, *rest)

        def report(*args):
            self._enter(WRITING_REPORT)
            real_report(*args)

        process.Phase.__call__, process._write_report = call, report
        sys.addaudithook(self._seen)

    def _enter(self, name: str) -> None:
        if name != self.phases[-1][0]:
            self.phases.append([name, 0])

    def _seen(self, event: str, args: tuple) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and str(args[0]).startswith(self._folder):
            self._at_change((len(self.phases) - 1, self.phases[-1][1]))
            self.phases[-1][1] += 1


def begun(root: Path, settings: dict) -> Path:
    folder = store.create(root, "training", "killed", settings)
    store.write_status(folder, state="running", phase="starting")
    return folder


def perform(folder: Path, at_change: Callable[[Place], None] = lambda place: None, told: int | None = None) -> int:
    """Run in a forked process and return its wait status. It writes its phases to the descriptor ``told``."""
    if pid := os.fork():
        return os.waitpid(pid, 0)[1]
    watch = Watch(folder, at_change)
    code = process.perform(folder)
    if told is not None:
        os.write(told, json.dumps(watch.phases).encode())
    os._exit(code)


def die_at(wanted: Place) -> Callable[[Place], None]:
    def die(place: Place) -> None:
        if place >= wanted:  # the next one where the phase changed fewer files than in the run before
            os.kill(os.getpid(), signal.SIGKILL)

    return die


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in in_force(metrics(folder))]


def places(phases: Phases, kills: int) -> list[Place]:
    """Spread kills over the names of all phases alike, and for each name over the changes to the files."""
    changes: dict[str, list[Place]] = {}
    for phase, (name, count) in enumerate(phases):
        changes.setdefault(name, []).extend((phase, change) for change in range(count))
    names, found = list(changes), []
    for number in range(kills):
        of_name, turn = changes[names[number % len(names)]], number // len(names)
        turns = -(-(kills - number % len(names)) // len(names))
        found.append(of_name[len(of_name) * (2 * turn + 1) // (2 * turns)])
    return found


def survive(folder: Path, place: Place, whole: list[float], code: int) -> None:
    """Kill a run at a place and resume it. Raises AssertionError."""
    status = perform(folder, die_at(place))
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, f"not killed but ended with {status}"
    lock = locks.take(folder / RUN_LOCK)
    assert lock is not None, "its lock outlived it"
    os.close(lock)
    view, before = monitor.view(folder), metrics(folder)
    assert view.state in ("lost", "done"), view.state
    complete(folder)
    if view.state == "lost":
        assert os.waitstatus_to_exitcode(perform(folder)) == code
        assert metrics(folder)[: len(before)] == before, "lines were lost"
    assert monitor.view(folder).state == "done"
    missing = [name for name in REPORT_OF_FORM.values() if not (folder / name).read_bytes()]
    assert not missing, missing
    found = losses(folder)
    assert len(found) == len(whole) and all(map(lambda a, b: isclose(a, b, rel_tol=1e-6), found, whole)), found


def main(kills: int) -> int:
    hit, failed = Counter(), 0
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        settings = tiny_pair(root / "pair") | FEW
        folder = begun(root, settings)
        read, told = os.pipe()
        code = os.waitstatus_to_exitcode(perform(folder, told=told))
        phases, whole = json.loads(os.read(read, 1 << 16)), losses(folder)
        for place in places(phases, kills):
            name = phases[place[0]][0]
            hit[name] += 1
            try:
                survive(begun(root, settings), place, whole, code)
            except (AssertionError, OSError) as error:
                failed += 1
                print(f"killed while {name}, before change {place[1]}: {error}", flush=True)
    print(f"{kills} kills, {failed} not survived; killed while {dict(hit)}")
    return 1 if failed or len(hit) < min(kills, len({name for name, _ in phases})) else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
