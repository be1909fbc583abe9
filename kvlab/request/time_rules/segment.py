"""Rule ``segment``."""

from collections.abc import Sequence

import numpy as np

from kvlab.language import phrase
from kvlab.request.time_rules.linear import interpolated
from kvlab.request.time_rules.rule import TimeRule, time_map
from kvlab.shapes import Segment, TimeMap, Tokens, segment_of


def segment(teacher: Tokens, student: Tokens, segments: Sequence[Segment] = ()) -> TimeMap:
    """Interpolate inside each segment, from its first token to its last; blind to the text between the borders.

    Segments are byte spans, which divide both models' tokens at the same place of the text. A token belongs to the
    segment of its last byte (``segment_of``), a special token to none. Without segments, the whole content is one.
    A segment without a teacher token leaves its rows empty.
    """
    in_t, in_s = segment_of(teacher, segments), segment_of(student, segments)
    parts = [interpolated(np.flatnonzero(in_t == k), np.flatnonzero(in_s == k)) for k in range(max(len(segments), 1))]
    rows, columns, weights = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(rows, kind="stable")
    return time_map("segment", teacher, student, rows[order], columns[order], weights[order])


RULE = TimeRule(
    "segment",
    phrase("segment — linear inside prompt, reasoning and answer"),
    segment,
    mixes="neighbours",
    short=phrase("segment — linear inside each part"),
    colour="#D55E00",
    place=6,
)
