"""A map as a file, and a text handed over with it: the cache of the functional test, without the student's prefill."""

import subprocess
import sys

import pytest
import torch

from kvlab import PROJECT, load_map
from kvlab.align import run as align_run
from kvlab.align.pipeline import align_several
from kvlab.errors import AlignError, ModelError
from kvlab.inject import run
from kvlab.inject.continuation import prefix_cache
from kvlab.inject.handoff import Handover, first_layers, fit_of, handoff, map_file
from kvlab.inject.map_file import MapFile
from kvlab.inject.own import read_own
from kvlab.inject.prefix import inputs_of, prefix_of, read_document
from kvlab.inject.texts import greedy
from kvlab.models.capture import capture
from kvlab.models.dry import rotations
from kvlab.models.identity import fingerprint, identity
from kvlab.models.loading import ModelCache, load, random_like
from kvlab.request import prompts
from kvlab.request.align import AlignSettings
from kvlab.request.inject import InjectionRequest, InjectSettings
from kvlab.shapes import KINDS, Document
from tests import handed
from tests.handed import fitted, generated, stored
from tests.spoken import spoken
from tests.tiny import TEXT, tiny_loaded, tiny_model, tiny_tokens

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("handoff")]
# Half and interleaved layouts, parts of a head, windows, several bases, learned positions, experts.
STUDENTS = ("llama", "qwen3", "mistral", "gemma3_text", "gptj", "gpt_neox", "cohere", "stablelm", "gpt2", "mixtral")
NEAR = 2e-5  # of rows that the student reads itself: in another order than in one forward


def injected(models, found, item, source):
    """The cache of the functional test, of all tokens but the last, and which it replaced."""
    reading, cut = read_document(models, item), len(item.student) - 1
    prefix = prefix_of(models, found, reading, cut)
    replaced = torch.zeros(cut, dtype=torch.bool)
    replaced[prefix.rows] = True
    return prefix_cache(models.student, reading.own, cut, prefix.rows, [prefix.variant(source)]), replaced


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A fit of the demo pair, and its map, saved and read again."""
    models, found, judged, written = handed.demo()
    path = tmp_path_factory.mktemp("map") / "map.safetensors"
    written.save(path)
    return models, found, judged, load_map(path.parent)


@pytest.mark.parametrize("source", ["projected", "with-own-token", "own-tokens"])
def test_a_text_handed_over_has_the_cache_of_the_functional_test(demo, source):
    models, found, judged, written = demo
    assert written.manifest["documents"] == 30 and written.sources == ["projected", "with-own-token", "own-tokens"]
    for item in judged:
        expected, replaced = injected(models, found, item, source)
        cache = written.handoff(models.teachers[0], models.student, item.document.text, source=source)
        assert cache.approximate and cache.map_id == written.id == written.manifest["id"]
        assert torch.equal(cache.replaced, replaced) and replaced.float().mean() > 0.8
        assert cache.input_ids[0].tolist() == item.student.ids.tolist()
        for mine, theirs in zip(stored(cache, models.student), stored(expected, models.student), strict=True):
            assert torch.equal(mine[:, :, replaced], theirs[:, :, replaced])  # to the last bit
            assert (mine - theirs).abs().max() < NEAR


def test_what_is_left_to_the_student_is_its_own(demo):
    models, _, judged, written = demo
    teacher, student, text = models.teachers[0], models.student, judged[0].document.text
    own = read_own(student, judged[0].student, pre_rope=True)
    cut = len(own.tokens) - 1
    for count in (1, 3, 4):
        for problem, x in first_layers(student, own.ids[:, :cut], count).items():
            assert problem[1] < count and (x - own.stored[problem][:, :cut]).abs().max() < NEAR
    cache = handoff(written, teacher, student, text, own_layers=2, read_last=5)
    assert not cache.replaced[-5:].any() and cache.replaced[:-5].any() and cache.get_seq_length() == cut
    for position, layer in enumerate(student.geometry.kv_layers[:2]):
        for kind, x in zip(KINDS, (cache.layers[layer].keys, cache.layers[layer].values), strict=True):
            assert (x[0] - own.stored[kind, position][:, :cut]).abs().max() < NEAR
    # Everything left to the student is the student.
    whole = handoff(written, teacher, student, text, own_layers=4)
    alone = handoff(written, teacher, student, text, read_last=cut)
    assert not alone.replaced.any() and not alone.approximate
    for cache in (whole, alone):
        for position, layer in enumerate(student.geometry.kv_layers):
            assert (cache.layers[layer].keys[0] - own.stored["key", position][:, :cut]).abs().max() < NEAR


def test_a_student_generates_from_a_cache_handed_over(demo):
    models, found, judged, written = demo
    student = models.student
    for item in judged:
        cache = handoff(written, models.teachers[0], student, item.document.text, source="projected")
        expected, _ = injected(models, found, item, "projected")
        last = cache.input_ids[:, -1:]
        (ended,) = generated(student, cache, 8)
        (by_hand,) = greedy(student, expected, last, 8)
        assert ended[: len(by_hand)] == by_hand


@pytest.mark.parametrize("architecture", STUDENTS)
def test_every_architecture_is_handed_a_text(architecture, tmp_path):
    teacher = load(tiny_model("qwen3", tmp_path / "teacher", seed=1, num_hidden_layers=2))
    student = load(tiny_model(architecture, tmp_path / "student", seed=2))
    words = TEXT.split()
    documents = [Document(str(n), " ".join(words[n : n + 25])) for n in range(0, 60, 5)]
    settings = AlignSettings(random_teacher=False, layers="depth", folds=2, sinks=2)
    models, found, judged = fitted(teacher, student, documents, settings)
    written = map_file(found, [teacher], student, settings)
    item = judged[0]
    own = read_own(student, item.student, pre_rope=True)
    turns = rotations(student, own.ids)
    assert turns.keys() == own.rotations.keys()
    for problem, turn in own.rotations.items():
        assert torch.equal(turns[problem].cos, turn.cos) and torch.equal(turns[problem].sin, turn.sin)
    expected, replaced = injected(models, found, item, "projected")
    cache = handoff(written, teacher, student, item.document.text, source="projected")
    assert torch.equal(cache.replaced, replaced)
    for mine, theirs in zip(stored(cache, student), stored(expected, student), strict=True):
        assert torch.equal(mine[:, :, replaced], theirs[:, :, replaced])
        assert (mine - theirs).abs().max() < NEAR * max(1.0, theirs.abs().max().item())
    last = cache.input_ids[:, -1:]
    assert greedy(student, cache, last, 6) == greedy(student, expected, last, 6)


def test_a_functional_test_writes_the_map_that_it_judged(tmp_path):
    settings = AlignSettings(random_teacher=False, layers="depth", folds=2)
    few = InjectSettings(documents=3, swap_layers=0, texts=0, curve=(), hybrid=False)
    names = {"teacher": "demo/teacher", "student": "demo/student", "calibration": "none"}
    request = InjectionRequest(**names, settings=settings, injection=few)
    models = ModelCache()
    result = run.compute(request, prompts.samples()[:12], models, folder=tmp_path)
    written = load_map(tmp_path)
    scores = {row["variant"]: row["kl"] for row in written.manifest["scores"]}
    assert scores["projected"] == result.score("projected").kl
    assert written.manifest["data"]["documents_fitted"] == result.data["documents_fitted"]
    assert written.manifest["settings"] == settings.model_dump(mode="json")
    assert [path.name for path in tmp_path.iterdir()] == ["map.safetensors"]
    cache = written.handoff(models.get("demo/teacher"), models.get("demo/student"), "Tom has 3 apples and buys 4 more.")
    assert cache.approximate and cache.get_seq_length() == cache.input_ids.shape[1] - 1


def test_a_map_that_cannot_be_written_takes_nothing_from_the_test(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MapFile, "save", full)
    few = InjectSettings(documents=2, swap_layers=0, texts=0, curve=(), hybrid=False)
    settings = AlignSettings(random_teacher=False, layers="depth", folds=2)
    names = {"teacher": "demo/teacher", "student": "demo/student", "calibration": "none"}
    request = InjectionRequest(**names, settings=settings, injection=few)
    result = run.compute(request, prompts.samples()[:8], ModelCache(), folder=tmp_path)
    assert result.reproduces and result.injected and "the map could not be written" in caplog.text


def test_another_model_is_refused_and_what_differs_is_named(demo, tmp_path):
    models, _, judged, written = demo
    other = load(tiny_model("llama", tmp_path / "other", seed=3))
    with pytest.raises(ModelError) as refused:
        handoff(written, models.teachers[0], other, judged[0].document.text)
    found = spoken(refused.value)["found"]
    assert refused.value.kind == "map-mismatch" and "hidden_size 64 instead of 128" in found
    with pytest.raises(ModelError, match="teacher"):
        handoff(written, load("demo/teacher-b"), models.student, "text")
    # The same shape with another base of its rotation.
    with pytest.raises(ModelError, match="rope_parameters"):
        config = models.student.model.config
        before, config.rope_parameters = config.rope_parameters, {**config.rope_parameters, "rope_theta": 5.0}
        try:
            handoff(written, models.teachers[0], models.student, "text")
        finally:
            config.rope_parameters = before


def test_a_text_of_one_token_and_files_that_are_none_are_refused(demo, tmp_path):
    models, *_, written = demo
    with pytest.raises(AlignError, match="two tokens"):
        handoff(written, models.teachers[0], models.student, "")
    for name, data in (("a.safetensors", b"no"), ("b.safetensors", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ModelError, match="map that inject wrote"):
            load_map(tmp_path / name)
    with pytest.raises(ModelError, match="map that inject wrote"):
        load_map(tmp_path)


READS = """
import sys
for name in ("transformers", "pydantic", "numpy", "streamlit", "plotly", "pandas", "huggingface_hub"):
    sys.modules[name] = None
import kvlab
found = kvlab.load_map(sys.argv[1])
print(found.id, found.manifest["student"]["name"], len(found.tensors))
"""


def test_a_map_is_read_with_torch_and_safetensors_alone(demo, tmp_path):
    written = demo[-1]
    written.save(tmp_path / "map.safetensors")
    command = [sys.executable, "-c", READS, str(tmp_path / "map.safetensors")]
    read = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert read.stdout.split() == [written.id, "demo/student", str(len(written.tensors))], read.stderr
    kept = fit_of(written, torch.device("cpu"))
    assert kept.layers == demo[1].layers and kept.rows == demo[1].rows
    for name, source in kept.sources.items():
        for problem, maps in source.maps.items():
            theirs = demo[1].sources[name].maps[problem]
            assert [m.classes for m in maps] == [m.classes for m in theirs]
            assert all(torch.equal(a, b) for m, t in zip(maps, theirs) for a, b in zip(m.weights, t.weights))


def test_rotations_know_the_length_of_the_text():
    """A rotation that changes with the length, as the dynamic kind does."""
    dynamic = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    student = tiny_loaded("llama", rope_parameters=dynamic, max_position_embeddings=32)
    for length in (20, 60):
        own = read_own(student, tiny_tokens(length), pre_rope=True)
        turn = rotations(student, own.ids)["key", 0]
        assert torch.equal(turn.cos, own.rotations["key", 0].cos)


def test_the_projector_of_an_analysis_is_read_and_hands_over_what_it_predicts(tmp_path):
    teacher, student = load("demo/teacher"), load("demo/student")
    settings = AlignSettings(random_teacher=False, layers="depth", folds=2)
    documents = prompts.samples()[:20]
    aligned = align_several([teacher], student, documents, settings)
    align_run.write(aligned, tmp_path)
    written = load_map(tmp_path)
    assert written.sources == ["projected"] and written.manifest["student"]["name"] == "demo/student"
    text = documents[3].text
    cache = written.handoff(teacher, student, text)
    hand = Handover(written, [teacher], student)
    item = hand.item(text)
    ids = torch.from_numpy(item.student.ids)[None]
    cut = ids.shape[1] - 1
    captured = capture(teacher, [item.teachers[0].first(len(item.teachers[0]))])
    own = read_own(student, item.student, pre_rope=True)
    inputs = inputs_of(hand.models, hand.fit, item, ids, cut)
    steps, teacher_steps = inputs.picked[0].student[1], inputs.picked[0].teacher[1]
    ((_, maps),) = aligned
    for problem in own.stored:
        kind, layer = problem
        (at,) = hand.fit.layers[0][problem]
        x = captured.of(kind)[at][0].transpose(0, 1).flatten(1)[teacher_steps]  # [N, P]
        predicted = maps[kind].layers[layer].predict(x, inputs.row_classes[0]).unflatten(1, (2, -1)).transpose(0, 1)
        expected = own.as_cached(problem, predicted, steps)
        layers = cache.layers[layer]
        stored = (layers.keys if kind == "key" else layers.values)[0][:, steps]
        assert (stored - expected).abs().max() < NEAR * 10
    other = load("demo/teacher-b")
    with pytest.raises(ModelError, match="instead of"):
        written.handoff(other, student, text)
    (tmp_path / "alignment.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=r"alignment\.json beside it"):
        load_map(tmp_path)


def test_other_weights_of_the_same_shape_are_refused(demo):
    models, _, judged, written = demo
    with pytest.raises(ModelError, match="other weights"):
        handoff(written, models.teachers[0], random_like(models.student, 5), judged[0].document.text)
    half = load("demo/student", dtype="bfloat16")
    assert identity(half)["weights_sha256"] == identity(models.student)["weights_sha256"]
    assert identity(load("demo/student", dtype="float16"))["weights_sha256"] is None
    names = {fingerprint(identity(loaded)) for loaded in (models.student, half, models.teachers[0])}
    assert len(names) == 2
