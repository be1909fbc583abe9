"""Fused scores and kept steps as they are drawn, said and listed."""

import dataclasses

import numpy as np
import pytest

from kvlab import plots, report
from kvlab.results import read
from kvlab.ui.backend import SAMPLE_FOLDER
from tests.finished import fused, of_rkv


@pytest.fixture(scope="module")
def sample():
    return read(SAMPLE_FOLDER)


def test_a_gain_that_is_not_shown_is_none_however_certain(sample):
    tiny = dataclasses.replace(fused(sample).fusion[-1], gain=1e-5, gain_se=1e-7)
    assert tiny.beats_best is False and dataclasses.replace(tiny, gain=0.001).beats_best is True
    assert dataclasses.replace(tiny, gain=0.001, gain_se=float("nan")).beats_best is None
    assert dataclasses.replace(tiny, gain=0.001, gain_se=0.0006).beats_best is False


@pytest.mark.parametrize("kind", ["key", "value"])
def test_the_gain_map_is_centred_on_zero_and_marks_what_is_no_gain(sample, kind):
    both = fused(sample)
    figure = plots.gain_heatmap(both, kind, selected=(2, 1))
    heat, words = figure.data[0], figure.data[1]
    assert heat.zmin == -heat.zmax == pytest.approx(-0.03)
    for i, (x, y) in enumerate(zip(words.x, words.y)):
        score = both.fused(kind, int(y), int(x))
        assert heat.z[heat.y.index(y)][heat.x.index(x)] == pytest.approx(score.gain)
        assert words.text[i] == f"+{score.gain:.2f}" + " =" * (score.layer == 0)


def test_one_head_in_parts_and_its_weights(sample):
    both = fused(sample)
    score = both.fused("key", 1, 0)
    parts, weights = plots.fused_parts(score, both.teachers), plots.fusion_weights(score, both.teachers)
    assert parts.data[0].x == pytest.approx((score.r2, *score.r2_alone))
    assert parts.data[0].error_x.array[0] == score.se and parts.data[0].error_x.array[1] is None
    assert weights.data[0].x == pytest.approx(score.weights)
    for figure in (parts, weights):
        assert figure.layout.xaxis.title.text and figure.layout.yaxis.title.text


def test_the_fusion_table_names_its_teachers(sample):
    table = report.fusion_table(fused(sample))
    assert "R² alone: 2 demo/teacher-b" in table and "weight: 1 demo/teacher" in table
    assert table["n tokens"].eq(1234).all() and len(table) == len(sample.heads)


def test_the_report_holds_the_fusion(sample):
    page = report.html(fused(sample))
    assert "Fusion of the teachers" in page and "1,234 tokens that all of them cover" in page
    assert "Fusion of the teachers" not in report.html(sample)


def test_kept_steps_are_the_arrays_and_stand_out(sample):
    rkv = of_rkv(sample)
    figure = plots.kept_steps(rkv, 0, 2, 3)
    kept = plots.kept_mask(rkv, 0, 2, 3)
    assert kept.sum() == len(range(4, len(kept), 2))
    for part, axis in zip(("importance", "redundancy", "score"), ("y", "y2", "y3")):
        values = rkv.arrays[f"document.0.rkv.{part}"][2, 3]
        bars = {trace.name: trace for trace in figure.data if trace.yaxis == axis}
        for name, which in (("kept", kept), ("dropped", ~kept & ~np.isnan(values))):
            np.testing.assert_array_equal(bars[name].x, np.flatnonzero(which))
            np.testing.assert_allclose(bars[name].y, values[which])
    assert figure.layout.xaxis3.title.text and figure.layout.yaxis.title.text


def test_the_sentence_counts_kept_steps_and_names_the_weight(sample):
    rkv = of_rkv(sample)
    length = len(rkv.inspected[0].teacher_tokens)
    assert f"**{len(range(4, length, 2))} of {length - 4} candidate steps**" in report.kept_sentence(rkv, 0, 0, 0)


def test_the_weight_that_is_said_is_the_weight_that_is_used():
    from kvlab.align.rkv import RKV

    assert RKV().balance == 0.1


def test_a_report_of_rkv_draws_the_timeline_by_floor(sample):
    rkv = of_rkv(sample)
    assert plots.rule_shown(rkv) == "floor" and plots.rule_shown(sample) == sample.settings["time"]
    assert "<h2>Timeline</h2>" in report.html(rkv)
