"""Time rules against brute force, resampling against numpy.interp, and the invariants of every map."""

import time as clock
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from kvlab.align import resampling
from kvlab.errors import AlignError
from kvlab.request.time_rules import CAUSAL, MAPS, RULES, known
from kvlab.shapes import Segment, Tokens, segment_of

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


@st.composite
def ragged_timelines(draw):
    """As ``timelines``, with tokens that have no bytes, special ones anywhere, and ends that were cut off."""
    total = draw(st.integers(min_value=1, max_value=24))
    made = []
    for _ in range(2):
        cuts = sorted(draw(st.lists(st.integers(0, total), max_size=12)))
        one = tokens(np.diff([0, *cuts, total]))
        special = np.array([s == e and draw(st.booleans()) for s, e in one.spans], dtype=bool)
        made.append(Tokens(one.ids, one.spans, special, True).first(draw(st.integers(0, len(one)))))
    borders = sorted(draw(st.sets(st.integers(1, total - 1), max_size=2))) if total > 1 else []
    names = ("prompt", "reasoning", "answer")
    segments = [Segment(*part) for part in zip(names, [0, *borders], [*borders, total])]
    return *made, segments if draw(st.booleans()) else []


@given(t_in=lengths, t_out=lengths)
def test_linear_indices_are_the_rounded_position(t_in, t_out):
    indices = resampling.linear_indices(t_in, t_out)
    assert indices.dtype == torch.int64 and indices.min() >= 0 and indices.max() < t_in
    assert (indices.diff() >= 0).all()
    position = np.arange(t_out) * (t_in - 1) / max(t_out - 1, 1)
    assert np.abs(indices.numpy() - position).max() <= 0.5 + 1e-9
    if t_out > 1:
        assert (int(indices[0]), int(indices[-1])) == (0, t_in - 1)


@given(t_in=lengths, t_out=lengths)
def test_interpolation_is_numpy_interp(t_in, t_out):
    k = torch.randn(1, 2, t_in, 3, dtype=torch.float64)
    resampled_k, resampled_v, signal = resampling.resample_kv_with_interpolation(k, -k, t_out)
    at = np.arange(t_out) * (t_in - 1) / max(t_out - 1, 1)
    for h in range(2):
        for d in range(3):
            expected = np.interp(at, np.arange(t_in), k[0, h, :, d].numpy())
            np.testing.assert_allclose(resampled_k[0, h, :, d].numpy(), expected, atol=1e-9)
    assert torch.equal(resampled_v, -resampled_k) and signal.all()


def test_interpolation_refuses_keys_and_values_of_different_length():
    with pytest.raises(AlignError, match="T=5 and values with T=6"):
        resampling.resample_kv_with_interpolation(torch.zeros(1, 1, 5, 2), torch.zeros(1, 1, 6, 2), 3)


def test_a_negative_length_is_refused():
    with pytest.raises(AlignError, match="T_in=3, T_out=-1"):
        resampling.linear_indices(3, -1)


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
    time_map = MAPS[rule](teacher, student)
    found = {int(i): int(j) for i, j in zip(time_map.rows, time_map.columns)}
    expected = {i: j for i in range(len(student)) if (j := brute_force(rule, teacher, student, i)) is not None}
    assert found == expected
    ends = set(teacher.spans[~teacher.special, 1].tolist())
    is_exact = [not student.special[i] and int(student.spans[i, 1]) in ends for i in range(len(student))]
    assert time_map.exact.tolist() == is_exact
    for i, j in expected.items():
        assert time_map.lag[i] == student.spans[i, 1] - teacher.spans[j, 1]


def resampled(time_map, x):
    """A map as a matrix on the time axis: [..., Tt, D] -> [..., Ts, D]."""
    matrix = torch.zeros(time_map.student_length, time_map.teacher_length, dtype=x.dtype)
    for i, row in entries(time_map).items():
        for j, weight in row.items():
            matrix[i, j] = float(weight)
    return matrix @ x


def entries(time_map):
    """{student step: {teacher step: weight}}"""
    found = {}
    for i, j, weight in zip(time_map.rows.tolist(), time_map.columns.tolist(), time_map.weights):
        assert j not in found.setdefault(i, {})
        found[i][j] = weight
    return found


def close(found, expected):
    assert found.keys() == expected.keys()
    for i, row in expected.items():
        assert found[i] == pytest.approx({j: float(weight) for j, weight in row.items()}, abs=1e-12)


@given(case=ragged_timelines())
def test_overlap_counts_the_bytes_that_two_tokens_share(case):
    teacher, student, _ = case
    expected = {}
    for i, (start, end) in enumerate(student.spans):
        reading = [j for byte in range(start, end) for j, (a, b) in enumerate(teacher.spans) if a <= byte < b]
        if reading and not student.special[i]:
            expected[i] = {j: Fraction(reading.count(j), len(reading)) for j in set(reading)}
    time_map = MAPS["overlap"](teacher, student)
    close(entries(time_map), expected)
    alone = {i: next(iter(row)) for i, row in expected.items() if len(row) == 1}
    same_end = {i for i, j in alone.items() if teacher.spans[j, 1] == student.spans[i, 1]}
    assert set(np.flatnonzero(time_map.exact).tolist()) == same_end


@given(case=ragged_timelines())
def test_segment_interpolates_between_the_ends_of_each_segment(case):
    teacher, student, segments = case
    whole = [Segment("all", 0, 10**6)]

    def inside(tokens, part):
        last = [max(end - 1, 0) for _, end in tokens.spans]
        return [i for i in range(len(tokens)) if not tokens.special[i] and part.start <= last[i] < part.end]

    expected = {}
    for part in segments or whole:
        t, s = inside(teacher, part), inside(student, part)
        for n, i in enumerate(s if t else []):
            u = Fraction(n * (len(t) - 1), max(len(s) - 1, 1))
            below = int(u)
            row = {t[below]: 1 - (u - below)}
            if u > below:
                row[t[below + 1]] = u - below
            expected[i] = row
    close(entries(MAPS["segment"](teacher, student, segments)), expected)


@given(pair=timelines())
def test_without_segments_or_special_tokens_segment_is_linear(pair):
    one, other = pair
    assume(not one.special.any() and not other.special.any())
    close(entries(MAPS["segment"](one, other)), entries(MAPS["linear"](one, other)))


@given(case=ragged_timelines())
def test_no_step_of_one_segment_stands_for_a_step_of_another(case):
    teacher, student, segments = case
    time_map = MAPS["segment"](teacher, student, segments)
    of_t, of_s = segment_of(teacher, segments), segment_of(student, segments)
    assert (of_t[time_map.columns] == of_s[time_map.rows]).all()
    for part in set(of_s[of_s >= 0]) - set(of_t):
        assert not time_map.covered[of_s == part].any()


def test_a_token_across_a_border_belongs_where_its_last_byte_lies():
    parts = [Segment("prompt", 0, 4), Segment("answer", 4, 8)]
    assert segment_of(tokens([3, 2, 3], bos=True), parts).tolist() == [-1, 0, 1, 1]
    assert segment_of(tokens([0, 4, 0, 4]), parts).tolist() == [0, 0, 0, 1]  # without bytes: with those before


@pytest.mark.parametrize("rule", ["overlap", "segment"])
def test_long_documents_take_milliseconds(rule):
    rng = np.random.default_rng(0)
    teacher, student = (tokens(rng.integers(1, 8, 20_000)) for _ in range(2))
    parts = [Segment("prompt", 0, 30_000), Segment("answer", 30_000, 200_000)]
    start = clock.process_time()
    MAPS[rule](teacher, student, parts)
    assert clock.process_time() - start < 0.2


@pytest.mark.parametrize("rule", MAPS)
@given(case=ragged_timelines())
def test_rows_of_every_map_sum_to_one_or_are_empty(rule, case):
    teacher, student, segments = case
    time_map = MAPS[rule](teacher, student, segments)
    sums = np.zeros(len(student))
    np.add.at(sums, time_map.rows, time_map.weights)
    np.testing.assert_allclose(sums, time_map.covered.astype(float), atol=1e-12)
    assert (np.diff(time_map.rows) >= 0).all()
    assert not len(time_map.columns) or 0 <= time_map.columns.min() <= time_map.columns.max() < len(teacher)


@pytest.mark.parametrize("rule", MAPS)
@given(case=ragged_timelines())
def test_exact_steps_have_read_the_same_text_in_one_teacher_token(rule, case):
    teacher, student, segments = case
    time_map = MAPS[rule](teacher, student, segments)
    expected = set()
    for i, row in entries(time_map).items():
        step, weight = next(iter(row.items()))
        same_end = teacher.spans[step, 1] == student.spans[i, 1]
        if weight == 1 and same_end and not teacher.special[step] and not student.special[i]:
            expected.add(i)
    assert set(np.flatnonzero(time_map.exact).tolist()) == expected


@pytest.mark.parametrize("rule", [MAPS["linear"], MAPS["nearest"]])
def test_a_special_token_of_either_model_has_read_no_text(rule):
    """A dummy prefix ends where a BOS ends, at byte 0."""
    bos, prefix = tokens([4], bos=True), tokens([0, 4])
    for teacher, student in ((bos, prefix), (prefix, bos)):
        time_map = rule(teacher, student)
        assert time_map.columns.tolist() == [0, 1]
        assert time_map.exact.tolist() == [False, True]


@given(pair=timelines())
def test_causal_rules_never_see_ahead_and_ceil_never_lags(pair):
    for rule in CAUSAL:
        assert (MAPS[rule](*pair).lag >= 0).all()
    assert (MAPS["ceil"](*pair).lag <= 0).all()


def test_rules_are_found_by_their_files_the_default_first():
    names = {"floor", "exact", "ceil", "overlap", "linear", "nearest", "segment", "rkv"}
    assert set(RULES) == names and MAPS.keys() == names - {"rkv"} and next(iter(RULES)) == "floor"
    assert CAUSAL == ("floor", "exact") and all(RULES[name].reads_bytes for name in CAUSAL)
    assert all(rule.name == name == known(name).name for name, rule in RULES.items())
    assert known("gone").words == "gone" and not known("gone").causal


@pytest.mark.parametrize("rule", MAPS)
def test_the_same_timeline_maps_to_itself(rule):
    one = tokens([3, 1, 4, 1, 5])
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(resampled(MAPS[rule](one, one), x), x, rtol=0, atol=1e-12)


@given(pair=timelines())
def test_linear_and_nearest_maps_agree_with_the_resampling_functions(pair):
    teacher, student = pair
    x = torch.randn(1, 2, len(teacher), 3, dtype=torch.float64)
    by_function, _, _ = resampling.resample_kv_with_interpolation(x, x, len(student))
    torch.testing.assert_close(resampled(MAPS["linear"](teacher, student), x), by_function)
    by_index, _ = resampling.safe_time_resample(x, len(student))
    torch.testing.assert_close(resampled(MAPS["nearest"](teacher, student), x), by_index)


def test_an_empty_teacher_timeline_gives_zeros_without_signal():
    for rule in MAPS.values():
        time_map = rule(tokens([]), tokens([2, 2]))
        assert not time_map.covered.any() and not time_map.exact.any()
        assert resampled(time_map, torch.randn(2, 0, 3)).abs().sum() == 0
