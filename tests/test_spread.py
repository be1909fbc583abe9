"""A teacher over several devices: its caches come to one, and everything behind the capture is the same."""

from contextlib import nullcontext
from dataclasses import replace

import accelerate
import pytest
import torch

from kvlab.align.pipeline import align
from kvlab.errors import AlignError, ModelError
from kvlab.host import memory
from kvlab.host.memory import DeviceMemory
from kvlab.models import loading, split
from kvlab.models.attention import observed_attention, received_attention
from kvlab.models.capture import capture
from kvlab.models.loading import LoadedModel, load
from kvlab.request import prompts
from kvlab.request.align import AlignSettings
from kvlab.train import run
from tests.pretended import DEVICES, Pretended, placed, spread
from tests.tiny import tiny_model, tiny_tokens
from tests.training import prepared, steps

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("spread")]
GIB = 2**30


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    student = tiny_model("llama", folder / "student", tokenizer_style="sentencepiece", num_hidden_layers=2, vocab=500)
    return tiny_model("qwen3", folder / "teacher", seed=1), student


def on_two(loaded):
    spread(loaded.model, 1)
    return replace(loaded, device=DEVICES[0], home=DEVICES[1])


def on_one(loaded, device):
    for tensor in [*loaded.model.parameters(), *loaded.model.buffers()]:
        placed(tensor, device)
    return replace(loaded, device=device, home=device)


def test_pretended_devices_refuse_to_be_mixed():
    with Pretended():
        x, y = torch.ones(3).to(DEVICES[0]), torch.zeros(3, device=DEVICES[1])
        assert (x.device, y.device, (2 * x).device, y.new_ones(2).device) == (*DEVICES, *DEVICES)
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            torch.cat([x, y])
        assert (x + y.to(x)).device == DEVICES[0] and x.cpu().device == torch.device("cpu")
        assert x[torch.tensor([0, 1])].device == DEVICES[0]
    assert x.device == torch.device("cpu")


def test_the_caches_of_a_model_on_two_devices_come_to_its_home(names):
    whole, tokens = load(names[0]), [tiny_tokens(30), tiny_tokens(17, seed=1)]
    truth = capture(whole, tokens)
    seen_by_all, seen_by_last = received_attention(whole, tokens), observed_attention(whole, tokens, [[28, 29], [16]])
    with Pretended():
        loaded = on_two(load(names[0]))
        caught = capture(loaded, tokens)
        received = received_attention(loaded, tokens)
        observed = observed_attention(loaded, tokens, [[28, 29], [16]])
        assert {x.device for x in (*caught.keys, *caught.values, *received, *observed)} == {DEVICES[1]}
    for found, wanted in zip(
        (*caught.keys, *caught.values, *received, *observed),
        (*truth.keys, *truth.values, *seen_by_all, *seen_by_last),
        strict=True,
    ):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    "asked",
    [{"layers": "heldout", "row_weights": "attention"}, {"layers": "depth", "time": "rkv"}],
    ids=["held out", "rkv"],
)
def test_an_alignment_with_a_teacher_on_two_devices_has_the_numbers_of_one(names, asked):
    settings = AlignSettings(folds=2, sample_tokens=100, max_tokens=32, random_teacher=False, inspect=1, **asked)
    documents, scores = prompts.samples()[:4], []
    for two in (False, True):
        with Pretended() if two else nullcontext():
            teacher, student = load(names[0]), load(names[1])
            if two:
                teacher, student = on_two(teacher), on_one(student, DEVICES[1])
            result, maps = align(teacher, student, documents, settings)
        scores.append([(h.r2, h.r2_shuffled) for h in result.heads])
        assert all(maps[kind].layers for kind in maps)
    assert torch.allclose(*(torch.tensor(s, dtype=torch.float64) for s in scores), atol=1e-12, equal_nan=True)


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_run_learns_the_same_from_a_teacher_on_two_devices(pair, tmp_path, monkeypatch):
    settings = pair | {"max_steps": 2, "max_tokens": 32, "fit_documents": 3, "layers": "depth", "eval_documents": 1}
    whole = steps(prepared(tmp_path / "one", settings))

    def load_on_two(name, *asked, **placed):
        loaded = load(name, *asked, **placed)
        spread(loaded.model, 1)
        return replace(loaded, device=DEVICES[0], home=torch.device("cpu"))

    def model(self, name, device, dtype, **placed):  # a teacher has a place, the student has none
        return (load_on_two if placed else load)(name, device, dtype, **placed)

    monkeypatch.setattr(run.Run, "_model", model)
    with Pretended():
        two = steps(prepared(tmp_path / "two", settings))
    for ours, theirs in zip(two, whole, strict=True):
        assert [ours[name] for name in ("loss", "ce", "kv_key", "kv_value")] == pytest.approx(
            [theirs[name] for name in ("loss", "ce", "kv_key", "kv_value")], rel=1e-6
        )


def test_layers_on_the_processor_and_on_disk_give_the_same_cache(names, tmp_path):
    whole, tokens = load(names[0]), [tiny_tokens(30)]
    away = load(names[0])
    where = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk"}
    where |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    model = accelerate.dispatch_model(away.model, where, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    away = LoadedModel("away", model, away.tokenizer, away.geometry, split.input_device(model), away.dtype)
    assert away.device == away.home == torch.device("cpu") and next(model.model.layers[1].parameters()).is_meta
    for found, wanted in zip(capture(away, tokens).keys, capture(whole, tokens).keys, strict=True):
        assert torch.equal(found, wanted)
    assert set(split.places(model)) == {"cpu", "disk"} and sum(split.places(model).values()) >= 4 * 100_000


class Machine:
    """Two GPUs and their free memory, for ``load``."""

    def __init__(self, patch, free):
        self.free, self.asked = free, {}
        patch.setattr(torch.cuda, "device_count", lambda: len(free) - 1)
        patch.setattr(memory, "device_memory", self.memory)
        patch.setattr(loading, "_read", self.read)

    def memory(self, device="auto"):
        device = {"auto": "cuda:0", "cuda": "cuda:0"}.get(device, device)
        return DeviceMemory(device, 80 * GIB, self.free[device], "torch")

    def read(self, folder, name, dtype, **asked):
        self.asked, read = asked, load.__globals__["AutoModelForCausalLM"]
        return read.from_pretrained(folder, dtype=dtype)


def test_max_memory_leaves_room_on_the_home_for_all_else(names, monkeypatch):
    machine = Machine(monkeypatch, {"cuda:0": 20 * GIB, "cuda:1": 30 * GIB, "cpu": 100 * GIB})
    loaded = load(names[0], "cuda", "float32", room=15 * GIB)
    expected = {0: 5 * GIB, 1: 30 * GIB, "cpu": 100 * GIB}
    assert machine.asked == {
        "device_map": "auto",
        "max_memory": {place: pytest.approx(0.9 * free, abs=1) for place, free in expected.items()},
    }
    assert loaded.home == torch.device("cuda:0")
    load(names[0], "cuda", "float32", room=50 * GIB)
    assert machine.asked["max_memory"][0] == 0
    load(names[0], "cuda", "float32")
    assert machine.asked == {"device_map": {"": "cuda:0"}}
    # Rounded weights compute on GPUs only.
    assert set(split.max_memory(torch.device("cuda:1"), 0, quantised=True)) == {0, 1}


def test_spreading_is_refused_without_gpus_and_for_several_processes(names, monkeypatch):
    with pytest.raises(ModelError, match="the device cpu") as refused:
        load(names[0], "cpu", room=0)
    assert refused.value.kind == "split-impossible"
    Machine(monkeypatch, {"cuda:0": GIB, "cuda:1": GIB, "cpu": GIB})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ModelError, match="2 processes, each with its GPU"):
        load(names[0], "cuda", "float32", room=0)


def test_a_model_that_is_too_large_is_told_of_bits_and_of_more_gpus(names, monkeypatch):
    Machine(monkeypatch, {"cuda:0": 1000, "cuda:1": 1000, "cpu": 1000})
    with pytest.raises(ModelError, match=r"--load-in 4bit or 8bit, or --split-teacher over 2 GPUs"):
        load(names[0], "cuda", "float32")
    with pytest.raises(ModelError) as refused:
        load(names[0], "cuda", "float32", room=0)
    assert refused.value.kind == "model-memory" and "2.6 KiB free" in str(refused.value)  # 0.9 of 3,000


def test_half_of_the_heads_is_refused_in_words(names):
    loaded = load(names[0])
    # What a process of tensor parallelism holds.
    for layer in loaded.model.model.layers:
        attention = layer.self_attn
        attention.num_key_value_groups *= 2
        for name in ("k_proj", "v_proj"):
            projection = getattr(attention, name)
            projection.weight = torch.nn.Parameter(projection.weight[: projection.out_features // 2], False)
    with pytest.raises(AlignError, match="Found layers with 1 heads") as refused:
        capture(loaded, [tiny_tokens(30)])
    assert refused.value.kind == "cache-shared-out" and "all 2 KV heads" in str(refused.value)
