"""Write the files of a training run's folder, so that a reader never meets half of one.

Only the main process of several writes; the record of the others does nothing.
"""

import json
import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from kvlab.language import Message
from kvlab.request.train import Thresholds
from kvlab.results.training.records import BY_DOCUMENT
from kvlab.results.training.verdict import Checkpoint, judge, milestones, state_of
from kvlab.runs import store
from kvlab.runs.records import VERDICT
from kvlab.train.boards import HELD_OUT, Board

LOG, MAPS = "training.log", "projector.safetensors"


class Record:
    """The log, metrics and verdict of a run. Every write raises RunError ``disk-full`` or ``runs-unwritable``."""

    def __init__(
        self,
        folder: Path,
        max_steps: int,
        thresholds: Thresholds,
        peak_share: Callable[[], float] = float,
        echo: Callable[[str], None] | None = None,
        writes: bool = True,
        control: bool = False,
    ):
        self.folder, self.max_steps, self.thresholds = folder, max_steps, thresholds
        self.peak_share, self.echo, self.writes, self.control = peak_share, echo, writes, control
        self.lines = [] if not writes else store.read_lines(folder / store.METRICS).records
        self.board: Board | None = None
        self.table: list[Checkpoint] = []
        self.loaded = False

    def say(self, words: str) -> None:
        """Append to training.log, made for ``tail -f``."""
        if not self.writes:
            return
        text = "".join(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}\n" for line in words.splitlines())
        store.append(self.folder / LOG, text.encode("utf-8", "replace"))
        if self.echo:
            self.echo(text.rstrip("\n"))

    def step(self, line: dict[str, Any]) -> None:
        """Append one optimiser step to the metrics and update the checkpoint table."""
        self._metrics(line)
        if self.board:
            self.board.step(line)
        # Judge about twenty times in a run of any length, and whenever the verdict may change.
        often = line["step"] % max(1, self.max_steps // 20) == 0
        if often or line["step"] in milestones(self.max_steps) or (self.writes and "nonfinite" in self.lines[-1]):
            self.verdict()

    def show_on(self, kind: str) -> None:
        """Show all steps so far, and those to come, on a board too (``log`` of the settings)."""
        if self.writes and kind != "none":
            self.board = Board(kind, self.folder, self.lines, self.say)

    def show_held_out(self, scores: dict[str, Any], step: int) -> None:
        """Show the held-out numbers of ``step`` on the board, if there is one."""
        if self.board:
            self.board.show(HELD_OUT, {name: value for name, value in scores.items() if name != BY_DOCUMENT}, step)

    def close(self) -> None:
        """Finish the board, if there is one."""
        if self.board:
            self.board.close()

    def resumed(self, step: int) -> None:
        self._metrics({"resumed_from": step})

    def verdict(self, ended: bool = False, error: Message | None = None) -> str:
        """Judge all lines so far, write the table, log what is new in it, and return its state."""
        if not self.writes:
            return "pending"
        before = {checkpoint.name: checkpoint.state for checkpoint in self.table}
        facts = {
            "control": self.control,
            "loaded": self.loaded,
            "peak_share": self.peak_share(),
            "ended": ended,
            "error": error,
        }
        self.table = judge(self.lines, self.max_steps, self.thresholds, **facts)
        for checkpoint in self.table:
            if checkpoint.state != before.get(checkpoint.name, "pending"):
                self.say(f"checkpoint {checkpoint.name}: {checkpoint.state.upper()} — {checkpoint.words}")
        state = state_of(self.table)
        self.write_json(VERDICT, {"state": state, "checkpoints": [c.to_dict() for c in self.table]})
        return state

    def write_json(self, name: str, value: Any) -> None:
        """Replace a JSON file as a whole; numbers that JSON cannot hold become null."""
        if not self.writes:
            return
        with store.disk_errors(self.folder):
            store.replace(self.folder / name, json.dumps(_finite(value), ensure_ascii=False, indent=1).encode())

    def _metrics(self, line: dict[str, Any]) -> None:
        if not self.writes:
            return
        store.append_metrics(self.folder, line)
        wrong = [name for name, value in line.items() if _finite(value) != value]
        # Keep the line as a reader of the file gets it.
        self.lines.append(_finite(line) | ({"nonfinite": wrong} if wrong else {}))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
