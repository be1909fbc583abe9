"""Rule ``linear``, and interpolation by position: u = i * (T_in - 1) / (T_out - 1)."""

from collections.abc import Sequence

import numpy as np

from kvlab.language import phrase
from kvlab.request.time_rules.rule import TimeRule, time_map
from kvlab.shapes import Segment, TimeMap, Tokens

Entries = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows, columns, weights


def interpolation(t_in: int, t_out: int) -> Entries:
    """Lower index, upper index and weight of the upper at u, each [T_out], from exact integer division."""
    intervals = max(t_out - 1, 1)
    numerator = np.arange(t_out) * max(t_in - 1, 0)
    lower = numerator // intervals
    return lower, np.minimum(lower + 1, max(t_in - 1, 0)), numerator % intervals / intervals


def interpolated(columns_of: np.ndarray, rows_of: np.ndarray) -> Entries:
    """Return the entries of ``linear`` from teacher steps ``columns_of`` to student steps ``rows_of``."""
    if not len(columns_of) or not len(rows_of):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
    lower, upper, fraction = interpolation(len(columns_of), len(rows_of))
    between = fraction > 0
    rows = np.concatenate([rows_of, rows_of[between]])
    columns = columns_of[np.concatenate([lower, upper[between]])]
    weights = np.concatenate([1 - fraction, fraction[between]])
    order = np.argsort(rows, kind="stable")
    return rows[order], columns[order], weights[order]


def linear(teacher: Tokens, student: Tokens, segments: Sequence[Segment] = ()) -> TimeMap:
    """Interpolate between the two teacher steps around u; blind to the text."""
    return time_map("linear", teacher, student, *interpolated(np.arange(len(teacher)), np.arange(len(student))))


RULE = TimeRule(
    "linear",
    phrase("linear — interpolation by position, blind to the text"),
    linear,
    mixes="neighbours",
    short=phrase("linear — by position"),
    colour="#009E73",
    place=4,
)
