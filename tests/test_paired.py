"""t intervals of paired differences: against scipy and tables, and on simulated runs with known effects."""

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from kvlab.results import paired
from kvlab.results.paired import BETTER, SAME, TOO_FEW, WORSE, call, interval, more_pairs, quantile

DRAWS = 2000


def runs(seeds: int, effect: float, draws: int = DRAWS, noise: float = 0.01, seed: int = 0):
    """Differences [draws, seeds] of two arms; seeds differ far more than arms, as held-out text does."""
    rng = np.random.default_rng(seed)
    text = rng.normal(0.34, 0.2, (draws, seeds))
    arms = [text + shift + rng.normal(0, noise / 2**0.5, (draws, seeds)) for shift in (effect, 0.0)]
    return arms[0] - arms[1]


def test_quantiles_are_those_of_scipy_and_of_the_tables():
    for freedom in (1, 2, 3, 4, 9, 30, 999):
        for p in (0.8, 0.975, 0.9875, 0.9999):
            assert quantile(p, freedom) == pytest.approx(t.ppf(p, freedom), rel=1e-9)
    assert [round(quantile(0.975, n - 1), 3) for n in (2, 3, 5)] == [12.706, 4.303, 2.776]


def test_an_interval_is_that_of_the_paired_t_test():
    one, other = np.array([0.353, 0.347, 0.352]), np.array([0.355, 0.348, 0.355])
    low, high = ttest_rel(one, other).confidence_interval(0.95)
    found = interval(one - other)
    assert (found.low, found.high) == pytest.approx((low, high)) and found.n == 3


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("effect", [0.0, -0.02, 0.05])
def test_intervals_cover_the_effect_in_95_of_100_draws(seeds, effect):
    found = interval(runs(seeds, effect))
    assert np.mean((found.low <= effect) & (effect <= found.high)) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("looks", [[3], [3, 5], [2, 3, 4, 6, 10]], ids=len)
def test_arms_without_a_difference_are_called_different_in_at_most_5_of_100_draws(looks):
    """Even by somebody who stops at the first planned look that shows a difference."""
    differences, different = runs(looks[-1], 0.0), np.zeros(DRAWS, dtype=bool)
    for number, seeds in enumerate(looks, 1):
        found = interval(differences[:, :seeds], paired.level_of(number, len(looks)))
        different |= np.isin(call(found, 0.01, True), [BETTER, WORSE])
    chance = 2 * np.sqrt(0.05 * 0.95 / DRAWS)
    assert 0.005 < different.mean() <= 0.05 + chance
    assert paired.error_rate(len(looks), len(looks)) == 0.05


def test_looks_that_nobody_planned_are_said_and_bounded():
    differences, different = runs(8, 0.0), np.zeros(DRAWS, dtype=bool)
    for number, seeds in enumerate((3, 5, 8), 1):
        found = interval(differences[:, :seeds], paired.level_of(number))
        different |= np.isin(call(found, 0.01, True), [BETTER, WORSE])
    assert 0.05 < different.mean() < paired.error_rate(3) == pytest.approx(0.05 + 0.025 + 0.05 / 3)


def test_large_effects_are_called_by_their_direction_and_small_ones_alike():
    for effect, lower, expected in ((-0.2, True, BETTER), (0.2, True, WORSE), (0.2, False, BETTER)):
        assert np.mean(call(interval(runs(5, effect)), 0.01, lower) == expected) > 0.99
    assert np.mean(call(interval(runs(30, 0.0)), 0.02, True) == SAME) > 0.94
    assert np.mean(call(interval(runs(3, 0.0)), 0.001, True) == SAME) < 0.01
    assert call(interval([0.01, -0.01]), 0.01, True) == TOO_FEW and call(interval([0.5]), 0.01, True) == TOO_FEW


def test_more_pairs_tell_in_at_least_80_of_100_draws():
    """The number that a pilot of the true mean and deviation asks for, drawn anew."""
    for effect, margin in ((-0.006, 0.0005), (0.0, 0.005)):
        pilot = interval(effect + 0.01 * np.array([-1.0, 0.0, 1.0]))
        n = 3 + more_pairs(pilot, margin)
        told = [np.mean(call(interval(runs(seeds, effect)), margin, True) != TOO_FEW) for seeds in (n, n // 2)]
        assert 0.78 < told[0] < 0.9 and told[1] < 0.7
    assert more_pairs(interval([0.5]), 0.01) is None
    assert more_pairs(interval([-1.0, 1.0]), 1e-9) is None
