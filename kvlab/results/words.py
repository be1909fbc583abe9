"""Write numbers and lists as parts of a sentence."""

from collections.abc import Sequence
from functools import reduce
from math import isfinite

from kvlab.language import plural, say


def listed(things: Sequence[object]) -> str:
    """Write a list: 1, 2 and 5."""
    *most, last = map(str, things)
    return say("{most} and {last}", most=say(", ").join(most), last=last) if most else last


def together(parts: Sequence[str]) -> str:
    """Join parts, such as one about K and one about V, with "and"."""
    return reduce(lambda left, right: say("{one} and {other}", one=left, other=right), parts)


def sentences(*parts: str) -> str:
    """Join sentences, without spaces in Chinese; leave out empty ones."""
    spoken = [part for part in parts if part] or [""]
    return reduce(lambda first, second: say("{first} {second}", first=first, second=second), spoken)


def clauses(parts: Sequence[str]) -> str:
    """Join the clauses of one sentence."""
    return say("; ").join(parts)


def whole(share: float) -> str:
    """Write a share in whole percent, without a negative zero; a dash for NaN."""
    return f"{round(share * 100) + 0}%" if isfinite(share) else "–"


def points(gain: float) -> str:
    """Write a difference of shares in signed percentage points; a dash for NaN."""
    if not isfinite(gain):
        return "–"
    rounded = round(gain * 100)
    signed = f"{rounded:+d}".replace("-", "−")
    return plural(abs(rounded), "{signed} point", "{signed} points", signed=signed)


def number(value: float) -> str:
    """Write a number with two decimals, four below 0.01; a dash for NaN."""
    if not isfinite(value):
        return "–"
    digits = 2 if abs(value) >= 0.01 else 4
    return f"{round(value, digits) + 0:.{digits}f}"
