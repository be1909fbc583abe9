"""Read training runs for the pages, with caches for files that have not changed."""

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from kvlab.errors import TrainError
from kvlab.request.settings import checked
from kvlab.request.train import TrainConfig
from kvlab.results.training.verdict import judge
from kvlab.runs import store
from kvlab.runs.history import History, Row
from kvlab.runs.lenient import finite, read_json
from kvlab.runs.metrics import MEMORY, Reader, Steps, Table, curve, pace
from kvlab.runs.records import REPORT, VERDICT
from kvlab.web.widgets import GIB

LOGS = ("training.log", "output.log")  # what a run writes for people, and what its process printed
TAIL_BYTES, TAIL_LINES = 16 << 10, 12

Curve = tuple[list[float], list[float]]  # where, and how much


class Source:
    """Read the files of one run, logs from where the last read ended. Sessions share it, so it reads under a lock."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._steps, self._memory = Steps(folder), Reader(folder / MEMORY)
        self._lock = threading.Lock()
        self._read: dict[str, tuple[tuple[int, ...], Any]] = {}  # file: its signature then, what was read

    def steps(self) -> Table:
        return self._when_changed(store.METRICS, lambda _: _copy(self._steps.read())) or Table()

    def memory(self) -> Table:
        return self._when_changed(MEMORY, lambda _: _copy(self._memory.read())) or Table()

    @property
    def damaged_lines(self) -> int:
        """Lines of both tables that are no record and were passed over."""
        self.steps(), self.memory()
        return self._steps.garbage + self._memory.garbage

    def report(self) -> dict[str, Any]:
        """report.json as far as it is written; empty before that."""
        return self._when_changed(REPORT, read_json) or {}

    def measured(self, when: str) -> dict[str, Any]:
        """The numbers of the held-out documents "before" or "after" the training; empty until they are measured."""
        numbers = self.report().get(when)
        return numbers if isinstance(numbers, dict) else {}

    def checkpoints(self, settings: TrainConfig | None = None) -> list[dict[str, Any]]:
        """The checkpoint table as the run wrote it, else all pending as its ``settings`` ask for them."""
        rows = self._verdict().get("checkpoints")
        if isinstance(rows, list):
            return [row for row in rows if isinstance(row, dict)]
        if settings is None:
            return []
        return [c.to_dict() for c in judge([], settings.max_steps, settings.thresholds, loaded=False)]

    def verdict(self) -> str | None:
        """ "pass", "fail" or "pending"; None before anything is judged."""
        state = self._verdict().get("state")
        return state if isinstance(state, str) else None

    def log(self) -> tuple[str, str]:
        """The name of the log, and its last lines; the name is empty while there is none."""
        for name in LOGS:
            if text := self._when_changed(name, _tail):
                return name, text
        return "", ""

    def logged(self) -> set[str]:
        """The names of all metrics of which there is a number."""
        names = {name for name, values in self.steps().columns.items() if any(map(math.isfinite, values))}
        names |= {"memory"} if self.memory().rows else set()
        return names | ({"heldout"} if self.curve("heldout")[0] else set())

    def curve(self, metric: str) -> Curve:
        """One metric against the step; memory in GiB against seconds of work."""
        steps = self.steps()
        if metric == "memory":
            _, seconds, used = curve(self.memory())
            return list(seconds), [value / GIB for value in used]
        if metric != "heldout":
            return steps.column("step"), steps.column(metric)
        last = steps.column("step")[-1:]
        measured = [(at, finite(self.measured(when).get("ce"))) for when, at in (("before", [0.0]), ("after", last))]
        known = [(at[0], ce) for at, ce in measured if at and ce is not None]
        return [at for at, _ in known], [ce for _, ce in known]

    def steps_per_s(self) -> float | None:
        """The pace of the last steps: one over the median of their seconds."""
        seconds = pace(self.steps(), 0).seconds_per_step
        return 1 / seconds if seconds else None

    def _verdict(self) -> dict[str, Any]:
        return self._when_changed(VERDICT, read_json) or {}

    def _when_changed(self, name: str, read: Callable[[Path], Any]) -> Any:
        """Return what ``read`` makes of a file, read again only when it changes; None without the file."""
        path = self.folder / name
        with self._lock:
            try:
                status = path.lstat()
            except OSError:
                self._read.pop(name, None)
                return None
            signature = (status.st_ino, status.st_size, status.st_mtime_ns)
            if name not in self._read or self._read[name][0] != signature:
                self._read[name] = signature, read(path)
            return self._read[name][1]


def of(folder: Path) -> Source:
    return _source(str(folder))  # a text is a quick key, a Path is not


@st.cache_resource(show_spinner=False, max_entries=40)
def _source(folder: str) -> Source:
    return Source(Path(folder))


def rows() -> list[Row]:
    """All runs, newest first."""
    return _history(store.runs_root()).rows()


@st.cache_resource(show_spinner=False, max_entries=4)
def _history(root: Path) -> History:
    return History(root)


def settings_of(config: dict[str, Any]) -> TrainConfig | None:
    """A run's settings; None for those that cannot be read."""
    try:
        return checked(TrainConfig, config)
    except TrainError:
        return None


def settings(row: Row) -> dict[str, Any]:
    """Return all settings of a run with defaults filled in; outdated or broken ones as they are in the file."""
    config = store.read_config(row.folder)
    settings = settings_of(config) if row.kind == "training" else None
    return settings.model_dump(mode="json") if settings else config


def _copy(table: Table) -> Table:
    """Copy a table, so that it does not grow while other sessions read on."""
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
