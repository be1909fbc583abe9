"""Rule ``linear``, and interpolation by position: u = i * (T_in - 1) / (T_out - 1)."""

from collections.abc import Sequence

import numpy as np

from kvlab.language import phrase
from kvlab.request.time_rules.rule import TimeRule, time_map
from kvlab.shapes import Segment, TimeMap, Tokens

Entries = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows, columns, weights


def interpolation(t_in: int, t_out: int) -> Entries:
    """Return lower index, upper index and weight of the upper at u, each [T_out], from exact integer division."""
    intervals = max(t_out - 1, 1)
    numerator = np.arange(t_out) * max(t_in - 1, 0)
    lower = numerator // intervals
    return lower, np.minimum(lower + 1, max(t_in - 1, 0)), numerator % intervals / intervals


def interpolated(steps_t: np.ndarray, steps_s: np.ndarray) -> Entries:
    """Return the entries of ``linear`` from teacher steps ``steps_t`` to student steps ``steps_s``."""
    if not len(steps_t) or not len(steps_s):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
    lower, upper, fraction = interpolation(len(steps_t), len(steps_s))
    between = fraction > 0
    rows = np.concatenate([steps_s, steps_s[between]])
    columns = steps_t[np.concatenate([lower, upper[between]])]
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
