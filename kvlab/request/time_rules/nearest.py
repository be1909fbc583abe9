"""Rule ``nearest``."""

from collections.abc import Sequence

import numpy as np

from kvlab.language import phrase
from kvlab.request.time_rules.rule import TimeRule, time_map
from kvlab.shapes import Segment, TimeMap, Tokens

NO_STEP = -1


def linear_indices(t_in: int, t_out: int) -> np.ndarray:
    """Return [T_out] int64: the rounded index of u = i * (T_in - 1) / (T_out - 1), always in [0, T_in).

    Monotone; reaches both ends if T_out >= 2. For an empty input, all are NO_STEP.
    Integer arithmetic, so no rounding can leave the range.
    """
    if t_in == 0:
        return np.full(t_out, NO_STEP)
    intervals = max(t_out - 1, 1)
    return (2 * np.arange(t_out) * (t_in - 1) + intervals) // (2 * intervals)


def nearest(teacher: Tokens, student: Tokens, segments: Sequence[Segment] = ()) -> TimeMap:
    """Map to the rounded, clamped index of u (the seed's safe resampling); blind to the text."""
    indices = linear_indices(len(teacher), len(student))
    rows = np.flatnonzero(indices >= 0)
    return time_map("nearest", teacher, student, rows, indices[rows], np.ones(len(rows)))


RULE = TimeRule(
    "nearest",
    phrase("nearest — rounded position, blind to the text"),
    nearest,
    short=phrase("nearest — by position"),
    colour="#CC79A7",
    place=5,
)
