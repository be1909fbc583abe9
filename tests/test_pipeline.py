"""The whole path on tiny random models: identity, null, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from kvlab import results
from kvlab.align.pipeline import align
from kvlab.errors import AlignError, Cancelled
from kvlab.models import load
from kvlab.request import AlignSettings
from kvlab.types import Document
from tests.tiny import TEXT, tiny_model

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("pipeline")]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    tiny_model("qwen2", folder, seed=1)
    return load(str(folder), "cpu", "float32")


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    tiny_model("llama", folder, seed=2, tokenizer_style="sentencepiece", num_hidden_layers=2)
    return load(str(folder), "cpu", "float32")


@pytest.fixture(scope="module")
def documents():
    """Sixty documents of words in random order: enough rows for 32 features."""
    words, rng = TEXT.split(), np.random.default_rng(0)
    return [Document(f"d{i}", " ".join(rng.choice(words, 30))) for i in range(60)]


@pytest.fixture(scope="module")
def aligned(teacher, student, documents):
    return align(teacher, student, documents, AlignSettings(inspect=3))[0]


def test_a_model_explains_itself(student, documents):
    own, _ = align(student, student, documents)
    assert own.table()["error"].max() < 1e-6
    assert own.timeline["rules"]["floor"]["exact_rate"] == 1
    assert own.layer_map["teacher_layers"] == [[0], [1]]


def test_shuffled_rows_explain_nothing(aligned):
    assert aligned.data["rows_per_feature"] > 20
    assert aligned.table()["r2_shuffled"].abs().max() < 0.05


def test_every_head_is_scored_on_the_same_tokens_and_controls_hold(aligned, student):
    table = aligned.table()
    assert len(table) == 2 * 2 * student.geometry.kv_heads
    assert set(table["n"]) == {aligned.data["rows_scored"]}
    np.testing.assert_allclose(table["error"], 1 - table["r2"])
    np.testing.assert_allclose(table["gain"], table["r2"] - table["r2_identity"])


def test_token_errors_of_all_inspected_tokens_average_to_the_head_error(teacher, student, documents):
    everything, _ = align(teacher, student, documents, AlignSettings(inspect=len(documents)))
    for kind in ("key", "value"):
        for layer in (0, 1):
            for head in range(student.geometry.kv_heads):
                of_tokens = np.concatenate(
                    [
                        everything.arrays[f"document.{i}.error.{kind}"][layer, head][np.array(d.scored)]
                        for i, d in enumerate(everything.inspected)
                    ]
                )
                score = everything.score(kind, layer, head)
                assert len(of_tokens) == score.n
                assert of_tokens.mean() == pytest.approx(score.error, rel=1e-4)


def test_result_survives_the_disk(aligned, tmp_path):
    results.write(aligned, tmp_path)
    read = results.read(tmp_path)
    assert read.to_dict() == results.plain(aligned.to_dict())
    assert all(np.array_equal(read.arrays[k], v, equal_nan=True) for k, v in aligned.arrays.items())
    header = (tmp_path / "heads.csv").read_text().splitlines()[0]
    assert header == "kind,layer,head,r2,error,cosine,r2_shuffled,r2_identity,n"


def test_a_broken_result_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "alignment.json").write_text("{")
    with pytest.raises(AlignError, match="run the analysis again"):
        results.read(tmp_path)


def test_the_saved_map_reproduces_a_linear_student(teacher, documents):
    own, maps = align(teacher, teacher, documents)
    for weight, bias in zip(maps["key"].weights, maps["key"].biases, strict=True):
        # Only directions that the keys really use are determined; the identity is one such map.
        assert weight.shape == (32, 32) and bias.shape == (32,)
    assert own.mean("key", "r2") > 1 - 1e-6


@pytest.mark.parametrize("projector", ["structured", "group-mean"])
def test_weaker_projectors_score_lower_and_share_the_controls(teacher, student, documents, aligned, projector):
    other, _ = align(teacher, student, documents, AlignSettings(projector=projector, inspect=0))
    assert other.mean("value", "r2") < aligned.mean("value", "r2")
    np.testing.assert_allclose(other.table()["r2_shuffled"], aligned.table()["r2_shuffled"], atol=1e-9)
    np.testing.assert_allclose(other.table()["r2_identity"], aligned.table()["r2_identity"], atol=1e-9)


def test_rules_are_noted_when_blind_or_looking_ahead(teacher, student, documents):
    for rule, word in (("nearest", "does not look at the text"), ("ceil", "looks ahead")):
        other, _ = align(teacher, student, documents[:5], AlignSettings(time=rule, inspect=0))
        assert any(word in note for note in other.notes)
        assert any("rows per feature" in note for note in other.notes)


def test_prompts_are_scored_and_calibration_is_only_fitted_on(teacher, student, documents):
    mine, others = documents[:1], documents[1:]
    result, _ = align(teacher, student, mine, calibration=others)
    assert (result.data["documents"], result.data["calibration_documents"]) == (1, 59)
    assert result.data["rows_scored"] < 200 < result.data["rows_fit"]
    assert [d.id for d in result.inspected] == ["d0"]
    assert result.table()["se"].isna().all()  # one fold is scored: no standard error


def test_one_document_cannot_be_held_out(teacher, student, documents):
    with pytest.raises(AlignError, match=r"at least two documents.*calibration samples"):
        align(teacher, student, documents[:1])
    with pytest.raises(AlignError, match="at least one prompt"):
        align(teacher, student, [])


def test_prompts_too_short_to_score_are_refused(teacher, student):
    with pytest.raises(AlignError, match="tokens after the first 4"):
        align(teacher, student, [Document(str(i), f"boat{i}") for i in range(3)])


def test_not_a_number_in_a_cache_names_layer_and_head(student, documents):
    broken = load(student.name, "cpu", "float32")
    with torch.no_grad():
        broken.model.model.layers[1].self_attn.v_proj.weight[20] = float("nan")
    with pytest.raises(AlignError, match="values of layer 1, KV head 1"):
        align(student, broken, documents[:4])


def test_long_documents_are_cut_and_it_is_said(teacher, student, documents):
    result, _ = align(teacher, student, documents[:6], AlignSettings(max_tokens=20))
    assert any("6 of 6 documents were longer" in note for note in result.notes)
    for document in result.inspected:
        assert len(document.student_tokens) <= 20 and len(document.teacher_tokens) <= 20
        assert document.teacher_tokens[-1].end <= document.student_tokens[-1].end + 20


def test_progress_can_cancel(teacher, student, documents):
    def cancel(stage, done, total):
        if stage == "reading caches" and done:
            raise Cancelled

    with pytest.raises(Cancelled):
        align(teacher, student, documents, progress=cancel)


def test_batching_does_not_change_the_result(teacher, student, documents, aligned):
    small, _ = align(teacher, student, documents, AlignSettings(batch_tokens=1, inspect=0))
    np.testing.assert_allclose(small.table()["r2"], aligned.table()["r2"], atol=1e-5)


def test_settings_are_stored_as_given(aligned):
    assert aligned.settings == AlignSettings(inspect=3).model_dump()
    assert dataclasses.asdict(aligned.heads[0])["kind"] == "key"
