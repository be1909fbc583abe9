"""Define a time rule, and build its map from rows, columns and weights. No torch here.

For student token i ending at byte e_i, both models should have read the same bytes. A rule is a sparse matrix [Ts, Tt]
whose rows sum to 1 or are empty.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kvlab.shapes import Segment, TimeMap, Tokens


@dataclass(frozen=True)
class TimeRule:
    """One rule: its name in settings and results, its words in the forms, its function, and its properties."""

    name: str
    words: str  # in the form of an analysis
    map: Callable[[Tokens, Tokens, Sequence[Segment]], TimeMap] | None  # teacher, student; None: a step per head
    causal: bool = False  # the teacher has read no more than the student
    reads_bytes: bool = False  # knows where both have read the same bytes; only these rows fit the maps
    own_tokens: bool = False  # covers few tokens, and is scored on these alone
    mixes: Literal["", "neighbours", "bytes"] = ""  # the steps that a row averages: one, two, or those sharing bytes
    short: str = ""  # words in the form of a training run; "": as ``words``
    colour: str = "#7A5195"  # of its line
    place: int = 100  # position in lists, the smallest first

    @property
    def per_head(self) -> bool:
        """Return whether every head keeps its own teacher steps, chosen from keys and attention (kvlab.align.rkv)."""
        return self.map is None


def time_map(
    rule: str, teacher: Tokens, student: Tokens, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray
) -> TimeMap:
    """Return the map with these entries, sorted by row, with its exact rows and their lags."""
    ends_t, ends_s = teacher.spans[:, 1], student.spans[:, 1]
    read_by_teacher = np.bincount(rows, weights * ends_t[columns], minlength=len(student))
    covered = np.zeros(len(student), dtype=bool)
    covered[rows] = True
    lag = np.where(covered, np.round(ends_s - read_by_teacher), 0).astype(np.int64)

    whole = weights == 1
    same_end = ends_s[rows] == ends_t[columns]
    content = ~student.special[rows] & ~teacher.special[columns]
    is_exact = np.zeros(len(student), dtype=bool)
    is_exact[rows[whole & same_end & content]] = True
    return TimeMap(
        rule=rule,
        student_length=len(student),
        teacher_length=len(teacher),
        rows=rows.astype(np.int64),
        columns=columns.astype(np.int64),
        weights=weights.astype(np.float64),
        exact=is_exact,
        lag=lag,
    )


def looks_ahead(teacher: Tokens, student: Tokens, mapped: TimeMap) -> np.ndarray:
    """Return [Ts] bool: rows with a teacher step that has read more than the student, however little it weighs."""
    read_more = teacher.spans[mapped.columns, 1] > student.spans[mapped.rows, 1]
    ahead = np.zeros(len(student), dtype=bool)
    ahead[mapped.rows[read_more & (mapped.weights > 0)]] = True
    return ahead


def by_byte_end(rule: str, teacher: Tokens, student: Tokens, before: bool) -> TimeMap:
    """Map to the last teacher token that ends at or ``before`` the student token, or the first at or after it.

    Matches only tokens of the text: a BOS has no bytes that the other model could have read.
    """
    columns = np.flatnonzero(~teacher.special)
    rows = np.flatnonzero(~student.special)
    ends_t, ends_s = teacher.spans[columns, 1], student.spans[rows, 1]
    if before:
        chosen = np.searchsorted(ends_t, ends_s, side="right") - 1
    else:
        chosen = np.searchsorted(ends_t, ends_s, side="left")
    exists = (chosen >= 0) & (chosen < len(columns))
    rows, columns = rows[exists], columns[chosen[exists]]
    return time_map(rule, teacher, student, rows, columns, np.ones(len(rows)))


def by_index(teacher: Tokens, student: Tokens) -> TimeMap:
    """Map step i to step i, as code without resampling does; not a rule to choose.

    The caller checks that the teacher's timeline is as long as the student's.
    """
    steps = np.arange(len(student))
    return time_map("index", teacher, student, steps, steps, np.ones(len(steps)))
