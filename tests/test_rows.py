"""Which rows are fitted, scored, or scored apart; and the rows themselves against plain indexing."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvlab.align import rows
from kvlab.align.fold_sums import FIT_AND_SCORE, FIT_ONLY, SCORE_ONLY, SINK, SPECIAL
from kvlab.align.rows import EXACT, LAST_CLASS, classes_of, common_parts, pick, rank_map, row_parts, rows_of, selectable
from kvlab.request.align import AlignSettings
from kvlab.request.time_rules import MAPS, RULES
from tests.test_time import timelines, tokens

SETTINGS = AlignSettings(sinks=2)


CLASSES = range(LAST_CLASS + 1)


@given(timelines(), st.sampled_from(["floor", "ceil"]), st.integers(1, 4))
def test_the_class_of_a_row_counts_the_tokens_since_both_models_had_read_the_same_bytes(pair, rule, last):
    teacher, student = pair
    ends = {end for (_, end), special in zip(teacher.spans.tolist(), teacher.special) if not special}
    expected = []
    for step in range(len(student)):
        since = 0
        for before in range(step, -1, -1):
            if not student.special[before] and student.spans[before, 1] in ends:
                break
            since += 1
        expected.append(min(since, last))
    with patch.object(rows, "LAST_CLASS", last):
        assert classes_of(MAPS[rule](teacher, student), rule).tolist() == expected


@given(timelines(), st.sampled_from(["linear", "nearest"]))
def test_a_rule_that_reads_no_bytes_has_one_class(pair, rule):
    assert not classes_of(MAPS[rule](*pair), rule).any()


@given(
    timelines(),
    st.sampled_from(["floor", "linear", "overlap", "ceil"]),
    st.integers(0, 3),
    st.sampled_from(["by-class", "exact"]),
)
def test_every_step_has_one_use_and_sinks_of_either_model_are_apart(pair, rule, sinks, by):
    teacher, student = pair
    settings = AlignSettings(sinks=sinks, time=rule, rows=by)
    time_map = MAPS[rule](teacher, student)
    parts = row_parts(teacher, student, time_map, True, settings)
    together = np.concatenate(list(parts.values()))
    assert len(together) == len(set(together.tolist()))
    sinks_t, sinks_s = (np.flatnonzero(~t.special)[:sinks] for t in (teacher, student))
    usable = []
    for step in np.flatnonzero(time_map.covered):
        sources = time_map.columns[time_map.rows == step]
        apart = step in sinks_s or np.isin(sources, sinks_t).any()
        special = student.special[step] or teacher.special[sources].any()
        assert any(step in parts[SINK.of(c)] for c in CLASSES) == (apart and not special)
        usable += [step] * (not apart and not special)
    exact = [step for step in usable if time_map.exact[step] or not RULES[rule].reads_bytes]
    inside = [step for step in usable if step not in exact]
    scored_only = inside if by == "exact" else []
    assert parts[FIT_AND_SCORE].tolist() == exact
    assert parts.get(SCORE_ONLY.of(LAST_CLASS), np.zeros(0)).tolist() == scored_only
    assert parts.get(FIT_AND_SCORE.of(LAST_CLASS), np.zeros(0)).tolist() == (inside if by == "by-class" else [])
    assert parts[SPECIAL].tolist() == ([0] if teacher.special[0] and student.special[0] else [])
    calibration = row_parts(teacher, student, time_map, False, settings)
    fitted = {FIT_ONLY: exact} | ({FIT_ONLY.of(LAST_CLASS): inside} if by == "by-class" else {})
    assert {part: steps.tolist() for part, steps in calibration.items()} == fitted


def test_sinks_are_the_first_content_tokens_of_both():
    teacher, student = tokens([2, 2, 2, 2]), tokens([1] * 8, bos=True)
    parts = row_parts(teacher, student, MAPS["floor"](teacher, student), True, SETTINGS)
    # Student bytes 1..8 are its steps 1..8; the teacher's first two tokens end at bytes 2 and 4.
    assert parts[SINK].tolist() == [2, 4] and parts[SINK.of(LAST_CLASS)].tolist() == [3, 5]
    assert parts[FIT_AND_SCORE].tolist() == [6, 8] and parts[FIT_AND_SCORE.of(LAST_CLASS)].tolist() == [7]
    assert parts[SPECIAL].tolist() == []
    steps, classes = rows_of(parts)
    assert steps.tolist() == [6, 7, 8] and classes.tolist() == [EXACT, LAST_CLASS, EXACT]


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


def test_common_steps_have_the_class_of_every_teachers_row():
    inside = FIT_AND_SCORE.of(1)
    a = {FIT_AND_SCORE: np.array([1, 2, 5]), inside: np.array([3, 4]), SINK: np.array([0])}
    b = {FIT_AND_SCORE: np.array([2, 3, 5]), inside: np.array([1, 6]), SINK: np.array([0])}
    shared = {part: steps.tolist() for part, steps in common_parts([a, b]).items()}
    of = FIT_AND_SCORE.of
    assert shared == {of((0, 0)): [2, 5], of((0, 1)): [1], of((1, 0)): [3]}
    calibration = [{FIT_ONLY: np.array([1, 2])}, {FIT_ONLY: np.array([2]), FIT_ONLY.of(1): np.array([1, 3])}]
    shared = {part: steps.tolist() for part, steps in common_parts(calibration).items()}
    assert shared == {FIT_ONLY.of((0, 0)): [2], FIT_ONLY.of((0, 1)): [1]}


def test_common_steps_of_one_map_are_fitted_where_all_are_exact():
    inside = SCORE_ONLY.of(1)
    a = {FIT_AND_SCORE: np.array([1, 2, 5]), inside: np.array([3, 4]), SINK: np.array([0])}
    b = {FIT_AND_SCORE: np.array([2, 3, 5]), inside: np.array([1, 6]), SINK: np.array([0])}
    shared = {part: steps.tolist() for part, steps in common_parts([a, b]).items()}
    of = SCORE_ONLY.of
    assert shared == {FIT_AND_SCORE.of((0, 0)): [2, 5], of((0, 1)): [1], of((1, 0)): [3]}
