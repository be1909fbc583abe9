"""Show a run on people's own boards, beside metrics.jsonl: TensorBoard event files in its folder, or trackio.

metrics.jsonl is the truth, and a board a copy: it begins anew with the steps in force, so that no step of a resumed run
is lost or shown twice. A board that fails is given up, and the run goes on.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, Protocol

from kvlab.errors import RunError
from kvlab.language import Message
from kvlab.results.training.verdict import in_force
from kvlab.runs import store
from kvlab.runs.metrics import numbers

EVENTS = "tensorboard"  # in the run's folder
PROJECT = "kvlab"  # of trackio
STEPS = "train"  # the group of the numbers of metrics.jsonl
HELD_OUT = "heldout"  # the group of the held-out numbers


class Writer(Protocol):
    def log(self, values: dict[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class Board:
    """The board of one run. ``kind``: of TrainConfig.log. ``say``: gets the reason why a board is given up."""

    def __init__(self, kind: str, folder: Path, records: Sequence[dict[str, Any]], say: Callable[[str], None]):
        self._kind, self._say, self.records = kind, say, records
        self._writer: Writer | None = None
        self._try(lambda: self._open(folder))
        for line in in_force(records):
            self.step(line)

    def step(self, line: dict[str, Any]) -> None:
        """Show a line of metrics.jsonl."""
        self.show(STEPS, {name: value for name, value in line.items() if name != "step"}, line["step"])

    def show(self, group: str, values: dict[str, Any], step: int) -> None:
        """Show the numbers of ``values``, inner ones by dotted names, as ``group/name``."""
        named = {f"{group}/{name}": value for name, value in numbers(values).items()}
        self._try(lambda: self._writer and self._writer.log(named, step))

    def close(self) -> None:
        self._try(lambda: self._writer and self._writer.close())
        self._writer = None

    def _open(self, folder: Path) -> None:
        self._writer = {"none": lambda _: None, "tensorboard": TensorBoard, "trackio": Trackio}[self._kind](folder)

    def _try(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as problem:
            self._writer = None
            self._say(f"no more steps on {self._kind}: {type(problem).__name__}: {problem}")


class TensorBoard:
    """Event files in ``tensorboard/`` of the run's folder."""

    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        # A TensorBoard that is open waits for ever for a file that is gone, but goes on from an empty one to the next.
        for old in (folder / EVENTS).glob("events.out.tfevents.*"):
            os.truncate(old, 0)
        # It has read the old steps: have it forget them.
        self._writer = SummaryWriter(folder / EVENTS, purge_step=0)

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def export_experiment(report: dict[str, Any], runs: Path, to: Path) -> None:
    """Write the runs of an experiment for TensorBoard: ARM/seed-N, so that arms are groups of runs.

    ``report``: of kvlab.results.training.experiment.gather. Raises RunError ``board-missing`` without tensorboard.
    """
    for run in report["runs"]:
        if not run["id"] or run["state"] == "missing":
            continue
        place = to / run["arm"].replace("/", "-") / f"seed-{run['seed']}"
        with store.disk_errors(to):
            place.mkdir(parents=True, exist_ok=True)
        board = Board("tensorboard", place, store.read_lines(runs / run["id"] / store.METRICS).records, _refuse)
        steps = [line["step"] for line in in_force(board.records)]
        for when, step in (("before", 0), ("after", max(steps, default=0))):
            if run[when]:
                board.show(HELD_OUT, run[when], step)
        board.close()


def _refuse(reason: str) -> None:
    raise RunError(
        "board-missing",
        expected=Message("TensorBoard files to be written"),
        found=reason,
        remedy=Message("install it: pip install -r requirements-extra.txt"),
    )


class Trackio:
    """A run of the project ``kvlab``, named by the run's id; where it is stored, trackio's own settings say."""

    def __init__(self, folder: Path):
        import trackio

        name = store.read_status(folder).get(store.LISTED) or folder.name
        with redirect_stdout(None):  # greetings
            with suppress(ValueError):  # no such project yet
                for run in trackio.Api().runs(PROJECT):
                    if run.name == name:
                        run.delete()
            self._run = trackio.init(PROJECT, name, embed=False, auto_log_gpu=False, auto_log_cpu=False)

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        with redirect_stdout(None):
            self._run.finish()
