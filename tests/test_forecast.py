"""The forecast of a training run's memory: by hand, in its bounds, and against what a real run takes."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest

from kvlab.demo.corpus import problems
from kvlab.host.memory import DeviceMemory
from kvlab.request.forecast import Part, refined_documents, refining_memory, sentence, training_memory
from kvlab.request.train import TrainConfig
from kvlab.results.training.facts import gather
from kvlab.results.training.report import markdown
from kvlab.results.training.words import PARTS
from tests.test_memory import GIB, STUDENT, TEACHER
from tests.training import started, written

HIDDEN, FEED_FORWARD, VOCABULARY, LAYERS = 512, 1408, 16000, 12
# A Llama-like student with tied embeddings and 8 query and 4 KV heads of 64, counted by hand.
ATTENTION = HIDDEN * (512 + 256 + 256 + 512)
PARAMETERS = VOCABULARY * HIDDEN + LAYERS * (ATTENTION + 3 * HIDDEN * FEED_FORWARD)
SMALL = dataclasses.replace(
    STUDENT,
    layers=LAYERS,
    kv_layers=tuple(range(LAYERS)),
    layer_shapes=(),
    query_heads=8,
    hidden=HIDDEN,
    vocabulary=VOCABULARY,
    parameters=PARAMETERS,
)


def parts(*teachers, student=SMALL, tokens=100, **settings) -> dict[str, int]:
    found = training_memory(teachers or [TEACHER], student, TrainConfig(**settings), tokens)
    return {part.name: part.bytes for part in found.parts}


def test_weights_gradients_and_optimizer_by_hand():
    found = parts()
    assert found["student weights"] == 4 * PARAMETERS == found["gradients"]
    assert found["optimizer"] == 8 * PARAMETERS
    assert found["teacher weights"] == 4 * TEACHER.parameters
    assert parts(precision="bf16")["teacher weights"] == 2 * TEACHER.parameters
    assert found["logits"] == 3 * 4 * 2 * 100 * VOCABULARY  # batch of 2 documents


@pytest.mark.parametrize(("layers", "features"), [("depth", 512), ("heldout", 4 * 512)])
def test_maps_and_sums_of_both_classes_of_row_by_hand(layers, features):
    """Of 28 teacher layers of 512 features, four fit side by side."""
    found = parts(layers=layers)
    assert found["maps"] == 4 * 2 * 2 * LAYERS * features * (4 * 64)
    # Per fold and class: X'X of every two teacher layers that one of 12 student layers takes, X'Y, both kinds, float64.
    at = [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27]
    beside = [range(n, n + 1) if layers == "depth" else range(low := min(max(n - 1, 0), 24), low + 4) for n in at]
    pairs = {(a, b) for union in beside for a in union for b in union if a <= b}
    assert found["statistics"] == 8 * 5 * 2 * 2 * (len(pairs) * 512 * 512 + 12 * features * 256)


def test_all_layers_of_a_small_teacher_are_one_set_of_features():
    small = dataclasses.replace(TEACHER, layers=3, kv_layers=(0, 1, 2), layer_shapes=())
    found = parts(small)
    assert found["statistics"] == 8 * 5 * 2 * 2 * (6 * 512 * 512 + 12 * 1536 * 256)  # one of two equal blocks


def test_of_rows_weighted_by_attention_every_student_layer_has_sums_of_its_own():
    small = dataclasses.replace(TEACHER, layers=3, kv_layers=(0, 1, 2), layer_shapes=())
    weighted = parts(small, row_weights="attention")
    # X'X once of the scored rows and in each of 12 layers of the fitted ones; X'Y of both, in each layer.
    assert weighted["statistics"] == 8 * 5 * 2 * 2 * (6 * 512 * 512 + 12 * 1536 * 1536 + 2 * 12 * 1536 * 256)
    # The student reads with its scores: three copies of one layer's, of 8 query heads, over a batch of 4,096 tokens.
    alone = [training_memory([], SMALL, TrainConfig(row_weights=by), 1024) for by in ("equal", "attention")]
    equal_fit, weighted_fit = ({p.name: p.bytes for p in found.parts}["fit"] for found in alone)
    assert weighted_fit - equal_fit == 4 * 3 * 8 * 4096 * 1024


def test_rows_and_targets_of_the_kv_loss_by_hand():
    student, teacher = LAYERS * 4 * (64 + 64), LAYERS * 4 * (128 + 128)  # of 28 teacher layers 12 are learned from
    found = parts(layers="depth")
    assert found["kv"] == 4 * 200 * 3 * student  # rows before RoPE, rows, and their differences to the target
    assert found["targets"] == 4 * 200 * (teacher + student)
    of_two = parts(TEACHER, dataclasses.replace(TEACHER, name="b"), teachers=("a", "b"), layers="depth")
    assert of_two["kv"] == found["kv"]
    assert of_two["targets"] == 4 * 200 * (2 * teacher + 3 * student)  # both targets and their sum


def test_what_refining_takes_by_hand():
    """Two classes of row, 192 components, 4 KV heads with keys and values of 64 in 12 layers."""
    numbers = 2 * 192 * LAYERS * 4 * (64 + 64)
    layer = 6 * HIDDEN + 3 * 512 + 512 + 256 + 256 + 4 * FEED_FORWARD
    parts = {part.name: part.bytes for part in refining_memory(SMALL, sources=3, tokens=100, held=7)}
    assert parts["trained weights"] == 4 * numbers * 4  # of three sources, and the best so far of one
    assert parts["optimizer"] == 2 * parts["gradients"] == 8 * numbers
    assert parts["activations"] == pytest.approx(4 * 100 * LAYERS * layer, rel=0.1)  # the feed-forward is estimated
    assert parts["logits"] == 2 * 3 * 4 * 100 * VOCABULARY and parts["kv"] == 7
    assert parts["activations"] > {p.name: p.bytes for p in refining_memory(SMALL, 3, 100, "bfloat16")}["activations"]


def test_the_documents_that_are_refined_on_are_those_of_the_other_folds():
    assert [refined_documents(n, 5) for n in (0, 1, 3, 160, 161)] == [0, 0, 2, 128, 128]
    assert refined_documents(1000, 5) == 256


def test_head_outputs_by_hand():
    """Per token and layer two times the queries, the keys, and four times the heads' outputs."""
    queries, keys, found = 512, 256, parts(kv_loss="head-outputs")
    assert found["outputs"] == 4 * 200 * LAYERS * (2 * queries + keys + 4 * queries)
    assert "outputs" not in parts() and "outputs" not in parts(kv_loss="head-outputs", control="ce-only")


def test_processes_share_a_batch_and_the_forecast_is_of_the_larger_share():
    config = TrainConfig(batch_size=5)
    found = training_memory([TEACHER], SMALL, config, 100, processes=2)
    assert found.documents == 3
    assert {part.name: part.bytes for part in found.parts}["logits"] == 3 * 4 * 3 * 100 * VOCABULARY


def test_the_upper_bound_is_everything_at_once_and_what_the_allocator_holds():
    accumulating = TrainConfig(batch_size=32, gradient_accumulation_steps=4)  # gradients beside activations
    found = training_memory([TEACHER], SMALL, accumulating, 1024)
    assert found.phase == "training" and found.upper == pytest.approx(1.15 * found.total)


def test_activations_by_hand_up_to_the_unknown_tying_of_embeddings():
    layer = 6 * HIDDEN + 3 * 512 + 512 + 2 * 256 + 4 * FEED_FORWARD
    exact = 4 * 200 * LAYERS * layer
    assert parts()["activations"] == pytest.approx(exact, rel=0.1)
    recomputed = parts(gradient_checkpointing=True)["activations recomputed"]
    assert recomputed == pytest.approx(4 * 200 * (LAYERS * HIDDEN + layer), rel=0.1)


def test_every_setting_that_saves_memory_is_forecast_to_save_it():
    def total(**settings):
        config = TrainConfig(**({"batch_size": 32} | settings))  # so large that training, not the fit, is the peak
        return training_memory([TEACHER], SMALL, config, 1024).total

    whole = total()
    assert total(batch_size=1) < whole and total(gradient_checkpointing=True) < whole
    assert total(trainable="lora") < whole and total(precision="bf16") < whole
    assert total(control="ce-only") < whole < total(gradient_accumulation_steps=4)
    projector = total(trainable="projector", map="structured")
    assert projector < total(trainable="lora")
    one, two = training_memory([TEACHER], SMALL, TrainConfig()), None
    two = training_memory([TEACHER, dataclasses.replace(TEACHER, name="b")], SMALL, TrainConfig(teachers=("a", "b")))
    assert two.total - one.total >= 4 * TEACHER.parameters
    assert [part.model for part in two.parts if part.name == "teacher weights"] == ["teacher", "b"]


@pytest.mark.parametrize("trainable", ["full", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_forecast_lies_in_its_bounds(trainable, precision, checkpointing):
    settings = {"trainable": trainable, "precision": precision, "gradient_checkpointing": checkpointing}
    found = training_memory([TEACHER], STUDENT, TrainConfig(**settings), device="cuda:0")
    assert found.lower <= found.total <= found.upper
    assert {part.name for part in found.parts} <= set(PARTS)


def test_adapters_are_counted_as_peft_makes_them():
    from transformers import AutoModelForCausalLM

    from kvlab.models.geometry import geometry_of
    from kvlab.models.loading import LoadedModel
    from kvlab.train.run import add_lora
    from tests.tiny import tiny_config

    config = tiny_config("llama", hidden_size=256, intermediate_size=704, num_hidden_layers=4)
    model = AutoModelForCausalLM.from_config(config)
    geometry = geometry_of(config, "x")
    loaded = LoadedModel("x", model, None, geometry, model.device, model.dtype)
    add_lora(loaded, 8)
    counted = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found = training_memory([TEACHER], geometry, TrainConfig(trainable="lora"), 10)
    assert next(p.bytes for p in found.parts if p.name == "trained weights") == pytest.approx(4 * counted, rel=0.05)


def test_the_sentence_warns_above_the_limit_and_says_what_to_change():
    config, total = TrainConfig(), 16 * GIB
    found = training_memory([], SMALL, config, 100)
    free = int(total - (0.8 * total - found.total) + GIB // 100)
    near = sentence(found, DeviceMemory("cuda:0", total, free, "nvml"), config)
    assert "WARNING" not in near and "16.0 GiB on cuda:0" in near
    over = sentence(found, DeviceMemory("cuda:0", total, free - GIB // 50, "nvml"), config)
    for word in ("WARNING: above 80%", "--batch_size 1 --gradient_accumulation_steps 4", "--gradient_checkpointing"):
        assert word in over
    saved = TrainConfig(batch_size=1, gradient_checkpointing=True, trainable="lora")
    assert "--batch_size" not in sentence(found, DeviceMemory("cpu", total, 0, "psutil"), saved)


def test_parts_that_take_nothing_are_left_out():
    assert Part("trained weights", 0) not in training_memory([TEACHER], SMALL, TrainConfig(), 10).parts


@pytest.mark.model
@pytest.mark.xdist_group("train-loop")
def test_the_forecast_is_near_what_a_mid_size_run_takes(tmp_path):
    """23 M and 20 M parameters, two steps: the process's own high-water mark, which no timing changes."""
    from tests.tiny import tiny_model

    text = "\n".join(p["prompt"] + "\n" + p["reasoning"] for p in problems("train", 30, seed=5))
    shape = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "initializer_range": 0.02}
    shape |= {"hidden_size": 512, "intermediate_size": 1408, "vocab_size": 8000}
    tiny_model("qwen2", tmp_path / "t", seed=1, text=text, num_hidden_layers=5, **shape)
    style = {"tokenizer_style": "sentencepiece", "vocab": 500}
    tiny_model("llama", tmp_path / "s", seed=2, text=text, num_hidden_layers=4, **style, **shape)
    told = [p["prompt"] + " " + p["reasoning"] for p in problems("train", 60, seed=6)]
    documents = [json.dumps({"text": " ".join(told[n : n + 6])}) for n in range(0, 60, 6)]
    (tmp_path / "data.jsonl").write_text("\n".join(documents))
    settings = {"teachers": [str(tmp_path / "t")], "student": str(tmp_path / "s"), "max_tokens": 384, "device": "cpu"}
    settings |= {"layers": "depth"}
    settings |= {"data": str(tmp_path / "data.jsonl"), "max_steps": 2, "fit_documents": 4, "eval_documents": 1}
    folder = written(tmp_path / "run", settings)
    process = started(folder)
    try:
        assert process.wait(300) in (0, 1), (folder / "output.txt").read_text()
    finally:
        process.kill()
        process.wait()
    report = gather(folder)
    forecast, log = report["forecast"], (folder / "training.log").read_text()
    assert forecast["growth"] == report["run"]["peak_memory"]["bytes"] - forecast["baseline"]
    assert forecast["lower"] < forecast["growth"] < forecast["upper"]
    assert 1 / 1.5 < forecast["ratio"] < 1.5, forecast
    assert log.index("memory forecast: ") < log.index("loaded; ")
    assert f"Forecast over measured: {forecast['ratio']:.2f}" in markdown(report)
    assert os.path.getsize(folder / "report.html") > 10**6 and "实测" in markdown(report, "zh")
    assert json.loads((folder / "gathered.json").read_text())["run"]["id"] == folder.name
