"""Time rules against brute force, resampling against numpy.interp, and the invariants of every map."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvlab.align import time as rules
from kvlab.errors import AlignError
from kvlab.types import Tokens

lengths = st.integers(min_value=1, max_value=200)


def tokens(piece_lengths, bos=False):
    """A timeline from the byte lengths of its tokens."""
    ends = np.cumsum([0] * bos + list(piece_lengths)).astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64) if len(ends) else ends
    special = np.zeros(len(ends), dtype=bool)
    special[:bos] = True
    return Tokens(np.arange(len(ends)), np.stack([starts, ends], axis=1), special, True)


@st.composite
def timelines(draw):
    """Two ways of cutting the same bytes."""
    total = draw(st.integers(min_value=1, max_value=60))
    made = []
    for _ in range(2):
        cuts = sorted(draw(st.sets(st.integers(1, total - 1), max_size=total - 1))) if total > 1 else []
        made.append(tokens(np.diff([0, *cuts, total]), bos=draw(st.booleans())))
    return made


@given(t_in=lengths, t_out=lengths)
def test_linear_indices_are_the_rounded_position(t_in, t_out):
    indices = rules.linear_indices(t_in, t_out)
    assert indices.dtype == torch.int64 and indices.min() >= 0 and indices.max() < t_in
    assert (indices.diff() >= 0).all()
    position = np.arange(t_out) * (t_in - 1) / max(t_out - 1, 1)
    assert np.abs(indices.numpy() - position).max() <= 0.5 + 1e-9
    if t_out > 1:
        assert (int(indices[0]), int(indices[-1])) == (0, t_in - 1)


@given(t_in=lengths, t_out=lengths)
def test_interpolation_is_numpy_interp(t_in, t_out):
    k = torch.randn(1, 2, t_in, 3, dtype=torch.float64)
    resampled_k, resampled_v, signal = rules.resample_kv_with_interpolation(k, -k, t_out)
    at = np.arange(t_out) * (t_in - 1) / max(t_out - 1, 1)
    for h in range(2):
        for d in range(3):
            expected = np.interp(at, np.arange(t_in), k[0, h, :, d].numpy())
            np.testing.assert_allclose(resampled_k[0, h, :, d].numpy(), expected, atol=1e-9)
    assert torch.equal(resampled_v, -resampled_k) and signal.all()


def test_interpolation_refuses_keys_and_values_of_different_length():
    with pytest.raises(AlignError, match="T=5 and values with T=6"):
        rules.resample_kv_with_interpolation(torch.zeros(1, 1, 5, 2), torch.zeros(1, 1, 6, 2), 3)


def test_a_negative_length_is_refused():
    with pytest.raises(AlignError, match="T_in=3, T_out=-1"):
        rules.linear_indices(3, -1)


def brute_force(rule, teacher, student, i):
    """The teacher step of student step i, by looking at every one."""
    content = [j for j in range(len(teacher)) if not teacher.special[j]]
    end = student.spans[i, 1]
    if student.special[i]:
        return None
    if rule == "ceil":
        return next((j for j in content if teacher.spans[j, 1] >= end), None)
    candidates = [j for j in content if teacher.spans[j, 1] <= end]
    if rule == "exact":
        candidates = [j for j in candidates if teacher.spans[j, 1] == end]
    return candidates[-1] if candidates else None


@pytest.mark.parametrize("rule", ["exact", "floor", "ceil"])
@given(pair=timelines())
def test_byte_rules_against_brute_force(rule, pair):
    teacher, student = pair
    time_map = rules.RULES[rule](teacher, student)
    found = {int(i): int(j) for i, j in zip(time_map.rows, time_map.columns)}
    expected = {i: j for i in range(len(student)) if (j := brute_force(rule, teacher, student, i)) is not None}
    assert found == expected
    ends = set(teacher.spans[~teacher.special, 1].tolist())
    is_exact = [not student.special[i] and int(student.spans[i, 1]) in ends for i in range(len(student))]
    assert time_map.exact.tolist() == is_exact
    for i, j in expected.items():
        assert time_map.lag[i] == student.spans[i, 1] - teacher.spans[j, 1]


@pytest.mark.parametrize("rule", rules.RULES)
@given(pair=timelines())
def test_rows_of_every_map_sum_to_one_or_are_empty(rule, pair):
    teacher, student = pair
    time_map = rules.RULES[rule](teacher, student)
    sums = np.zeros(len(student))
    np.add.at(sums, time_map.rows, time_map.weights)
    np.testing.assert_allclose(sums, time_map.covered.astype(float), atol=1e-12)
    assert (np.diff(time_map.rows) >= 0).all()
    assert not len(time_map.columns) or 0 <= time_map.columns.min() <= time_map.columns.max() < len(teacher)


@given(pair=timelines())
def test_floor_never_sees_ahead_and_ceil_never_lags(pair):
    assert (rules.floor(*pair).lag >= 0).all()
    assert (rules.ceil(*pair).lag <= 0).all()


@pytest.mark.parametrize("rule", rules.RULES)
def test_the_same_timeline_maps_to_itself(rule):
    one = tokens([3, 1, 4, 1, 5])
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(rules.resample(rules.RULES[rule](one, one), x), x, rtol=0, atol=1e-12)


@given(pair=timelines())
def test_linear_and_nearest_maps_agree_with_the_resampling_functions(pair):
    teacher, student = pair
    x = torch.randn(1, 2, len(teacher), 3, dtype=torch.float64)
    by_function, _, _ = rules.resample_kv_with_interpolation(x, x, len(student))
    torch.testing.assert_close(rules.resample(rules.linear(teacher, student), x), by_function)
    by_index, _ = rules.safe_time_resample(x, len(student))
    torch.testing.assert_close(rules.resample(rules.nearest(teacher, student), x), by_index)


def test_an_empty_teacher_timeline_gives_zeros_without_signal():
    for rule in rules.RULES.values():
        time_map = rule(tokens([]), tokens([2, 2]))
        assert not time_map.covered.any() and not time_map.exact.any()
        assert rules.resample(time_map, torch.randn(2, 0, 3)).abs().sum() == 0


def test_a_map_refuses_another_timeline():
    time_map = rules.floor(tokens([1, 1]), tokens([2]))
    with pytest.raises(AlignError, match="a teacher timeline of 2 steps"):
        rules.resample(time_map, torch.zeros(1, 3, 4))
