"""A finished alignment, on disk and back. The web process reads these; no torch here.

``alignment.json`` holds everything but the per-token and per-teacher-head arrays, which lie beside it in
``arrays.safetensors`` (float32): ``contribution.{key,value}.{without,alone}`` [Ls, Hs, Ht],
``document.N.error.{key,value}`` [Ls, Hs, Ts], ``document.N.{index,lag}.RULE`` [Ts].
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from kvlab.errors import AlignError

FORMAT = 1
JSON_NAME, ARRAYS_NAME, CSV_NAME = "alignment.json", "arrays.safetensors", "heads.csv"
CSV_COLUMNS = ["kind", "layer", "head", "r2", "error", "cosine", "r2_shuffled", "r2_identity", "n"]


@dataclass(frozen=True)
class HeadScore:
    """Held-out scores of one student head; error = RSS / TSS = 1 - R^2 of documents not fitted on."""

    kind: str  # "key" | "value"
    layer: int  # as numbered in the student
    head: int
    r2: float
    error: float
    cosine: float  # pooled over rows, not centred
    r2_shuffled: float  # the same ridge on rows in shuffled order
    r2_identity: float  # ridge from the teacher's context-free token embedding
    n: int  # scored rows (student tokens)
    se: float  # of r2, jackknife over folds
    gain: float  # r2 - r2_identity
    gain_se: float

    @property
    def beats_controls(self) -> bool | None:
        """Better than the mean, than shuffled rows, and than the token alone by more than two standard errors.

        None where there is no standard error (one scored fold): not known.
        """
        if not isfinite(self.gain_se):
            return None
        return self.r2 > max(0.0, self.r2_shuffled) and self.gain > 2 * self.gain_se


@dataclass(frozen=True)
class TokenView:
    text: str
    start: int  # byte
    end: int  # byte, exclusive
    special: bool


@dataclass(frozen=True)
class Inspected:
    """A document kept token by token."""

    id: str
    text: str
    segments: list[list]  # [name, start byte, end byte]
    fold: int
    teacher_tokens: list[TokenView]
    student_tokens: list[TokenView]
    scored: list[bool]  # per student token: counted in the scores


@dataclass
class Alignment:
    settings: dict[str, Any]
    teacher: dict[str, Any]  # Geometry
    student: dict[str, Any]
    data: dict[str, Any]
    timeline: dict[str, Any]
    layer_map: dict[str, Any]
    heads: list[HeadScore]
    inspected: list[Inspected]
    notes: list[str]
    versions: dict[str, str]
    timings: dict[str, float] = field(default_factory=dict)
    prompts: str = ""
    arrays: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def table(self) -> pd.DataFrame:
        """All head scores, one row each."""
        rows = [asdict(score) | {"beats_controls": score.beats_controls} for score in self.heads]
        return pd.DataFrame(rows)

    def grid(self, kind: str, column: str) -> np.ndarray:
        """[Ls, Hs] of one column of the table."""
        chosen = [s for s in self.heads if s.kind == kind]
        return np.array([getattr(s, column) for s in chosen], dtype=float).reshape(-1, self.student["kv_heads"])

    def score(self, kind: str, layer: int, head: int) -> HeadScore:
        """The score of student layer ``layer`` (as numbered in the model) and KV head ``head``."""
        for score in self.heads:
            if (score.kind, score.layer, score.head) == (kind, layer, head):
                return score
        raise KeyError((kind, layer, head))

    def layer_position(self, layer: int) -> int:
        """Where a student layer stands among those with a cache (the first axis of the arrays)."""
        return list(self.student["kv_layers"]).index(layer)

    def mean(self, kind: str, column: str) -> float:
        """Over the heads that vary; not a number when none does."""
        values = self.grid(kind, column)
        return float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else float("nan")

    def summary(self) -> dict[str, Any]:
        """Means over layers and heads, K and V apart."""
        columns = ("r2", "r2_identity", "r2_shuffled", "gain", "cosine")
        return {kind: {c: self.mean(kind, c) for c in columns} for kind in ("key", "value")}

    def to_dict(self) -> dict[str, Any]:
        fields = {k: v for k, v in self.__dict__.items() if k != "arrays"}
        return {
            "format": FORMAT,
            **fields,
            "heads": [asdict(s) for s in self.heads],
            "inspected": [asdict(d) for d in self.inspected],
            "summary": self.summary(),
        }


def write(alignment: Alignment, folder: Path) -> None:
    """alignment.json, its arrays and heads.csv; the JSON last, so that a reader never finds half a result."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON_NAME).unlink(missing_ok=True)
    save_file(alignment.arrays, folder / ARRAYS_NAME)
    (folder / CSV_NAME).write_text(heads_csv(alignment), encoding="utf-8")
    text = json.dumps(plain(alignment.to_dict()), ensure_ascii=False, indent=1, allow_nan=False)
    partial = folder / (JSON_NAME + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / JSON_NAME)


def heads_csv(alignment: Alignment) -> str:
    return alignment.table()[CSV_COLUMNS].to_csv(index=False, lineterminator="\n")


def read(folder: Path) -> Alignment:
    """Raises AlignError when the folder holds no readable alignment."""
    try:
        fields = json.loads((folder / JSON_NAME).read_text(encoding="utf-8"))
        if fields.pop("format") != FORMAT:
            raise ValueError("another format version")
        fields.pop("summary")
        fields["heads"] = [HeadScore(**_numbers(s)) for s in fields["heads"]]
        fields["inspected"] = [_inspected(d) for d in fields["inspected"]]
        return Alignment(**fields, arrays=load_file(folder / ARRAYS_NAME))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AlignError(
            "alignment-unreadable",
            expected=f"{JSON_NAME} and {ARRAYS_NAME} as written by kvlab {FORMAT}.x",
            found=f"{type(error).__name__}: {error}",
            remedy="run the analysis again; its settings are in config.yaml",
        ) from error


def _inspected(fields: dict) -> Inspected:
    views = {name: [TokenView(**token) for token in fields[name]] for name in ("teacher_tokens", "student_tokens")}
    return Inspected(**(fields | views))


def _numbers(fields: dict) -> dict:
    return {k: float("nan") if v is None else v for k, v in fields.items()}


def plain(value: Any) -> Any:
    """JSON has no NaN: what could not be measured is null."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
