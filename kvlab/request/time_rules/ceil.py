"""Rule ``ceil``."""

from collections.abc import Sequence

from kvlab.language import phrase
from kvlab.request.time_rules.rule import TimeRule, by_byte_end
from kvlab.shapes import Segment, TimeMap, Tokens


def ceil(teacher: Tokens, student: Tokens, segments: Sequence[Segment] = ()) -> TimeMap:
    """Map to the first teacher token that ends at or after the student token: looks ahead."""
    return by_byte_end("ceil", teacher, student, before=False)


RULE = TimeRule(
    "ceil",
    phrase("ceil — first teacher token that ends at or after (looks ahead)"),
    ceil,
    reads_bytes=True,
    short=phrase("ceil — looks ahead"),
    colour="#E69F00",
    place=2,
)
