"""Rule ``exact``."""

from collections.abc import Sequence

from kvlab.language import phrase
from kvlab.request.time_rules.floor import floor
from kvlab.request.time_rules.rule import TimeRule, time_map
from kvlab.shapes import Segment, TimeMap, Tokens


def exact(teacher: Tokens, student: Tokens, segments: Sequence[Segment] = ()) -> TimeMap:
    """Map to the teacher token that ends exactly where the student token ends; other rows are empty."""
    floors = floor(teacher, student)
    same = floors.exact[floors.rows]
    return time_map("exact", teacher, student, floors.rows[same], floors.columns[same], floors.weights[same])


RULE = TimeRule(
    "exact",
    phrase("exact — only where both end at the same byte"),
    exact,
    causal=True,
    reads_bytes=True,
    own_tokens=True,
    short=phrase("exact — same last byte only"),
    colour="#8A8F98",
    place=1,
)
