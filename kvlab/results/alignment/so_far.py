"""Hold the first scores of a running analysis, for the page to show until the result replaces them. No torch here."""

import json
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from typing import Any

from kvlab.language import say
from kvlab.results.alignment.data import plain
from kvlab.shapes import KINDS

NAME = "so_far.json"


@dataclass(frozen=True)
class SoFar:
    """Held-out R^2 per head of ridge from the one teacher layer nearest in depth, on the first documents."""

    teacher: str
    student: dict[str, Any]  # ``kv_layers``, as numbered in the student
    documents: int
    of: int  # documents
    n: int  # tokens scored
    r2: dict[str, list[list[float]]]  # kind -> [Ls][Hs]; a head that was not measured is NaN


def write(so_far: SoFar, folder: Path) -> None:
    """Write the file in one step, so that a reader finds all of it or none."""
    partial = folder / (NAME + ".partial")
    partial.write_text(json.dumps(plain(asdict(so_far)), allow_nan=False), encoding="utf-8")
    partial.replace(folder / NAME)


def read(folder: Path) -> SoFar | None:
    """Return the scores so far; None where there are none, or the file is damaged."""
    try:
        fields = json.loads((folder / NAME).read_text(encoding="utf-8"))
        r2 = {
            kind: [[nan if value is None else float(value) for value in layer] for layer in fields["r2"][kind]]
            for kind in KINDS
        }
        return SoFar(**fields | {"r2": r2})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def caption(so_far: SoFar) -> str:
    return say(
        "**So far**: {documents} of {total} documents, n = {n:,} tokens, scored on documents that the map was not "
        "fitted on. From one layer of {teacher}, without controls; the finished analysis takes its place.",
        documents=so_far.documents,
        total=so_far.of,
        n=so_far.n,
        teacher=so_far.teacher,
    )
