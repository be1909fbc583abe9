"""Where the borders of both token timelines meet, and how many tokens of each lie between two such places."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from kvlab.results import Inspected, TokenView


@dataclass(frozen=True)
class Group:
    """The smallest run of bytes that both models cut out: tokens of the teacher and of the student in it."""

    start: int  # byte
    end: int  # byte, exclusive; an exact border
    teacher: int
    student: int

    @property
    def shape(self) -> str:
        """What it is called in ``shapes``."""
        return ":".join("1" if count == 1 else "n" for count in (self.teacher, self.student))


def groups(document: Inspected) -> list[Group]:
    """Invariant: groups tile the text as far as both have read it; each ends at a byte where a token of both ends."""
    ends_t, ends_s = (_ends(tokens) for tokens in (document.teacher_tokens, document.student_tokens))
    borders = np.intersect1d(ends_t, ends_s)
    counts_t, counts_s = (np.diff(np.searchsorted(e, borders, side="right"), prepend=0) for e in (ends_t, ends_s))
    starts = [0, *borders[:-1].tolist()] if len(borders) else []
    return [Group(*of) for of in zip(starts, borders.tolist(), counts_t.tolist(), counts_s.tolist())]


def _ends(tokens: list[TokenView]) -> np.ndarray:
    return np.array([token.end for token in tokens if not token.special and token.end > 0], dtype=int)


def shapes(document: Inspected) -> Counter[str]:
    """How many groups there are of "1:1", "1:n", "n:1" and "n:n", teacher : student."""
    return Counter(group.shape for group in groups(document))
