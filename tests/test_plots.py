"""Figures carry the numbers of the result; the report carries them too and escapes what users wrote."""

import dataclasses
import re

import numpy as np
import pytest

from kvlab.host.bundled import ANALYSIS
from kvlab.request.time_rules import MAPS
from kvlab.results import words as results_words
from kvlab.results.alignment.data import read
from kvlab.results.alignment.heads import contributions, controls, hover, mean_sources, r2_map, token_scores
from kvlab.results.alignment.page import html
from kvlab.results.alignment.sentences import sentence
from kvlab.results.alignment.timeline import LAG_BINS, index_maps, timeline
from tests.finished import by_class, of_one_map


@pytest.fixture(scope="module")
def sample():
    return read(ANALYSIS)


def traces(figure, kind):
    return [trace for trace in figure.data if trace.type == kind]


@pytest.mark.parametrize("kind", ["key", "value"])
def test_heatmap_cells_and_their_markers_are_the_scores(sample, kind):
    figure = r2_map(sample, kind, selected=(3, 1))
    heat, (words, markers) = traces(figure, "heatmap")[0], traces(figure, "scatter")
    for i, (layer, head) in enumerate(markers.customdata):
        score = sample.score(kind, layer, head)
        assert heat.z[heat.y.index(markers.y[i])][heat.x.index(markers.x[i])] == pytest.approx(score.r2)
        assert (words.y[i], words.x[i]) == (str(layer), str(head))
        assert words.text[i] == f"{score.r2:.2f}" + ("" if score.beats_controls else " =")
    assert (heat.zmin, heat.zmax) == (0, 1)  # one range for K and V
    box = figure.layout.shapes[0]
    assert (box.x0, box.x1, box.y0, box.y1) == (0.5, 1.5, 2.5, 3.5)


def test_heads_beyond_the_legible_are_still_drawn_and_marked(sample):
    heads = [
        dataclasses.replace(sample.heads[0], kind="key", layer=layer, head=head, gain=0.0)
        for layer in range(20)
        for head in range(30)
    ]
    student = sample.student | {"kv_layers": list(range(20)), "kv_heads": 30}
    figure = r2_map(dataclasses.replace(sample, heads=heads, student=student), "key")
    assert np.array(traces(figure, "heatmap")[0].z).shape == (20, 30)
    assert set(traces(figure, "scatter")[0].text) == {" ="}
    assert len(traces(figure, "scatter")[0].x) == 600  # every head is marked as no better than its controls


def test_heads_of_which_no_verdict_is_known_are_marked_as_such(sample):
    unknown = {"se": float("nan"), "gain_se": float("nan")}
    heads = [dataclasses.replace(score, **unknown) for score in sample.heads]
    figure = r2_map(dataclasses.replace(sample, heads=heads), "key")
    words, markers = traces(figure, "scatter")
    assert all(text.endswith(" ?") for text in words.text)
    assert all("nan" not in text for text in markers.text)


def test_below_zero_a_map_without_numbers_has_a_minus_and_v_differs_from_k_without_colour(sample):
    """As it is printed in grey."""
    student = sample.student | {"layers": 20, "kv_layers": list(range(20))}
    heads = [
        dataclasses.replace(sample.score("key", 3, 0), layer=layer, head=head, r2=(-0.2 if layer == 7 else 0.5))
        for layer in range(20)
        for head in range(2)
    ]
    figure = r2_map(dataclasses.replace(sample, heads=heads, student=student), "key")
    minus = {
        (trace.y[i], words)
        for trace in traces(figure, "scatter")
        if trace.mode == "text"
        for i, words in enumerate(trace.text)
        if "−" in words
    }
    assert minus == {("7", "−")}
    k, v = mean_sources(sample, 300).data
    assert k.marker.pattern.shape != v.marker.pattern.shape
    k, v = [trace for trace in timeline(sample, 0, "floor").data if trace.name in ("K R²", "V R²")]
    assert (k.line.dash, v.line.dash) == ("solid", "dash")


@pytest.mark.parametrize("rule", ["exact", "floor", "ceil", "nearest"])
def test_every_covered_token_is_linked_once_in_the_colour_of_its_lag(sample, rule):
    figure = timeline(sample, 1, rule)
    words = {words: (low, high) for low, (high, _, words) in zip((-(10**9), -1, 0, 2, 5), LAG_BINS)}
    lag = sample.arrays[f"document.1.lag.{rule}"]
    linked = 0
    for trace in figure.data:
        if trace.name in words:
            low, high = words[trace.name]
            count = sum(1 for x in trace.x if x is None)
            assert count == int(((lag > low) & (lag <= high)).sum())
            linked += count
    assert linked == int((~np.isnan(lag)).sum()) > 0


def test_the_parts_of_a_document_are_shaded_and_named(sample):
    figure = timeline(sample, 0, "floor", (100, 179))
    document = sample.inspected[0]
    bands = {(shape.x0, shape.x1, shape.yref) for shape in figure.layout.shapes}
    rows = ("y domain", "y2 domain")
    assert bands == {(start, end, row) for _, start, end in document.segments for row in rows}
    names = {note.text: note.x for note in figure.layout.annotations}
    assert names == {"prompt": 100, "reasoning": 155, "answer": 169}  # the first begins left of the window
    whole = dataclasses.replace(document, segments=[])
    plain = dataclasses.replace(sample, inspected=[whole, *sample.inspected[1:]])
    assert not timeline(plain, 0, "floor").layout.shapes


def test_heads_that_a_layer_lacks_are_no_part_of_the_mean_error(sample):
    arrays = dict(sample.arrays)
    error = arrays["document.0.error.key"].copy()
    error[1:, 1] = np.nan
    arrays["document.0.error.key"] = error
    figure = timeline(dataclasses.replace(sample, arrays=arrays), 0, "floor")
    drawn = next(trace for trace in figure.data if trace.name == "K R²")
    covered = error[..., ~np.isnan(error).all((0, 1))]
    np.testing.assert_allclose(drawn.y, np.maximum(1 - np.nanmean(covered, axis=(0, 1)), -1), rtol=1e-6)


def test_every_source_has_a_bar_of_its_own(sample):
    score = dataclasses.replace(by_class(sample).score("key", 3, 0), n_control=999)
    bars = controls(score).data[0]
    names = [name.split("  ")[0] for name in bars.y]
    assert names == [
        *("teacher", "teacher, exact tokens", "teacher, tokens inside", "teacher + own token"),
        *("student’s own tokens", "teacher’s token", "random weights", "group mean", "shuffled rows", "train mean"),
    ]
    assert bars.x[:5] == pytest.approx((0.74, 0.76, 0.69, 0.86, 0.73))
    assert bars.error_x.array[1:5] == (0.006, 0.008, 0.003, 0.005)
    n = {name: row[2] for name, row in zip(names, bars.customdata)}
    assert (n["teacher, exact tokens"], n["teacher, tokens inside"]) == ("12,007", "5,000")
    assert (n["student’s own tokens"], n["random weights"]) == ("17,007", "999")
    assert len(set(bars.marker.color[4:])) == 1 and bars.marker.color[4] not in bars.marker.color[:4]  # controls: grey
    under_the_pointer = hover(score).split("<br>")
    for line in (
        *("exact tokens R² 0.760, n = 12,007", "inside a teacher token R² 0.690, n = 5,000"),
        *("teacher + own token R² 0.860", "student’s own tokens, no teacher R² 0.730"),
        "the teacher adds +0.130 ± 0.004 to them",
    ):
        assert line in under_the_pointer


def test_student_tokens_are_coloured_by_class_with_a_legend(sample):
    result = by_class(sample)
    figure = timeline(result, 1, "floor")
    classes, tokens = result.row_class(1), result.inspected[1].student_tokens
    legend = {trace.name: trace for trace in figure.data if trace.showlegend}
    for row_class, name in enumerate(("student token, exact", "student token, inside a teacher token")):
        ends = {t.end for t, of in zip(tokens, classes) if of == row_class and t.end > t.start}
        assert ends and set(legend[name].x[2::6]) == ends
    exact, inside = (legend[name].line for name in legend)
    assert exact.color != inside.color and exact.dash != inside.dash  # not told apart by colour alone
    for other in (
        of_one_map(sample),
        dataclasses.replace(result, settings=result.settings | {"rows": "exact"}),
        dataclasses.replace(result, settings=result.settings | {"time": "nearest"}),
    ):
        assert "student token" in {trace.name for trace in timeline(other, 1, "floor").data}


def test_all_controls_stand_beside_the_teacher_with_their_errors(sample):
    sample = of_one_map(sample)
    score = dataclasses.replace(sample.score("key", 3, 0), n_control=999)
    bars = controls(score).data[0]
    r2 = (score.r2, score.r2_identity, score.r2_random, score.r2_group_mean, score.r2_shuffled, 0.0)
    assert bars.x == pytest.approx(r2)
    assert bars.error_x.array == (score.se, score.identity_se, score.random_se, None, score.shuffled_se, None)
    assert [row[2] for row in bars.customdata] == [f"{score.n:,}"] * 2 + ["999", f"{score.n:,}", "999", f"{score.n:,}"]
    assert f"{score.r2:.3f}</b> ± {score.se:.3f}" in bars.y[0]


def test_a_control_that_was_not_measured_is_not_drawn_and_a_deep_one_is_cut(sample):
    nan = float("nan")
    bars = controls(dataclasses.replace(of_one_map(sample).heads[0], r2_random=nan, r2_group_mean=-7.0)).data[0]
    assert len(bars.x) == 5 and min(bars.x) == -1.0
    assert any("−7.000" in name for name in bars.y)


def test_index_maps_draw_every_rule(sample):
    figure = index_maps(sample, 0)
    names = [trace.name for trace in figure.data]
    assert names == list(MAPS)
    floor = sample.arrays["document.0.index.floor"]
    line, document = figure.data[names.index("floor")], sample.inspected[0]
    drawn = np.array([np.nan if y is None else y for y in line.y], dtype=float)
    teacher, student = len(document.teacher_tokens) - 1, len(document.student_tokens) - 1
    even = [step * teacher / student for step in range(student + 1)]
    np.testing.assert_allclose(drawn + even, floor)
    np.testing.assert_array_equal(np.array(line.customdata, dtype=float), floor)


def test_every_axis_says_what_it_shows(sample):
    score = sample.heads[0]
    figures = [
        r2_map(sample, "key"),
        contributions(sample, "key", 0, 0),
        token_scores(sample, 0, "key", 0, 0),
        index_maps(sample, 0),
    ]
    for figure in figures:
        assert figure.layout.xaxis.title.text and figure.layout.yaxis.title.text
    assert "R²" in controls(score).layout.xaxis.title.text


def test_report_holds_every_number_and_escapes_names_and_texts(sample):
    hostile = dataclasses.replace(
        sample,
        teacher=sample.teacher | {"name": "<script>alert(1)</script>"},
        notes=["<img src=x onerror=alert(1)>"],
        prompts="<b>mine</b>",
    )
    page = html(hostile)
    assert "<script>alert(1)" not in page and "<img src=x" not in page and "<b>mine</b>" not in page
    assert "&lt;script&gt;alert(1)" in page
    for score in sample.heads:
        assert f"{score.r2:.4f}".rstrip("0") in page
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?:', page)  # nothing is fetched
    assert f"{sample.data['rows_scored']:,} student tokens" in page


def test_a_negative_zero_is_not_shown():
    assert results_words.whole(-0.001) == "0%" and results_words.whole(0.394) == "39%"


def test_the_headline_says_what_cannot_be_told(sample):
    """Two standard errors, of the mean over heads: on K above them, on V within."""
    heads = [
        dataclasses.replace(score, added=0.05, added_se=0.024 if score.kind == "key" else 0.026)
        for score in sample.heads
    ]
    words = sentence(dataclasses.replace(sample, heads=heads))
    assert "Whether it adds anything to V cannot be told" in words
    assert "cannot be told" not in sentence(sample)
