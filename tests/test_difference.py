"""R² of B minus R² of A: the numbers, what is said of them, and the colours."""

from dataclasses import replace
from math import isnan, sqrt
from types import SimpleNamespace

import numpy as np
import pytest
from plotly.colors import sample_colorscale

from kvlab.host.bundled import ANALYSIS
from kvlab.results import style
from kvlab.results.alignment.data import read
from kvlab.results.alignment.difference import (
    HeadDifference,
    difference_heatmap,
    difference_sentence,
    differences_table,
    gain_sentence,
    matched,
    means_table,
    one_difference_sentence,
    shapes_sentence,
    strongest,
)
from tests.finished import by_class, of_fewer_heads, of_one_map, shifted

NAN = float("nan")


@pytest.fixture(scope="module")
def sample():
    return read(ANALYSIS)


def head_of(differences, *where):
    return next(d for d in differences if (d.kind, d.layer, d.head) == where)


def test_b_minus_a_with_the_standard_error_of_independent_estimates(sample):
    found = matched(sample, shifted(sample, "value", 2, 1, -0.2))
    assert len(found) == 16 and sum(d.difference != 0 for d in found) == 1
    lower = head_of(found, "value", 2, 1)
    se = sample.score("value", 2, 1).se
    assert lower.difference == pytest.approx(-0.2) and lower.se == pytest.approx(sqrt(2) * se)
    assert lower.clear is True and head_of(found, "key", 0, 0).clear is False


def test_the_same_heads_in_another_order_are_matched_by_name(sample):
    found = matched(sample, replace(sample, heads=sample.heads[::-1]))
    assert [d.difference for d in found] == [0.0] * 16


def test_two_standard_errors_decide_and_without_one_it_is_not_known():
    def of(difference, se_b):
        return HeadDifference("key", 0, 0, 0.5, 0.5 + difference, 0.03, se_b, 10, 20)

    assert of(0.101, 0.04).clear is True and of(0.099, 0.04).clear is False  # 2 * hypot(0.03, 0.04) = 0.1
    assert of(-0.101, 0.04).clear is True
    assert of(0.101, NAN).clear is None and isnan(of(0.1, NAN).se)
    assert of(NAN, 0.04).clear is None


def test_students_of_other_shapes_are_not_matched_and_it_is_said(sample):
    narrow = of_fewer_heads(sample)
    assert matched(sample, narrow) == [] and matched(narrow, sample) == []
    said = shapes_sentence(sample, narrow)
    assert "A is demo/student with 4 layers of 2 KV heads" in said
    assert "B is demo/narrow with 3 layers of 2 KV heads and 1 layer of 1 KV head" in said


def test_the_sentence_counts_and_averages(sample):
    b = shifted(shifted(sample, "value", 2, 1, -0.4), "key", 1, 0, 0.24)
    said = difference_sentence(matched(sample, b))
    assert "B explains 3 points more of K and 5 points less of V than A" in said  # 0.24 / 8 and 0.4 / 8
    assert "of 16 heads, B is higher in 1 and lower in 1 by more than two standard errors, and 14 cannot" in said
    single = replace(sample, heads=[replace(s, se=NAN) for s in sample.heads])
    assert "no standard errors" in difference_sentence(matched(sample, single))
    nothing = replace(sample, heads=[replace(s, r2=NAN) for s in sample.heads])
    assert "nothing to compare" in difference_sentence(matched(sample, nothing))


def test_the_gain_over_the_strongest_control_leads(sample):
    def of(heads, **changes):
        return replace(sample, heads=[replace(s, r2_own=NAN, added=NAN, **changes) for s in heads])

    a = of(sample.heads, r2=0.60, r2_identity=0.64, gain=-0.04, gain_se=0.01, gain_random=0.3, gain_random_se=0.01)
    b = of(sample.heads, r2=0.51, r2_identity=0.42, gain=0.09, gain_se=0.01, gain_random=0.3, gain_random_se=0.01)
    found = matched(a, b)
    assert [strongest(s) for s in (a.heads[0], b.heads[0])] == [(-0.04, 0.01), (0.09, 0.01)]
    assert "B explains 9 points less of K" in difference_sentence(found)  # and yet
    said = gain_sentence(found)
    assert "says 13 points more of K and 13 points more of V than that of A" in said
    assert "clearly more in 16 of 16 heads, clearly less in 0" in said
    assert difference_heatmap(a, found, "key", of="gain").data[0].z[0][0] == pytest.approx(0.13)
    means = means_table(a, b).set_index(["K/V", "R² of"])
    assert means.loc[("K", "gain over the strongest control"), "B − A"] == pytest.approx(0.13)
    assert next(iter(means.index)) == ("K", "gain over the strongest control")


def test_one_head_in_words(sample):
    found = matched(sample, shifted(sample, "value", 2, 1, -0.2))
    se = sqrt(2) * sample.score("value", 2, 1).se
    said = one_difference_sentence(head_of(found, "value", 2, 1))
    assert f"−0.200 ± {se:.3f} R²." in said and "n = 17,007 tokens" in said and "within two" not in said
    assert "within two standard errors of none" in one_difference_sentence(head_of(found, "key", 0, 0))


def test_tables_hold_means_and_every_head(sample):
    b = shifted(sample, "value", 2, 1, -0.4)
    means = means_table(sample, b).set_index(["K/V", "R² of"])
    assert means.loc[("V", "teacher"), "B − A"] == pytest.approx(-0.05)
    assert means.loc[("K", "teacher"), "A"] == pytest.approx(np.mean([s.r2 for s in sample.heads if s.kind == "key"]))
    of_sources = means[means.index.get_level_values(1) != "gain over the strongest control"]
    assert of_sources["B − A"].abs().sum() == pytest.approx(0.05)
    table = differences_table(matched(sample, b)).set_index(["kind", "layer", "head"])
    assert table.loc[("V", 2, 1), "difference"] == pytest.approx(-0.4) and len(table) == 16


def test_means_are_of_what_either_has_measured(sample):
    means = means_table(of_one_map(sample), by_class(sample)).set_index(["K/V", "R² of"])
    assert means.loc[("K", "added by the teacher"), "B"] == pytest.approx(0.115)
    assert means.loc[("V", "teacher, tokens inside"), "B"] == pytest.approx(0.69)
    assert isnan(means.loc[("V", "student’s own tokens"), "A"]) and isnan(
        means.loc[("V", "teacher + own token"), "B − A"]
    )
    assert len(means) == 20 and len(means_table(of_one_map(sample), of_one_map(sample))) == 10


def test_the_map_has_zero_in_the_middle_one_range_for_both_and_marks_what_is_not_clear(sample):
    found = matched(sample, shifted(sample, "value", 2, 1, -0.2))
    for kind in ("key", "value"):
        figure = difference_heatmap(sample, found, kind, (2, 1))
        heat, texts, points = figure.data
        assert (heat.zmin, heat.zmax) == pytest.approx((-0.2, 0.2))
        assert "R² of B" in heat.colorbar.title.text and figure.layout.xaxis.title.text == "student KV head"
        assert heat.z[2][1] == pytest.approx(-0.2 if kind == "value" else 0.0)
        cell = [tuple(data) for data in points.customdata].index((2, 1))
        assert texts.text[cell] == ("−0.20" if kind == "value" else "+0.00 =")
    same = difference_heatmap(sample, matched(sample, sample), "key")
    assert same.data[0].zmax == 0.02  # noise is not painted


def test_colours_of_one_meaning_are_no_others(sample):
    scales = [style.DIFFERENCE_SCALE, style.GAIN_SCALE, style.R2_SCALE, style.CKA_SCALE, style.DAMAGE_SCALE]
    assert len(set(scales)) == len(scales)


def luminance(colour):
    """WCAG 2.2, relative luminance of "rgb(r, g, b)"."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in unlabel_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def unlabel_rgb(colour):
    return [float(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]


@pytest.mark.parametrize("share", np.linspace(-1, 1, 41))
def test_the_number_in_a_cell_is_readable(share):
    heads = [HeadDifference("key", 0, n, 0.0, value, NAN, NAN, 9, 9) for n, value in enumerate([0.5 * share, 0.5])]
    student = {"kv_layers": [0]}
    figure = difference_heatmap(SimpleNamespace(student=student), heads, "key")
    background = luminance(sample_colorscale([list(stop) for stop in figure.data[0].colorscale], [(share + 1) / 2])[0])
    text = luminance({"#FFFFFF": "rgb(255,255,255)", "#000000": "rgb(0,0,0)"}[figure.data[1].textfont.color[0]])
    assert (max(text, background) + 0.05) / (min(text, background) + 0.05) >= 4.5


def test_a_head_that_does_not_vary_is_a_gap(sample):
    gone = replace(sample, heads=[replace(sample.heads[0], r2=NAN, se=NAN), *sample.heads[1:]])
    found = matched(sample, gone)
    assert difference_heatmap(sample, found, "key").data[0].z[0][0] is None
    assert "does not vary in one" in one_difference_sentence(found[0])
