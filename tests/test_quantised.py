"""Quantised weights: how they are stored, what they take, and what is said of them."""

import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from kvlab.align.pipeline import align
from kvlab.cli import analysis, main
from kvlab.errors import ModelError, TrainError
from kvlab.host import memory, weights
from kvlab.models import loading
from kvlab.models.capture import capture
from kvlab.models.loading import geometry, load, random_like
from kvlab.models.proofs import self_test
from kvlab.request import prompts
from kvlab.request.align import AlignSettings, AnalysisRequest
from kvlab.request.forecast import training_memory
from kvlab.request.train import TrainConfig
from kvlab.shapes import Quantised
from tests.tiny import tiny_model, tiny_tokens
from tests.training import prepared

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("quantised")]
with_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="needs bitsandbytes: pip install -r requirements-quantised.txt"
)
BITS = ("4bit", "8bit")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A model wide enough that its linear layers are most of it."""
    return tiny_model("qwen3", tmp_path_factory.mktemp("plain"), seed=1, hidden_size=128, intermediate_size=256)


@pytest.fixture(scope="module")
def folders(plain, tmp_path_factory):
    """The same model quantised by bitsandbytes and saved, as published models are."""
    made = {}
    for bits in BITS:
        made[bits] = tmp_path_factory.mktemp(bits)
        where = {"quantization_config": loading._quantising(bits, torch.float32), "device_map": {"": "cpu"}}
        AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32, **where).save_pretrained(made[bits])
        for file in Path(plain).glob("tokenizer*"):
            shutil.copy(file, made[bits])
    return made


def held(model):
    """Bytes of its tensors, the quantisation's own among them, each counted once."""
    found = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        state = getattr(tensor, "quant_state", None)
        for t in (tensor, *([state.absmax, state.code] if state is not None else [getattr(tensor, "SCB", None)])):
            if t is not None:
                found[t.data_ptr()] = t.numel() * t.element_size()
    return sum(found.values())


@with_bitsandbytes
@pytest.mark.parametrize(("bits", "method"), [("4bit", "bitsandbytes nf4"), ("8bit", "bitsandbytes int8")])
def test_a_quantised_folder_takes_what_its_files_hold(plain, folders, bits, method):
    shape = geometry(str(folders[bits]))
    assert shape.quantised.method == method and shape.parameters == geometry(plain).parameters
    loaded = load(str(folders[bits]))
    truth, counted = held(loaded.model), weights.weight_bytes(shape, "float32", "cpu")
    assert counted == pytest.approx(truth, rel=0.1) and counted < 0.5 * shape.parameters * 4
    assert memory.model_memory(shape, "float32", 1, 8).parameter_bytes == counted
    # The same bits made at load take as much, which is known before.
    at_load = replace(geometry(plain), quantised=weights.loaded_in(geometry(plain), bits))
    assert weights.weight_bytes(at_load, "float32", "cpu") == pytest.approx(truth, rel=0.1)
    assert load(plain, load_in=bits).geometry == at_load


@with_bitsandbytes
def test_the_cache_of_rounded_weights_is_near_and_its_keys_are_turned_back(plain, folders):
    tokens = [tiny_tokens(40)]
    truth = capture(load(plain), tokens)
    errors = {}
    for bits in BITS:
        loaded = load(str(folders[bits]))
        assert [(t.layer, t.positions) for t in self_test(loaded).layers] == [(n, "rope") for n in range(3)]
        seen = capture(loaded, tokens)
        apart = torch.stack([(a - b).square().sum() / b.square().sum() for a, b in zip(seen.keys, truth.keys)])
        errors[bits] = float(apart.mean().sqrt())
    assert 0 < errors["8bit"] < 0.05 < errors["4bit"] < 0.4
    at_load = capture(load(plain, load_in="4bit"), tokens)
    assert torch.allclose(at_load.keys[-1], capture(load(str(folders["4bit"])), tokens).keys[-1], atol=1e-5)


@with_bitsandbytes
def test_results_say_that_the_weights_are_rounded_and_the_random_twin_has_whole_ones(plain, folders):
    teacher, student = load(str(folders["4bit"])), load(plain)
    settings = AlignSettings(folds=2, layers="depth", sample_tokens=500)
    result, _ = align(teacher, student, prompts.samples()[:6], settings)
    said = [note for note in map(str, result.notes) if "rounded" in note]
    assert len(said) == 1 and "bitsandbytes nf4" in said[0] and str(folders["4bit"]) in said[0]
    assert result.teacher["quantised"]["method"] == "bitsandbytes nf4"
    assert str(result.controls["random_teacher"]) == "seed 0"
    twin = random_like(teacher, 0)
    assert twin.geometry.quantised is None and twin.model.get_memory_footprint() >= 4 * twin.geometry.parameters


@with_bitsandbytes
@pytest.mark.usefixtures("fresh_accelerate")
def test_a_run_learns_from_a_teacher_in_4_bits_and_refuses_to_train_one(pair, folders, tmp_path):
    run = prepared(tmp_path / "run", pair | {"load_in": "4bit"})
    assert run.teachers.models[0].geometry.quantised.method == "bitsandbytes nf4"
    assert any("bitsandbytes nf4" in str(note) for note in run.report["notes"])
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in [run.loop().step(1)])
    with pytest.raises(TrainError) as refused:
        prepared(tmp_path / "other", pair | {"student": str(folders["8bit"])})
    assert refused.value.kind == "student-quantised" and "bitsandbytes int8" in str(refused.value)


@with_bitsandbytes
def test_bits_are_refused_for_a_folder_that_has_them_already(folders):
    with pytest.raises(ModelError, match="leave out --load-in") as refused:
        load(str(folders["8bit"]), load_in="4bit")
    assert refused.value.kind == "model-quantised"


def test_a_missing_package_is_named_before_anything_is_read(plain, monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install -r requirements-quantised") as refused:
        load(plain, load_in="4bit")
    assert refused.value.kind == "model-package-missing"


# Tensors of one linear layer 64 x 64 as each method stores them, its settings, and the method's name.
OTHERS = {
    "gptq": (
        {"quant_method": "gptq", "bits": 4, "group_size": 32},
        {
            "qweight": torch.zeros(8, 64, dtype=torch.int32),
            "qzeros": torch.zeros(2, 8, dtype=torch.int32),
            "scales": torch.zeros(2, 64, dtype=torch.float16),
            "g_idx": torch.zeros(64, dtype=torch.int32),
        },
        "gptq, 4 bits",
    ),
    "compressed": (
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}},
        {
            "weight": torch.zeros(64, 64, dtype=torch.int8),
            "weight_scale": torch.zeros(64, 1, dtype=torch.bfloat16),
        },
        "compressed-tensors, 8 bits",
    ),
    "fp8": (
        {"quant_method": "fp8"},
        {"weight": torch.zeros(64, 64, dtype=torch.float8_e4m3fn), "weight_scale_inv": torch.zeros(1, 1)},
        "fp8",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_headers_tell_what_stays_in_few_bits(tmp_path, plain, name):
    settings, layer, method = OTHERS[name]
    tensors = {f"model.layers.0.mlp.up_proj.{part}": tensor for part, tensor in layer.items()}
    tensors |= {"model.embed_tokens.weight": torch.zeros(10, 64, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "model.safetensors")
    stored = weights.quantised(settings, 4096 + 640, 4096, [tmp_path / "model.safetensors"])
    assert stored == Quantised(method, sum(t.numel() * t.element_size() for t in layer.values()), 640)
    shape = replace(geometry(plain), parameters=4096 + 640, linear=4096, quantised=stored)
    assert weights.weight_bytes(shape, "float32", "cuda:0") == stored.bytes + 640 * 4
    # Processors have no kernels for fp8: transformers restores the numbers there.
    on_processor = 4 * shape.parameters if name == "fp8" else stored.bytes + 640 * 4
    assert weights.weight_bytes(shape, "float32", "cpu") == on_processor
    # Before the weights are here.
    estimate = weights.quantised(settings, 4096 + 640, 4096)
    assert estimate.numbers == 640 and estimate.bytes == pytest.approx(stored.bytes, rel=0.2)


def test_the_forecast_of_a_run_counts_a_teacher_in_its_bits(plain):
    shape = geometry(plain)
    config = {"precision": "bf16", "student": "demo/student", "teachers": ("demo/teacher",)}
    sizes = {}
    for load_in in ("none", *BITS):
        parts = training_memory([shape], shape, TrainConfig(load_in=load_in, **config)).parts
        sizes[load_in] = next(part.bytes for part in parts if part.name == "teacher weights")
    rest = 2 * (shape.parameters - shape.linear)
    assert sizes == {
        "none": 2 * shape.parameters,
        "4bit": rest + shape.linear * 9 // 16,
        "8bit": rest + shape.linear,
    }


def test_the_command_line_asks_for_bits():
    command = ["align", "--teacher", "demo/teacher", "--student", "demo/student", "--out", "x", "--load-in", "4bit"]
    request = analysis.request_of(AnalysisRequest, main.parser().parse_args(command))
    assert request.load_in == "4bit" and not request.split_teacher
