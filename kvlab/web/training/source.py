"""Read training runs for the pages, with caches for files that have not changed."""

import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from kvlab.errors import TrainError
from kvlab.request.settings import checked
from kvlab.request.train import TrainConfig
from kvlab.results.training import helps, records
from kvlab.results.training.helps import Helps
from kvlab.results.training.verdict import judge
from kvlab.runs import store
from kvlab.runs.history import History, Row
from kvlab.runs.lenient import finite, read_json
from kvlab.runs.metrics import MEMORY, Reader, Steps, Table, curve, pace
from kvlab.runs.records import REPORT, VERDICT
from kvlab.web.widgets import GIB

LOGS = ("training.log", "output.log")  # the log of the run, and the output of its process
TAIL_BYTES, TAIL_LINES = 16 << 10, 12

Curve = tuple[list[float], list[float]]  # positions and values


class Source:
    """Read the files of one run, logs from where the last read ended. Sessions share it, so it reads under a lock."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._steps, self._memory = Steps(folder), Reader(folder / MEMORY)
        self._lock = threading.Lock()
        self._cache: dict[str, tuple[tuple[int, ...], Any]] = {}  # file: its signature, its content

    def steps(self) -> Table:
        return self._when_changed(store.METRICS, lambda _: _copy(self._steps.read())) or Table()

    def memory(self) -> Table:
        return self._when_changed(MEMORY, lambda _: _copy(self._memory.read())) or Table()

    @property
    def damaged_lines(self) -> int:
        """Count the lines of both tables that hold no record."""
        self.steps(), self.memory()
        return self._steps.garbage + self._memory.garbage

    def report(self) -> dict[str, Any]:
        """Read report.json; empty until the run writes it."""
        return self._when_changed(REPORT, read_json) or {}

    def measured(self, when: str) -> dict[str, Any]:
        """Return the held-out numbers "before" or "after" the training; empty until the run measures them."""
        numbers = self.report().get(when)
        return numbers if isinstance(numbers, dict) else {}

    def checkpoints(self, settings: TrainConfig | None = None) -> list[dict[str, Any]]:
        """Return the checkpoint table of the run; before it is written, all those of ``settings`` as pending."""
        rows = self._verdict().get("checkpoints")
        if isinstance(rows, list):
            return [row for row in rows if isinstance(row, dict)]
        if settings is None:
            return []
        return [
            c.to_dict()
            for c in judge(
                [], settings.max_steps, settings.thresholds, control=settings.control != "none", loaded=False
            )
        ]

    def verdict(self) -> str | None:
        """Return "pass", "fail" or "pending"; None before the first judgement."""
        state = self._verdict().get("state")
        return state if isinstance(state, str) else None

    def log(self) -> tuple[str, str]:
        """Return the name and the last lines of the log; both are empty while there is none."""
        for name in LOGS:
            if text := self._when_changed(name, _tail):
                return name, text
        return "", ""

    def logged(self) -> set[str]:
        """Return the names of all metrics with at least one number."""
        names = {name for name, values in self.steps().columns.items() if any(map(math.isfinite, values))}
        if self.memory().rows:
            names.add("memory")
        if self.curve("heldout")[0]:
            names.add("heldout")
        return names

    def curve(self, metric: str) -> Curve:
        """Return one metric over steps; memory in GiB over seconds of work."""
        steps = self.steps()
        if metric == "memory":
            _, seconds, used = curve(self.memory())
            return list(seconds), [value / GIB for value in used]
        if metric != "heldout":
            return steps.column("step"), steps.column(metric)
        measured = [(0.0, finite(self.measured("before").get("ce")))]
        if at := steps.column("step"):
            measured.append((at[-1], finite(self.measured("after").get("ce"))))
        known = [(step, ce) for step, ce in measured if ce is not None]
        return [step for step, _ in known], [ce for _, ce in known]

    def steps_per_s(self) -> float | None:
        """Return the pace of the last steps: one over the median of their seconds."""
        seconds = pace(self.steps(), 0).seconds_per_step
        return 1 / seconds if seconds else None

    def _verdict(self) -> dict[str, Any]:
        return self._when_changed(VERDICT, read_json) or {}

    def _when_changed(self, name: str, read: Callable[[Path], Any]) -> Any:
        """Return ``read`` of a file, cached until it changes; None without the file."""
        path = self.folder / name
        with self._lock:
            try:
                status = path.lstat()
            except OSError:
                self._cache.pop(name, None)
                return None
            signature = (status.st_ino, status.st_size, status.st_mtime_ns)
            if name not in self._cache or self._cache[name][0] != signature:
                self._cache[name] = signature, read(path)
            return self._cache[name][1]


def of(folder: Path) -> Source:
    return _source(str(folder))  # a string makes a faster cache key than a Path


@st.cache_resource(show_spinner=False, max_entries=40)
def _source(folder: str) -> Source:
    return Source(Path(folder))


def rows() -> list[Row]:
    """Return all runs, newest first."""
    return _history(store.runs_root()).rows()


def helps_of(rows: Sequence[Row]) -> dict[str, Helps]:
    """Judge whether each finished training run helps, by run id."""
    kin = records.finished(store.runs_root())
    known = {row.id: helps.of_run(row.folder, kin) for row in rows if row.kind not in store.COMPUTED and not row.active}
    return {run_id: judged for run_id, judged in known.items() if judged}


@st.cache_resource(show_spinner=False, max_entries=4)
def _history(root: Path) -> History:
    return History(root)


def settings_of(config: dict[str, Any]) -> TrainConfig | None:
    """Read a run's settings; None for invalid ones."""
    try:
        return checked(TrainConfig, config)
    except TrainError:
        return None


def settings(row: Row) -> dict[str, Any]:
    """Return all settings of a run with their defaults; invalid ones as in the file."""
    config = store.read_config(row.folder)
    settings = settings_of(config) if row.kind == "training" else None
    return settings.model_dump(mode="json") if settings else config


def _copy(table: Table) -> Table:
    """Copy a table, so that it does not grow when another session reads more."""
    return Table(list(table.rows), {name: list(values) for name, values in table.columns.items()})


def _tail(path: Path) -> str:
    try:
        if path.is_symlink():
            return ""
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = text.splitlines()[1 if size > TAIL_BYTES else 0 :]
    return "\n".join(lines[-TAIL_LINES:])
