"""Fused scores and kept steps as they are drawn, said and listed."""

import dataclasses
import json
from math import nan

import numpy as np
import pytest

from kvlab.host.bundled import ANALYSIS
from kvlab.results.alignment.data import read, write
from kvlab.results.alignment.fusion import fused_parts, fusion_weights, gain_heatmap
from kvlab.results.alignment.page import html
from kvlab.results.alignment.rkv import kept_mask, kept_steps
from kvlab.results.alignment.sentences import fusion_sentence, kept_sentence
from kvlab.results.alignment.tables import fusion_table
from kvlab.results.alignment.timeline import rule_shown
from tests.finished import fused, of_rkv


@pytest.fixture(scope="module")
def sample():
    return read(ANALYSIS)


def test_a_gain_that_is_not_shown_is_none_however_certain(sample):
    tiny = dataclasses.replace(fused(sample).fusion[-1], gain=1e-5, gain_se=1e-7, gain_random=nan)
    assert tiny.beats_best is False and dataclasses.replace(tiny, gain=0.001).beats_best is True
    assert dataclasses.replace(tiny, gain=0.001, gain_se=float("nan")).beats_best is None
    assert dataclasses.replace(tiny, gain=0.001, gain_se=0.0006).beats_best is False


def test_what_random_weights_bring_as_well_is_no_gain(sample):
    score = dataclasses.replace(fused(sample).fusion[-1], gain=0.03, gain_se=0.001, gain_random_se=0.002)
    by_random = {gain: dataclasses.replace(score, gain_random=gain) for gain in (0.005, 0.003, -0.01, nan)}
    assert [by.beats_best for by in by_random.values()] == [True, False, False, True]
    assert by_random[0.003].unbeaten == ["random"]
    assert dataclasses.replace(by_random[0.005], gain=0.001).unbeaten == ["best"]
    assert dataclasses.replace(score, gain_random=4e-4, gain_random_se=1e-5).unbeaten == ["random"]
    # Not known by either of them is not known.
    for field in ("gain_se", "gain_random_se"):
        assert dataclasses.replace(by_random[0.005], **{field: nan}).beats_best is None


def replaced(both, **fields):
    return dataclasses.replace(both, fusion=[dataclasses.replace(score, **fields) for score in both.fusion])


def test_the_sentence_says_what_random_weights_leave_of_the_gain(sample):
    both = fused(sample)
    said = fusion_sentence(both)
    layers = [score.layer for score in both.fusion]
    gain = f"+{0.005 * np.mean(layers):.2f}"
    assert gain in said.partition("over random weights in place of the others")[0].rpartition(",")[2]
    assert f"In {sum(layer > 0 for layer in layers)} of {len(layers)} heads" in said and "1,200 tokens" in said
    assert "over random weights in place of others +0.010 ± 0.001, n = 1,200" in hovers(both)[2]
    without = replaced(both, gain_random=nan, gain_random_se=nan, n_control=0)
    said = fusion_sentence(without)
    assert "were not measured" in said and "over random weights" not in said
    assert "random" not in hovers(without)[2]
    unknown = replaced(both, gain_se=nan, gain_random_se=nan)
    assert "heads both gains" not in fusion_sentence(unknown)


def hovers(both):
    """Of K head 0, by layer."""
    markers = gain_heatmap(both, "key").data[2]
    return {layer: hover for (layer, head), hover in zip(markers.customdata, markers.text) if head == 0}


@pytest.mark.parametrize("kind", ["key", "value"])
def test_the_gain_map_is_centred_on_zero_and_marks_what_is_no_gain(sample, kind):
    both = fused(sample)
    figure = gain_heatmap(both, kind, selected=(2, 1))
    heat, words = figure.data[0], figure.data[1]
    assert heat.zmin == -heat.zmax == pytest.approx(-0.03)
    for i, (x, y) in enumerate(zip(words.x, words.y)):
        score = both.fused(kind, int(y), int(x))
        assert heat.z[heat.y.index(y)][heat.x.index(x)] == pytest.approx(score.gain)
        assert words.text[i] == f"+{score.gain:.2f}" + " =" * (score.layer == 0)


def test_one_head_in_parts_and_its_weights(sample):
    both = fused(sample)
    score = both.fused("key", 1, 0)
    parts, weights = fused_parts(score, both.teachers), fusion_weights(score, both.teachers)
    assert parts.data[0].x == pytest.approx((score.r2, *score.r2_alone))
    assert parts.data[0].error_x.array[0] == score.se and parts.data[0].error_x.array[1] is None
    assert weights.data[0].x == pytest.approx(score.weights)
    for figure in (parts, weights):
        assert figure.layout.xaxis.title.text and figure.layout.yaxis.title.text


def test_the_name_of_a_teacher_is_no_markup_in_a_figure(sample):
    both = dataclasses.replace(fused(sample), teachers=["<a href='http://evil'>x</a>", "b"])
    score = both.fused("key", 1, 0)
    figures = fused_parts(score, both.teachers), fusion_weights(score, both.teachers), gain_heatmap(both, "key")
    for figure in figures:
        assert "<a" not in (text := str(figure.to_dict())) and "&lt;a href=" in text


def test_the_fusion_table_names_its_teachers(sample):
    table = fusion_table(fused(sample))
    assert "R² alone: 2 demo/teacher-b" in table and "weight: 1 demo/teacher" in table
    assert table["n tokens"].eq(1234).all() and len(table) == len(sample.heads)
    np.testing.assert_allclose(table["gain over random"], 0.005 * table["layer"])
    assert table["n control"].eq(1200).all() and list(table.columns[-2:]) == ["n tokens", "n control"]


def test_a_result_of_before_that_control_is_read(sample, tmp_path):
    write(fused(sample), tmp_path)
    path = tmp_path / "alignment.json"
    stored = json.loads(path.read_text())
    for score in stored["fusion"]:
        for name in ("gain_random", "gain_random_se", "n_control"):
            del score[name]
    path.write_text(json.dumps(stored))
    old = read(tmp_path)
    assert all(np.isnan(score.gain_random) and score.n_control == 0 for score in old.fusion)
    assert [score.beats_best for score in old.fusion] == [score.layer > 0 for score in old.fusion]
    assert old.fusion == read(tmp_path).fusion
    assert "were not measured" in html(old)


def test_the_report_holds_the_fusion(sample):
    page = html(fused(sample))
    assert "Fusion of the teachers" in page and "1,234 tokens that all of them cover" in page
    assert "Fusion of the teachers" not in html(sample)


def test_kept_steps_are_the_arrays_and_stand_out(sample):
    rkv = of_rkv(sample)
    figure = kept_steps(rkv, 0, 2, 3)
    kept = kept_mask(rkv, 0, 2, 3)
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
    assert f"**{len(range(4, length, 2))} of {length - 4} candidate steps**" in kept_sentence(rkv, 0, 0, 0)


def test_the_weight_that_is_said_is_the_weight_that_is_used():
    from kvlab.align.rkv import RKV

    assert RKV().balance == 0.1


def test_a_report_of_rkv_draws_the_timeline_by_floor(sample):
    rkv = of_rkv(sample)
    assert rule_shown(rkv) == "floor" and rule_shown(sample) == sample.settings["time"]
    assert "<h2>Timeline</h2>" in html(rkv)
