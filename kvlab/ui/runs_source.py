"""What the Runs page reads of the run folders, kept between reruns; of growing files only what is new."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.run_report import REPORT, VERDICT, read_json
from kvlab.runs import store
from kvlab.runs.history import History, Row, finite
from kvlab.runs.metrics import NAN, Reader, Steps, pace, smoothed
from kvlab.runs.usage import MEMORY, curve
from kvlab.train.config import checked
from kvlab.ui.text import GIB

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
        return checked(config).model_dump(mode="json")
    except KvlabError:
        return config


def _inner(report: dict[str, Any], part: str, name: str) -> Any:
    found = report.get(part)
    return found.get(name) if isinstance(found, dict) else None
