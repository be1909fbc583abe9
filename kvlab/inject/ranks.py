"""Do the heads with the larger errors do the larger damage? Spearman's rank correlation over heads."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np

from kvlab.injection import AttentionError, Correlation, Projected, Swap
from kvlab.types import KINDS

BOTH_KINDS = "both kinds"


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Pearson's correlation of the ranks, ties sharing their mean rank; NaN of fewer than 3, constant or not finite."""
    if len(a) < 3 or not np.isfinite([a, b]).all():
        return float("nan")
    ranks = [_ranks(np.asarray(x, dtype=np.float64)) for x in (a, b)]
    if any(r.std() == 0 for r in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(x: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def correlations(
    swaps: Sequence[Swap], projection: Sequence[Projected], attention: Sequence[AttentionError]
) -> list[Correlation]:
    """Of both errors with both damages, for K heads, V heads and all of them."""
    of_head = {(s.kind, s.layer, s.head): s for s in swaps if s.head is not None and s.kind in KINDS}
    found = []
    for name, cells in (("projection", projection), ("attention", attention)):
        errors = {at: c.error for c in cells if (at := (c.kind, c.layer, c.head)) in of_head}
        for kind in (*KINDS, BOTH_KINDS):
            # A head that does not vary has no error, and so no rank.
            places = [at for at, error in errors.items() if kind in (at[0], BOTH_KINDS) and isfinite(error)]
            for damage in ("kl", "delta_ce"):
                rho = spearman([errors[at] for at in places], [getattr(of_head[at], damage) for at in places])
                if places:
                    found.append(Correlation(kind, name, damage, rho, len(places)))
    return found
