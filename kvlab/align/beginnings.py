"""Documents that begin alike: a causal model caches the same keys and values there, whatever follows.

A system prompt or a template stands in every document of a set. Split by document, each row of it would be fitted on
in one fold and scored in another, as often as there are documents.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

import numpy as np

from kvlab.types import Tokens


def repeated_beginnings(texts: Iterable[str], known: Iterable[str] = ()) -> dict[str, int]:
    """For each distinct text, how many UTF-8 bytes it begins with that an earlier one, or a ``known`` one, begins with.

    O(n log n) comparisons: the longest common beginning is with a neighbour in the order of the alphabet.
    """
    ordered = sorted({text.encode() for text in known})
    found: dict[str, int] = {}
    for text in texts:
        if text in found:
            continue
        written = text.encode()
        place = bisect_left(ordered, written)
        found[text] = max((_common(written, other) for other in ordered[max(place - 1, 0) : place + 1]), default=0)
        ordered.insert(place, written)
    return found


def repeated_steps(tokens: Tokens, repeated: int) -> np.ndarray:
    """[T] bool: the tokens within the first ``repeated`` bytes of their text."""
    return tokens.spans[:, 1] <= repeated if repeated else np.zeros(len(tokens), dtype=bool)


def _common(a: bytes, b: bytes) -> int:
    """Length of the longest common beginning; bisected, because comparing slices is fast."""
    least, most = 0, min(len(a), len(b))
    while least < most:
        middle = (least + most + 1) // 2
        if a[:middle] == b[:middle]:
            least = middle
        else:
            most = middle - 1
    return least
