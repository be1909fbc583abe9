"""Rule ``overlap``."""

from collections.abc import Sequence

import numpy as np

from kvlab.language import phrase
from kvlab.request.time_rules.rule import TimeRule, time_map
from kvlab.shapes import Segment, TimeMap, Tokens


def overlap(teacher: Tokens, student: Tokens, segments: Sequence[Segment] = ()) -> TimeMap:
    """Average the teacher tokens that share bytes with the student token, weighted by how many: not causal.

    A token without bytes (special, or a dummy prefix) shares none: its row is empty, its column unused. A row is
    exact if one teacher token has all the weight and ends where the student token ends.
    """
    content_t, content_s = np.flatnonzero(~teacher.special), np.flatnonzero(~student.special)
    ends_t, ends_s = teacher.spans[content_t, 1], student.spans[content_s, 1]
    # Spans tile the text, so one token of each model lies between two borders: the first to end at or after the second.
    borders = np.union1d(ends_t, ends_s)
    t, s = np.searchsorted(ends_t, borders), np.searchsorted(ends_s, borders)
    between = np.diff(borders, prepend=0)
    shared = (t < len(ends_t)) & (s < len(ends_s)) & (between > 0)
    rows, columns, bytes_shared = content_s[s[shared]], content_t[t[shared]], between[shared]
    totals = np.bincount(rows, weights=bytes_shared, minlength=len(student))
    return time_map("overlap", teacher, student, rows, columns, bytes_shared / totals[rows])


RULE = TimeRule(
    "overlap",
    phrase("overlap — mean of the teacher tokens that share its bytes (not causal)"),
    overlap,
    reads_bytes=True,
    mixes="bytes",
    short=phrase("overlap — mean by shared bytes"),
    colour="#56B4E9",
    place=3,
)
