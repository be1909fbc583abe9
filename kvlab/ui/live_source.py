"""What a page has read of a run, kept for the session, so that every look takes in only what is new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from kvlab.errors import TrainError
from kvlab.run_report import REPORT, VERDICT, read_json
from kvlab.runs.metrics import Reader, Steps, Table
from kvlab.runs.usage import MEMORY
from kvlab.train.config import TrainConfig, checked
from kvlab.train.verdict import judge

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
        return checked(config)
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
