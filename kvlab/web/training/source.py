"""Read training runs for the pages, with caches for files that have not changed."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st

from kvlab.errors import KvlabError, TrainError
from kvlab.request.settings import checked
from kvlab.request.train import TrainConfig
from kvlab.results.training.facts import REPORT, VERDICT, read_json
from kvlab.results.training.verdict import judge
from kvlab.runs import store
from kvlab.runs.history import History, Row, finite
from kvlab.runs.metrics import MEMORY, NAN, Reader, Steps, Table, curve, pace, smoothed
from kvlab.web.widgets import GIB

LOGS = ("training.log", "output.log")  # what a run writes for people, and what its process printed
TAIL_BYTES, TAIL_LINES = 16 << 10, 12
KEPT = "live-sources"
MOST_KEPT = 4  # runs of a session whose numbers stay in memory


class Source:
    """The files of one run, read on from where the last look ended."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._steps, self._memory = Steps(folder), Reader(folder / MEMORY)
        self._sizes: dict[str, tuple[int, int]] = {}
        self._read: dict[str, Any] = {}

    def steps(self) -> Table:
        return self._steps.read()

    def memory(self) -> Table:
        return self._memory.read()

    @property
    def damaged_lines(self) -> int:
        """Of both tables: lines that are no record and were passed over."""
        return self._steps.garbage + self._memory.garbage

    def report(self) -> dict[str, Any]:
        """report.json as far as it is written; empty before that."""
        return self._when_changed(REPORT, read_json) or {}

    def checkpoints(self, settings: TrainConfig | None) -> list[dict[str, Any]]:
        """The checkpoint table: as the run wrote it, else all pending."""
        verdict = self._when_changed(VERDICT, read_json) or {}
        found = verdict.get("checkpoints")
        if isinstance(found, list):
            return [row for row in found if isinstance(row, dict)]
        return (
            [c.to_dict() for c in judge([], settings.max_steps, settings.thresholds, loaded=False)] if settings else []
        )

    def verdict(self) -> str | None:
        """ "pass", "fail" or "pending"; None before anything is judged."""
        state = (self._when_changed(VERDICT, read_json) or {}).get("state")
        return state if isinstance(state, str) else None

    def log(self) -> tuple[str, str]:
        """The name of the log, and its last lines; the name is empty while there is none."""
        for name in LOGS:
            if text := self._when_changed(name, _tail):
                return name, text
        return "", ""

    def _when_changed(self, name: str, read) -> Any:
        path = self.folder / name
        try:
            found = path.lstat()
        except OSError:
            self._sizes.pop(name, None)
            return None
        stamp = (found.st_size, found.st_mtime_ns)
        if self._sizes.get(name) != stamp:
            self._read[name], self._sizes[name] = read(path), stamp
        return self._read[name]


def of(folder: Path) -> Source:
    """The source of a run in this session; the runs looked at longest ago are forgotten."""
    kept: dict[str, Source] = st.session_state.setdefault(KEPT, {})
    source = kept.pop(str(folder), None) or Source(folder)
    kept[str(folder)] = source
    while len(kept) > MOST_KEPT:
        del kept[next(iter(kept))]
    return source


def settings_of(config: dict[str, Any]) -> TrainConfig | None:
    """A run's settings; None for those that cannot be read."""
    try:
        return checked(TrainConfig, config)
    except TrainError:
        return None


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


Curve = tuple[list[float], list[float]]  # where, and how much


def rows() -> list[Row]:
    """All runs, newest first."""
    return _history(str(store.runs_root())).rows()


@st.cache_resource(show_spinner=False, max_entries=4)
def _history(root: str) -> History:
    return History(Path(root))


@dataclass
class _Curves:
    """The growing files of one run. Sessions share it: read under the lock."""

    steps: Steps
    memory: Reader
    lock: threading.Lock = field(default_factory=threading.Lock)


@st.cache_resource(show_spinner=False, max_entries=40)
def _curves(folder: str) -> _Curves:
    return _Curves(Steps(Path(folder)), Reader(Path(folder) / MEMORY))


def logged(folder: Path) -> set[str]:
    """The names of all that a run has logged a number of."""
    curves = _curves(str(folder))
    with curves.lock:
        columns = curves.steps.read().columns
        names = {name for name, values in columns.items() if any(value == value for value in values)}
        names |= {"memory"} if curves.memory.read().rows else set()
    return names | ({"heldout"} if heldout(folder)[0] else set())


def values(folder: Path, metric: str) -> Curve:
    """One metric against the step; memory against seconds of work."""
    if metric == "heldout":
        return heldout(folder)
    curves = _curves(str(folder))
    with curves.lock:
        if metric == "memory":
            _, seconds, used = curve(curves.memory.read())
            return list(seconds), [value / GIB for value in used]
        table = curves.steps.read()
        return list(table.column("step")), list(table.column(metric))


def smooth(curve: Curve) -> Curve:
    return curve[0], smoothed(curve[1])


def heldout(folder: Path) -> Curve:
    """Cross-entropy before the first and after the last step."""
    report = read_json(folder / REPORT)
    curves = _curves(str(folder))
    with curves.lock:
        table = curves.steps.read()
        last = table.column("step")[-1] if table.rows else NAN
    found = [(at, finite(_inner(report, part, "ce"))) for at, part in ((0, "before"), (last, "after"))]
    known = [(float(at), ce) for at, ce in found if ce is not None and at == at]
    return [at for at, _ in known], [ce for _, ce in known]


def steps_per_s(folder: Path) -> float | None:
    """The pace of the last steps: one over the median of their seconds."""
    curves = _curves(str(folder))
    with curves.lock:
        seconds = pace(curves.steps.read(), 0).seconds_per_step
    return 1 / seconds if seconds else None


def damaged(folder: Path) -> int:
    """Lines of the metrics that could not be read."""
    curves = _curves(str(folder))
    with curves.lock:
        curves.steps.read()
        return curves.steps.garbage


def report(folder: Path) -> dict[str, Any]:
    return read_json(folder / REPORT)


def checkpoints(folder: Path) -> list[dict[str, Any]]:
    table = read_json(folder / VERDICT).get("checkpoints")
    return [row for row in table if isinstance(row, dict)] if isinstance(table, list) else []


def settings(row: Row) -> dict[str, Any]:
    """All settings of a run, also those left at their defaults; of one that is out of date or broken, as they stand."""
    config = store.read_config(row.folder)
    if row.kind != "training":
        return config
    try:
        return checked(TrainConfig, config).model_dump(mode="json")
    except KvlabError:
        return config


def _inner(report: dict[str, Any], part: str, name: str) -> Any:
    found = report.get(part)
    return found.get(name) if isinstance(found, dict) else None
