"""The checkpoint table on made-up metric lines."""

import numpy as np
import pytest

from kvlab.request.train import Thresholds
from kvlab.results.training.verdict import in_force, judge, milestones, state_of


def lines(losses, **more):
    return [
        {"step": n, "loss": loss, "variance_ratio_key": 0.9, "variance_ratio_value": 0.9}
        | {"effective_rank_key": 8.0, "effective_rank_value": 8.0}
        | more
        for n, loss in enumerate(losses, 1)
    ]


def states(table):
    return {checkpoint.name: checkpoint.state for checkpoint in table}


FALLING = [2.0 * 0.98**n for n in range(100)]


def test_a_falling_loss_passes_everything_and_each_checkpoint_when_its_step_comes():
    assert state_of(judge(lines(FALLING), 100, peak_share=0.5)) == "pass"
    seen = [states(judge(lines(FALLING[:n]), 100, peak_share=0.5)) for n in (0, 9, 10, 49, 50, 99, 100)]
    assert [s["forward passes"] for s in seen] == ["pending"] * 2 + ["pass"] * 5
    assert [s["loss converging"] for s in seen] == ["pending"] * 4 + ["pass"] * 3
    for name in ("training stable", "no NaN or Inf", "few spikes", "no collapse", "memory"):
        assert [s[name] for s in seen] == ["pending"] * 6 + ["pass"]
    assert states(judge([], 100, loaded=False))["models loaded"] == "pending"


def test_steps_scale_with_max_steps():
    assert (milestones(100), milestones(10), milestones(1)) == ((10, 50, 100), (1, 5, 10), (1, 1, 1))
    assert state_of(judge(lines(FALLING[::10]), 10)) == "pass"


def test_converging_is_the_mean_of_the_last_five_over_the_first():
    losses = [1.0] * 45 + [0.78, 0.79, 0.8, 0.81, 0.81]  # mean .798
    found = next(c for c in judge(lines(losses), 100) if c.name == "loss converging")
    assert (found.state, found.threshold) == ("pass", 0.8) and found.value == pytest.approx(0.798)
    assert states(judge(lines([1.0] * 45 + [0.8] * 5), 100))["loss converging"] == "fail"  # not below
    assert states(judge(lines([1.0] * 50), 100, Thresholds(converged=1.1)))["loss converging"] == "pass"


def test_the_loss_of_a_control_need_not_fall_and_must_not_rise():
    rng = np.random.default_rng(0)
    still = (1 + rng.normal(0, 0.02, 50)).tolist()
    assert states(judge(lines(still), 100))["loss converging"] == "fail"
    found = next(c for c in judge(lines(still), 100, control=True) if c.name == "loss converging")
    assert (found.state, found.threshold) == ("pass", None) and "must only not rise" in found.words
    rising = [loss + 0.01 * n for n, loss in enumerate(still)]
    assert states(judge(lines(rising), 100, control=True))["loss converging"] == "fail"


def test_a_first_loss_that_happened_to_be_high_is_no_convergence():
    rng = np.random.default_rng(0)
    still = [rng.lognormal(0.0, 0.3, 50) for _ in range(300)]
    lucky = [losses for losses in still if losses[-5:].mean() < 0.8 * losses[0]]
    assert len(lucky) > 60  # so many runs that learn nothing end below 80% of their first loss
    passed = [states(judge(lines(losses.tolist()), 100))["loss converging"] for losses in still].count("pass")
    assert passed < 25
    falling = [losses * np.geomspace(1, 0.3, 50) for losses in still]
    assert [states(judge(lines(of.tolist()), 100))["loss converging"] for of in falling].count("pass") > 240


def test_what_the_first_loss_may_be_above_by_chance_is_two_standard_errors_of_the_difference():
    noise = [0.1, -0.1] * 25
    deviation = 0.1 * np.sqrt(20 / 19)  # of the last 20
    least = 2 * deviation * np.sqrt(1 + 1 / 5)
    for above, state in ((1.02, "pass"), (0.98, "fail")):
        losses = [0.3 + of for of in noise]
        losses[0] = float(np.mean(losses[-5:])) + above * least
        assert states(judge(lines(losses), 100))["loss converging"] == state


def test_stable_compares_the_smoothed_loss_with_half_time():
    assert states(judge(lines([2.0] + [1.0] * 49 + [0.9] * 30 + [1.01] * 20), 100))["training stable"] == "fail"
    assert states(judge(lines([2.0] + [1.0] * 49 + [1.5] * 30 + [1.0] * 20), 100))["training stable"] == "pass"


def test_a_rise_within_the_noise_of_the_batches_is_none():
    def ending(level, noise):
        return [2.0] + [1.0 + noise * (-1) ** n for n in range(49)] + [level + noise * (-1) ** n for n in range(50)]

    # Of 20 losses at +-0.1 the mean has an error of .023, the difference of two .032
    assert states(judge(lines(ending(1.05, 0.1)), 100))["training stable"] == "pass"
    assert states(judge(lines(ending(1.08, 0.1)), 100))["training stable"] == "fail"
    assert states(judge(lines(ending(1.05, 0.01)), 100))["training stable"] == "fail"


def test_a_nan_fails_at_once_and_names_its_step():
    broken = [*lines(FALLING[:20]), {"step": 21, "loss": None, "nonfinite": ["loss", "ce"]}]
    found = next(c for c in judge(broken, 100) if c.name == "no NaN or Inf")
    assert found.state == "fail" and "step 21: loss, ce" in found.words
    assert state_of(judge(broken, 100)) == "fail"


def test_spikes_are_counted_and_some_are_allowed():
    def with_spikes(count):
        return lines([loss * (5 if n % 12 == 11 and n // 12 < count else 1) for n, loss in enumerate(FALLING)])

    assert states(judge(with_spikes(5), 100))["few spikes"] == "pass"
    assert states(judge(with_spikes(6), 100))["few spikes"] == "fail"


def test_a_share_of_a_spike_is_none():
    def with_spikes(count):  # in 30 steps, of which 5% are one and a half
        return lines([5.0 if n in (12, 24)[:count] else 1.0 for n in range(30)])

    assert states(judge(with_spikes(1), 30))["few spikes"] == "pass"
    assert states(judge(with_spikes(2), 30))["few spikes"] == "fail"


def test_a_spike_is_seen_against_the_median_which_earlier_spikes_do_not_lift():
    losses = [1.0] * 10 + [50.0, 2.5, 1.9] + [1.0] * 7  # the mean of the first eleven is 5.5
    found = next(c for c in judge(lines(losses), 20) if c.name == "few spikes")
    assert (found.value, found.threshold) == (2, 1)


def test_the_least_variance_of_keys_and_values_is_shown():
    for kind in ("key", "value"):
        table = judge(lines(FALLING, **{f"variance_ratio_{kind}": 0.6}), 100)
        found = next(c for c in table if c.name == "no collapse")
        assert found.state == "pass" and found.value == pytest.approx(0.6) and "60%" in found.words


@pytest.mark.parametrize("name", ["variance_ratio_key", "variance_ratio_value"])
def test_a_shrinking_student_fails_as_soon_as_it_has_shrunk(name):
    shrinking = [line | {name: 0.5 * 0.9 ** line["step"]} for line in lines(FALLING[:40])]
    found = next(c for c in judge(shrinking, 100) if c.name == "no collapse")
    assert found.state == "fail" and "collapse" in found.words and name[-3:] in found.words


def test_a_student_on_few_directions_fails():
    flat = [line | {"effective_rank_value": 8.0 if line["step"] == 1 else 1.5} for line in lines(FALLING)]
    assert states(judge(flat, 100))["no collapse"] == "fail"
    assert states(judge(flat, 100, Thresholds(rank=0.1)))["no collapse"] == "pass"


def test_memory_at_the_limit_fails_before_the_end():
    assert states(judge(lines(FALLING[:5]), 100, peak_share=0.8))["memory"] == "fail"
    assert states(judge(lines(FALLING[:5]), 100, peak_share=0.79))["memory"] == "pending"


def test_a_run_that_breaks_off_fails_where_it_was_going():
    table = judge(lines(FALLING[:20]), 100, ended=True, error="out of memory")
    assert states(table)["forward passes"] == "pass" and states(table)["loss converging"] == "fail"
    assert states(table)["training stable"] == "pending" and "out of memory" in table[2].words
    early = judge([], 100, loaded=False, ended=True, error="no such model")
    assert states(early)["models loaded"] == "fail" and states(early)["forward passes"] == "pending"
    assert state_of(early) == "fail"


def test_lines_after_the_step_resumed_from_are_superseded():
    def step(n, loss):
        return {"step": n, "loss": loss}

    records = [step(1, 1.0), step(2, 9.0), {"resumed_from": 1}, step(2, 0.5), {"note": "x"}, {"resumed_from": 2}]
    assert in_force(records) == [step(1, 1.0), step(2, 0.5)]
    assert in_force([step(1, 1.0), {"resumed_from": 0}]) == []
