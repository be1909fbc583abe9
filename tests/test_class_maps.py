"""The maps by class of row that are handed on: the same in an analysis, a functional test and a training run."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from kvlab.align.batches import read
from kvlab.align.class_maps import ClassMaps
from kvlab.align.fold_sums import FIT_AND_SCORE
from kvlab.align.items import Reader
from kvlab.align.pipeline import align
from kvlab.inject.fit import fit
from kvlab.inject.split import Split
from kvlab.models.loading import load
from kvlab.request.align import AlignSettings
from kvlab.shapes import KINDS, Document, no_progress
from kvlab.train import maps as training
from tests.tiny import TEXT, tiny_model


def made(classes=((0,), (1,))):
    g = torch.Generator().manual_seed(0)
    weights, biases, means = ([torch.randn(*shape, generator=g) for _ in classes] for shape in ((5, 4), (4,), (4,)))
    return ClassMaps(list(classes), weights, biases, means)


@pytest.mark.parametrize("classes", [((0,), (1,)), ((0, 1),), ((1,),), (None,)])
def test_a_run_projects_each_row_by_the_map_of_its_class(classes):
    maps, x = made(classes), torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    row_classes = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1, 1])
    torch.testing.assert_close(training.Affine.of(maps)(x, row_classes), maps.predict(x, row_classes))


def fitted(module):
    problem = "key", 0
    numbers = {problem: 1.0}
    return training.Fitted({problem: (0,)}, {problem: module}, numbers, numbers, numbers, rows=9)


def test_maps_are_read_back_and_those_of_before_there_were_classes_are_one_for_all(tmp_path):
    maps, path = made(), tmp_path / "maps.safetensors"
    x, row_classes = torch.randn(6, 5), torch.tensor([0, 1, 0, 1, 1, 0])
    training.save([fitted(training.Affine.of(maps))], path)
    (again,) = training.load(path, [None], None)
    torch.testing.assert_close(again.maps["key", 0](x, row_classes), maps.predict(x, row_classes))
    with training.safe_open(path, framework="pt") as file:
        facts = file.metadata()
    tensors = load_file(path)
    old = {name: tensor[0].clone() for name, tensor in tensors.items() if not name.endswith("places")}
    save_file(old, path, metadata=facts)
    (of_old,) = training.load(path, [None], None)
    expected = x @ maps.weights[0] + maps.biases[0]
    torch.testing.assert_close(of_old.maps["key", 0](x, row_classes), expected)


@pytest.mark.model
@pytest.mark.parametrize("row_weights", ["equal", "attention"])
@pytest.mark.parametrize("rows", ["by-class", "exact"])
def test_the_same_settings_on_the_same_documents_give_the_same_maps_everywhere(tmp_path, rows, row_weights):
    tiny_model("qwen2", tmp_path / "teacher", seed=1)
    tiny_model("llama", tmp_path / "student", seed=2, tokenizer_style="sentencepiece", num_hidden_layers=2)
    teacher, student = (load(str(tmp_path / role), "cpu", "float32") for role in ("teacher", "student"))
    settings = AlignSettings(folds=4, inspect=0, random_teacher=False, rows=rows, row_weights=row_weights)
    words, rng = TEXT.split(), np.random.default_rng(0)
    documents = [Document(f"d{i}", " ".join(rng.choice(words, 30))) for i in range(24)]
    _, aligned = align(teacher, student, documents, settings)
    (items,) = Reader([teacher], student, documents, (), settings).windows()
    assert set(Counter(item.fold for item in items).values()) == {6}
    by_fold = [[item for item in items if item.fold == fold] for fold in range(4)]
    in_turn = [item for turn in zip(*by_fold) for item in turn]  # a run gives the folds out in turn
    (of_run,) = training.fit([teacher], student, in_turn, "ridge", settings, no_progress)
    of_test = fit([teacher], [], student, Split(in_turn, [], 4), settings, no_progress)
    for kind, layer in product(KINDS, range(len(student.geometry.kv_layers))):
        analysis, (test,) = aligned[kind].layers[layer], of_test.sources["projected"].maps[kind, layer]
        run = of_run.maps[kind, layer]
        assert of_run.layers[kind, layer] == of_test.layers[0][kind, layer]
        assert len(analysis.weights) == len(test.weights) == len(run.weight) == (2 if rows == "by-class" else 1)
        for number, weight in enumerate(analysis.weights):
            size = float(weight.abs().max())
            torch.testing.assert_close(test.weights[number], weight, rtol=0, atol=1e-6 * size)
            torch.testing.assert_close(run.weight[number], weight, rtol=0, atol=1e-6 * size)
            torch.testing.assert_close(test.biases[number], analysis.biases[number], rtol=0, atol=1e-5)
            torch.testing.assert_close(run.bias[number], analysis.biases[number], rtol=0, atol=1e-5)
        if rows == "by-class":  # what is known of the student before training is of all rows alike
            y, predicted = _rows(teacher, student, in_turn, settings, kind, layer, run, of_run.layers[kind, layer])
            assert of_run.variance[kind, layer] == pytest.approx(float(y.var(0, unbiased=False).mean()), rel=1e-5)
            assert of_run.scale[kind, layer] == pytest.approx(
                float(predicted.var(0, unbiased=False).mean()) ** 0.5, rel=1e-5
            )


def _rows(teacher, student, items, settings, kind, layer, run, layers):
    """The student's rows [N, Q] that are fitted, and what a run's map makes of them."""
    found = []
    for item in items:
        (rows,) = read([teacher], student, [item], settings).teachers
        for part in rows.parts:
            if part.use == FIT_AND_SCORE.use:
                x, y = rows.side_by_side(kind, layers, part), rows.y(kind, layer, part)
                found.append((y, run(x, torch.full((len(x),), part.row_class))))
    return (torch.cat(pieces).double() for pieces in zip(*found))


@pytest.mark.model
def test_weights_of_attention_give_another_map_and_scores_of_the_same_rows(tmp_path):
    tiny_model("qwen2", tmp_path / "teacher", seed=1, num_hidden_layers=2)
    tiny_model("llama", tmp_path / "student", seed=2, tokenizer_style="sentencepiece", num_hidden_layers=2)
    teacher, student = (load(str(tmp_path / role), "cpu", "float32") for role in ("teacher", "student"))
    words, rng = TEXT.split(), np.random.default_rng(0)
    documents = [Document(f"d{i}", " ".join(rng.choice(words, 20))) for i in range(16)]
    plain = AlignSettings(folds=3, inspect=1, layers="depth", seed=1)
    (equal, maps), (weighted, other) = (
        align(teacher, student, documents, plain.model_copy(update={"row_weights": by}))
        for by in ("equal", "attention")
    )
    same = ("rows_fit", "rows_scored", "documents", "student_tokens")
    assert {name: equal.data[name] for name in same} == {name: weighted.data[name] for name in same}
    for one, two in zip(equal.heads, weighted.heads, strict=True):
        assert (one.n, one.n_control, one.n_inside) == (two.n, two.n_control, two.n_inside)
        for name in ("r2", "r2_own", "r2_random", "r2_shuffled", "r2_identity"):
            assert getattr(one, name) != getattr(two, name) and np.isfinite(getattr(two, name))
        assert abs(one.r2_group_mean - two.r2_group_mean) < 1.0
    assert not torch.equal(maps["key"].layers[0].weights[0], other["key"].layers[0].weights[0])
    torch.testing.assert_close(maps["key"].layers[0].means[0], other["key"].layers[0].means[0])
    said = [str(note) for note in weighted.notes]
    assert any("weighted by the attention" in note for note in said)
    assert not any("weighted by the attention" in str(note) for note in equal.notes)
