"""Layer matrices carry the result's numbers, at the place where the models number their layers."""

from dataclasses import replace

import numpy as np
import pytest

from kvlab.host.bundled import ANALYSIS
from kvlab.results.alignment import layers
from kvlab.results.alignment.data import read
from kvlab.results.alignment.layers import (
    MATRICES,
    ceiling_sentence,
    chosen_table,
    layer_pairs,
    layer_sentence,
    layers_sentence,
    similarity,
)
from kvlab.results.architecture import architectures
from kvlab.shapes import Geometry
from tests.finished import with_gaps


@pytest.fixture(scope="module")
def sample():
    return read(ANALYSIS)


def drawn(figure):
    return np.array([[np.nan if v is None else v for v in row] for row in figure.data[0].z], dtype=float)


@pytest.mark.parametrize("kind", ["key", "value"])
@pytest.mark.parametrize("name", MATRICES)
def test_matrices_are_the_arrays(sample, kind, name):
    figure = similarity(sample, kind, name)
    np.testing.assert_allclose(drawn(figure), sample.arrays[f"similarity.{kind}.{name}"], rtol=1e-6)
    assert figure.layout.xaxis.title.text == ("student layer" if name == "own" else "teacher layer")
    assert figure.layout.yaxis.title.text == "student layer"


def test_layers_without_a_cache_are_gaps(sample):
    gapped = with_gaps(sample)
    values = drawn(similarity(gapped, "key", "cka"))
    assert values.shape == (4, 9) and np.isnan(values[:, [2, 5, 8]]).all()
    np.testing.assert_allclose(values[:, gapped.teacher["kv_layers"]], sample.arrays["similarity.key.cka"], rtol=1e-6)


def boxes(figure):
    """The middles (student layer, teacher layer) of the outlined cells."""
    x, y = (
        np.array([np.nan if v is None else v for v in axis], dtype=float)
        for axis in (figure.data[-1].x, figure.data[-1].y)
    )
    return {(round(y[i : i + 4].mean()), round(x[i : i + 4].mean())) for i in range(0, len(x), 6)}


def test_the_chosen_layers_are_outlined(sample):
    for alignment in (sample, with_gaps(sample)):
        for kind in ("key", "value"):
            wanted = {(s, t) for s, teachers in layers.chosen(alignment, kind).items() for t in teachers}
            assert boxes(similarity(alignment, kind, "cka")) == wanted


@pytest.mark.parametrize("changed", [lambda sample: sample, with_gaps])
def test_the_graph_joins_the_chosen_layers_and_is_wider_where_more_is_explained(sample, changed):
    alignment = changed(sample)
    figure = layers.graph(alignment)
    for axis, kind in (("x", "key"), ("x2", "value")):
        traces = [trace for trace in figure.data if trace.xaxis == axis]
        ends = {}  # (height of the teacher layer, of the student layer) -> width
        for trace in (t for t in traces if t.mode == "lines"):
            ends |= {(trace.y[i], trace.y[i + 1]): trace.line.width for i in range(0, len(trace.y), 3)}
        heights = [alignment.teacher["layers"] - 1, alignment.student["layers"] - 1]
        wanted = {
            (t / heights[0], s / heights[1]): (s, t) for s, ts in layers.chosen(alignment, kind).items() for t in ts
        }
        assert set(ends) == set(wanted)
        r2 = {at: _r2(alignment, kind, *layer) for at, layer in wanted.items()}
        known = sorted((r2[at], width) for at, width in ends.items() if not np.isnan(r2[at]))
        assert [width for _, width in known] == sorted(width for _, width in known)
        named = [t for t in traces if t.mode == "markers+text"]
        assert [list(map(int, trace.text)) for trace in named] == [
            list(alignment.teacher["kv_layers"]),
            list(alignment.student["kv_layers"]),
        ]


def _r2(alignment, kind, student, teacher):
    place = alignment.student["kv_layers"].index(student), alignment.teacher["kv_layers"].index(teacher)
    return float(alignment.arrays[f"similarity.{kind}.r2"][place])


def test_the_caches_of_both_models_are_drawn_to_one_scale(sample):
    """A block per layer, KV head and part, as wide as its channels; a layer without a cache has none."""
    gapped = with_gaps(sample)
    models = [Geometry.from_dict(fields) for fields in (gapped.teacher, gapped.student)]
    figure = architectures(models)
    for model, bars in zip(models, figure.data, strict=True):
        widths = [width for heads, *parts in model.layer_shapes for _ in range(heads) for width in parts]
        assert [round(width / 0.88) for width in bars.width] == widths
        assert sorted({round(base + 0.41 - 0.5) for base in bars.base}) == list(model.kv_layers)
    assert len(figure.layout.shapes) == 3  # layers of the teacher without a cache
    assert max(figure.data[0].x) < min(figure.data[1].x)
    assert "6 layers × 12 KV heads of K 16, V 16" in figure.layout.annotations[0].text


def test_k_and_v_share_one_range_of_r2_and_cka_is_always_of_one(sample):
    ranges = {(f.data[0].zmin, f.data[0].zmax) for f in (similarity(sample, k, "r2") for k in ("key", "value"))}
    ((low, high),) = ranges
    both = np.concatenate([sample.arrays[f"similarity.{k}.r2"].ravel() for k in ("key", "value")])
    assert low <= np.nanmin(both) and np.nanmax(both) <= high
    assert similarity(sample, "key", "own").data[0].zmax == 1.0


def test_sixty_four_layers_are_drawn_without_numbers_and_with_few_labels(sample):
    model = sample.student | {"layers": 64, "kv_layers": list(range(64))}
    arrays = {f"similarity.key.{name}": np.zeros((64, 64), np.float32) for name in MATRICES}
    chosen = {kind: [[layer] for layer in range(64)] for kind in ("key", "value")}
    big = replace(
        sample, teacher=model, student=model, arrays=arrays, layer_map=sample.layer_map | {"teacher_layers": chosen}
    )
    figure = similarity(big, "key", "cka")
    assert not [trace for trace in figure.data if getattr(trace, "mode", "") == "text"]
    assert figure.layout.xaxis.dtick == 4 and figure.layout.height <= 640


def test_a_rule_that_searched_nothing_says_so(sample):
    arrays = {name: array for name, array in sample.arrays.items() if not name.endswith(".r2")}
    depth = replace(sample, arrays=arrays, layer_map=sample.layer_map | {"rule": "depth"})
    assert "proportional depth alone" in layers_sentence(depth)
    assert "R²" not in layer_sentence(depth, 2)
    assert chosen_table(depth)["R² of it"].isna().all()
    assert layer_pairs(depth)["R² alone"].isna().all()


def test_sentences_say_the_layers_and_their_best_single_one(sample):
    said = layer_sentence(sample, 2)
    best = float(np.nanmax(sample.arrays["similarity.key.r2"][2]))
    assert f"K from teacher layers {chosen_table(sample).iloc[2]['teacher layers']}" in said
    assert f"the best alone: {best:.2f}" in said
    assert f"{sample.layer_map['rows']:,} student tokens" in layers_sentence(sample)
    assert "shuffled rows reach at most" in ceiling_sentence(sample, "value")
    pairs = layer_pairs(sample)
    assert len(pairs) == 2 * 4 * 6 and pairs["chosen"].sum() == sum(
        len(teachers) for kind in ("key", "value") for teachers in layers.chosen(sample, kind).values()
    )


def test_a_student_of_one_layer_has_a_range(sample):
    arrays = {f"similarity.{kind}.r2": np.full((1, 6), np.nan, np.float32) for kind in ("key", "value")}
    assert layers._r2_range(replace(sample, arrays=arrays)) == (0.0, 1.0)
