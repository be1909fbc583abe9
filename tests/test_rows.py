"""Which rows are fitted, scored, or scored apart; and the rows themselves against plain indexing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvlab.align.fold_sums import FIT_AND_SCORE, FIT_ONLY, SCORE_ONLY, SINK, SPECIAL
from kvlab.align.rows import common_parts, pick, rank_map, row_parts, selectable
from kvlab.request.align import AlignSettings
from kvlab.request.time_rules import MAPS, RULES
from tests.test_time import timelines, tokens

SETTINGS = AlignSettings(sinks=2)


@given(timelines(), st.sampled_from(["floor", "linear", "overlap", "ceil"]), st.integers(0, 3))
def test_every_step_has_one_use_and_sinks_of_either_model_are_apart(pair, rule, sinks):
    teacher, student = pair
    settings = AlignSettings(sinks=sinks, time=rule)
    time_map = MAPS[rule](teacher, student)
    parts = row_parts(teacher, student, time_map, True, settings)
    together = np.concatenate(list(parts.values()))
    assert len(together) == len(set(together.tolist()))
    sinks_t, sinks_s = (np.flatnonzero(~t.special)[:sinks] for t in (teacher, student))
    for step in np.concatenate([parts[FIT_AND_SCORE], parts[SCORE_ONLY]]):
        sources = time_map.columns[time_map.rows == step]
        assert len(sources) and step not in sinks_s and not student.special[step]
        assert not np.isin(sources, sinks_t).any() and not teacher.special[sources].any()
    if RULES[rule].reads_bytes:
        assert time_map.exact[parts[FIT_AND_SCORE]].all() and not time_map.exact[parts[SCORE_ONLY]].any()
    else:
        assert not len(parts[SCORE_ONLY])
    assert parts[SPECIAL].tolist() == ([0] if teacher.special[0] and student.special[0] else [])
    calibration = row_parts(teacher, student, time_map, False, settings)
    assert list(calibration) == [FIT_ONLY] and calibration[FIT_ONLY].tolist() == parts[FIT_AND_SCORE].tolist()


def test_sinks_are_the_first_content_tokens_of_both():
    teacher, student = tokens([2, 2, 2, 2]), tokens([1] * 8, bos=True)
    parts = row_parts(teacher, student, MAPS["floor"](teacher, student), True, SETTINGS)
    # Student bytes 1..8 are its steps 1..8; the teacher's first two tokens end at bytes 2 and 4.
    assert parts[SINK].tolist() == [2, 3, 4, 5]
    assert parts[FIT_AND_SCORE].tolist() == [6, 8] and parts[SCORE_ONLY].tolist() == [7]
    assert parts[SPECIAL].tolist() == []


@given(timelines(), st.sampled_from(["floor", "linear", "overlap"]), st.integers(0, 99))
def test_picked_rows_are_the_weighted_teacher_steps(pair, rule, seed):
    teacher, student = pair
    time_map = MAPS[rule](teacher, student)
    x = torch.randn(2, 3, len(teacher), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    y = torch.randn(2, 2, len(student), 5, dtype=torch.float64)
    steps = np.flatnonzero(time_map.covered)[::-1][::2][::-1].copy()
    maps = [(teacher, student, time_map)] * 2
    picked = pick(maps, [steps, steps[:1]], torch.device("cpu"))
    found_x, found_y = picked.features(x), picked.targets(y)
    expected = [(0, s) for s in steps] + [(1, s) for s in steps[:1]]
    assert len(picked) == len(expected)
    for row, (b, s) in enumerate(expected):
        entries = time_map.rows == s
        weighted = sum(w * x[b, :, c] for c, w in zip(time_map.columns[entries], time_map.weights[entries]))
        torch.testing.assert_close(found_x[row], weighted.flatten())
        torch.testing.assert_close(found_y[row], y[b, :, s].flatten())


def test_the_first_special_tokens_stand_for_each_other():
    teacher, student = tokens([2, 2, 2], bos=True), tokens([3, 3], bos=True)
    time_map = MAPS["floor"](teacher, student)
    assert not time_map.covered[0]
    chosen = row_parts(teacher, student, time_map, True, SETTINGS)[SPECIAL]
    picked = pick([(teacher, student, time_map)], [chosen], torch.device("cpu"))
    x = torch.randn(1, 2, 4, 3)
    torch.testing.assert_close(picked.features(x), x[:, :, 0].flatten(1))
    both = pick([(teacher, student, time_map)], [np.arange(3)], torch.device("cpu"))
    torch.testing.assert_close(both.features(x)[0], x[0, :, 0].flatten())
    torch.testing.assert_close(both.features(x)[2], x[0, :, 3].flatten())


def test_steps_of_each_head_are_taken_by_head_and_none_is_zero():
    teacher, student = tokens([1] * 6), tokens([2, 2, 2])
    time_map = rank_map(teacher, student, 0)
    assert time_map.rows.tolist() == [0, 1, 2] and not time_map.exact.any()
    picked = pick([(teacher, student, time_map)], [np.arange(3)], torch.device("cpu"))
    x = torch.randn(1, 2, 6, 4)
    steps = torch.tensor([[[1, 4, 5], [0, 2, -1]]])
    found = picked.features_by_head(x, steps).reshape(3, 2, 4)
    torch.testing.assert_close(found[:, 0], x[0, 0, [1, 4, 5]])
    torch.testing.assert_close(found[:2, 1], x[0, 1, [0, 2]])
    assert (found[2, 1] == 0).all()


@pytest.mark.parametrize("sinks", [0, 1, 2])
def test_what_a_head_may_keep_leaves_special_tokens_and_sinks_out(sinks):
    teacher, student = tokens([1] * 4, bos=True), tokens([1] * 7)
    assert selectable(teacher, sinks).tolist() == list(range(1 + sinks, 5))
    assert rank_map(teacher, student, sinks).rows.tolist() == list(range(sinks, 4))


def test_common_steps_are_fitted_where_all_are_exact():
    a = {FIT_AND_SCORE: np.array([1, 2, 5]), SCORE_ONLY: np.array([3, 4]), SINK: np.array([0])}
    b = {FIT_AND_SCORE: np.array([2, 3, 5]), SCORE_ONLY: np.array([1, 6]), SINK: np.array([0])}
    shared = common_parts([a, b])
    assert {name: steps.tolist() for name, steps in shared.items()} == {FIT_AND_SCORE: [2, 5], SCORE_ONLY: [1, 3]}
    fit_only = common_parts([{FIT_ONLY: np.array([1, 2])}, {FIT_ONLY: np.array([2, 3])}])
    assert {name: steps.tolist() for name, steps in fit_only.items()} == {FIT_ONLY: [2]}
