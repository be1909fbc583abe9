"""Compare paired differences: t intervals, what they say, how many more pairs would tell, and the price of looks.

A look is a judgement after which somebody may stop or add pairs. The looks share the error rate ALPHA evenly
(Bonferroni), so that at most ALPHA of the comparisons without a difference are ever called different.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import exp, isfinite, lgamma, log, log1p, pi, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from kvlab.language import phrase

ALPHA = 0.05  # of all planned looks together
POWER = 0.8  # chance to be told, with the pairs that ``more_pairs`` asks for
MOST_PAIRS = 1000  # to search for
BETTER, SAME, WORSE, TOO_FEW = phrase("better"), phrase("no different"), phrase("worse"), phrase("too few seeds")


@dataclass(frozen=True)
class Interval:
    """A t interval of the mean of n numbers. Arrays, or plain numbers for one sample; low and high of n = 1 are NaN."""

    n: int
    level: float
    mean: Any
    sd: Any
    low: Any
    high: Any


def interval(x: Sequence[float] | np.ndarray, level: float = 1 - ALPHA) -> Interval:
    """Return the interval of the mean over the last axis of ``x`` [..., n]."""
    x = np.asarray(x, dtype=float)
    n, mean = x.shape[-1], x.mean(-1)
    if n < 2:
        unknown = np.full_like(mean, np.nan)
        return Interval(n, level, _plain(mean), *map(_plain, (unknown, unknown, unknown)))
    sd = x.std(-1, ddof=1)
    half = quantile(0.5 + level / 2, n - 1) * sd / sqrt(n)
    return Interval(n, level, *map(_plain, (mean, sd, mean - half, mean + half)))


def call(found: Interval, margin: float, lower_is_better: bool) -> Any:
    """Return BETTER or WORSE where the interval excludes zero, SAME where it lies within ± ``margin``, else TOO_FEW."""
    low, high = (found.low, found.high) if lower_is_better else (-np.asarray(found.high), -np.asarray(found.low))
    within = (low > -margin) & (high < margin)
    called = np.select([np.less(high, 0), np.greater(low, 0), within], [BETTER, WORSE, SAME], TOO_FEW)
    return _plain(called)


def level_of(look: int, planned: int = 1) -> float:
    """Return the level of the interval at this look, counted from 1."""
    return 1 - ALPHA / max(look, planned)


def error_rate(looks: int, planned: int = 1) -> float:
    """Bound the share of comparisons without a difference that are called different at any of ``looks`` looks.

    It is ALPHA unless more looks were taken than planned.
    """
    return sum(1 - level_of(look, planned) for look in range(1, looks + 1)) if looks > planned else ALPHA


def more_pairs(found: Interval, margin: float, level: float = 1 - ALPHA) -> int | None:
    """Return how many more pairs would tell in POWER of the cases, if mean and deviation stay as they are.

    They tell by an interval that excludes zero or lies within ± ``margin``. None: more than MOST_PAIRS, or unknown.
    """
    if not isfinite(found.sd):
        return None

    def tells(n: int) -> bool:
        error, edge, distance = found.sd / sqrt(n), quantile(0.5 + level / 2, n - 1), abs(found.mean)
        differs = (edge + quantile(POWER, n - 1)) * error < distance
        # Either end may leave the margin where the mean is near zero, so both must stay within.
        alike = (edge + quantile(0.5 + POWER / 2, n - 1)) * error < margin - distance
        return differs or alike

    few, enough = found.n, MOST_PAIRS
    if not tells(enough):
        return None
    while enough - few > 1:  # more pairs never tell less
        middle = (few + enough) // 2
        few, enough = (few, middle) if tells(middle) else (middle, enough)
    return enough - found.n


@cache
def quantile(p: float, freedom: int) -> float:
    """Return the quantile p >= 0.5 of Student's t with ``freedom`` degrees of freedom.

    P(|t| > q) = I_x(freedom / 2, 1 / 2) with x = freedom / (freedom + q²), the regularised incomplete beta function.
    """
    from mpmath import betainc  # takes a moment to import

    if p == 0.5:
        return 0.0
    if not 0.5 < p < 1 or freedom < 1:
        raise ValueError(f"expected 0.5 <= p < 1 and freedom >= 1, got {p} and {freedom}")

    # Newton's method; it comes from the left without overshooting, because the tail of t is convex and above the
    # normal one.
    q = NormalDist().inv_cdf(p)
    for _ in range(100):
        tail = betainc(freedom / 2, 0.5, 0, freedom / (freedom + q * q), regularized=True) / 2
        step = float(tail - (1 - p)) / _density(q, freedom)
        q += step
        if step < 1e-12 * q:
            break
    return q


def _density(q: float, freedom: int) -> float:
    scale = lgamma((freedom + 1) / 2) - lgamma(freedom / 2) - log(freedom * pi) / 2
    return exp(scale - (freedom + 1) / 2 * log1p(q * q / freedom))


def _plain(value: np.ndarray) -> Any:
    """Return a plain number or text for an array without axes."""
    return value.item() if value.ndim == 0 else value
