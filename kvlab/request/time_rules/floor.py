"""Rule ``floor``."""

from collections.abc import Sequence

from kvlab.language import phrase
from kvlab.request.time_rules.rule import TimeRule, by_byte_end
from kvlab.shapes import Segment, TimeMap, Tokens


def floor(teacher: Tokens, student: Tokens, segments: Sequence[Segment] = ()) -> TimeMap:
    """Map to the last teacher token that ends at or before the student token: causal, never sees ahead."""
    return by_byte_end("floor", teacher, student, before=True)


RULE = TimeRule(
    "floor",
    phrase("floor — last teacher token that ends at or before the student token (causal)"),
    floor,
    causal=True,
    reads_bytes=True,
    short=phrase("floor — causal"),
    colour="#0072B2",
    place=0,
)
