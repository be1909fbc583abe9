"""Two finished alignments, head by head: R² of B minus R² of A on held-out text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import hypot, isfinite

from kvlab.results import Alignment


@dataclass(frozen=True)
class HeadDifference:
    """One student head in both analyses. What was not measured is not a number."""

    kind: str  # "key" | "value"
    layer: int  # as numbered in the student
    head: int
    r2_a: float
    r2_b: float
    se_a: float
    se_b: float
    n_a: int  # scored rows (student tokens)
    n_b: int

    @cached_property
    def difference(self) -> float:
        """R² of B minus R² of A."""
        return self.r2_b - self.r2_a

    @cached_property
    def se(self) -> float:
        """Of the difference, of two independent estimates: sqrt(se_a² + se_b²). Not a number unless both have one."""
        return hypot(self.se_a, self.se_b) if isfinite(self.se_a) and isfinite(self.se_b) else float("nan")

    @cached_property
    def clear(self) -> bool | None:
        """More than two standard errors from zero; None where that is not known."""
        known = isfinite(self.difference) and isfinite(self.se)
        return abs(self.difference) > 2 * self.se if known else None


def matched(a: Alignment, b: Alignment) -> list[HeadDifference]:
    """Every head of the student, in the order of A; empty where the two students do not have the same heads."""
    of_b = {(s.kind, s.layer, s.head): s for s in b.heads}
    if {(s.kind, s.layer, s.head) for s in a.heads} != set(of_b):
        return []
    pairs = [(score, of_b[score.kind, score.layer, score.head]) for score in a.heads]
    return [HeadDifference(s.kind, s.layer, s.head, s.r2, t.r2, s.se, t.se, s.n, t.n) for s, t in pairs]
