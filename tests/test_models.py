"""Geometry from a configuration alone against real caches and hand-made counts; loading; every refusal."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BertTokenizer

from kvlab.errors import ModelError
from kvlab.host import memory, models
from kvlab.host.memory import DeviceMemory
from kvlab.models import geometry as geometry_module
from kvlab.models import loading
from kvlab.models.cache_names import returned
from kvlab.models.geometry import geometry_of
from kvlab.models.loading import LoadedModel, ModelCache, geometry, load, pick_device, pick_dtype, random_like
from kvlab.shapes import Geometry, Positions
from tests.tiny import tiny_config, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.model

ROPE = Positions("rope", theta=10000.0)
PARTIAL = Positions("rope", theta=10000.0, rotary_width=4)
LEARNED = Positions("learned")

# architecture -> KV heads, key width, value width, caching layers, positions of the tiny model
ARCHITECTURES = {
    "llama": (2, 16, 16, (0, 1, 2), ROPE),
    "qwen2": (2, 16, 16, (0, 1, 2), ROPE),
    "qwen3": (2, 16, 16, (0, 1, 2), ROPE),
    "gemma2": (2, 16, 16, (0, 1, 2), ROPE),
    "gemma3_text": (2, 16, 16, (0, 1, 2), ROPE),
    "gemma3": (2, 16, 16, (0, 1, 2), ROPE),  # multimodal: the text model's
    "gemma3n_text": (2, 16, 16, (0, 1), ROPE),  # the last layer reuses the cache of another
    "gpt2": (4, 16, 16, (0, 1, 2), LEARNED),
    "opt": (4, 16, 16, (0, 1, 2), LEARNED),
    "gpt_neox": (4, 16, 16, (0, 1, 2), PARTIAL),
    "gptj": (4, 16, 16, (0, 1, 2), Positions("rope", rotary_width=8)),
    "bloom": (4, 16, 16, (0, 1, 2), Positions("alibi")),
    "mpt": (4, 16, 16, (0, 1, 2), Positions("alibi")),
    "falcon": (1, 16, 16, (0, 1, 2), ROPE),
    "mistral": (2, 16, 16, (0, 1, 2), ROPE),
    "mixtral": (2, 16, 16, (0, 1, 2), Positions("rope", theta=1000000.0)),
    "phi3": (2, 16, 16, (0, 1, 2), ROPE),
    "stablelm": (2, 16, 16, (0, 1, 2), PARTIAL),
    "deepseek_v3": (1, 32, 8, (0, 1, 2), Positions("rope", theta=10000.0, rotary_width=8)),  # latent, rotary part
    "jamba": (2, 16, 16, (1,), Positions("none")),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_geometry_is_what_a_real_forward_caches(architecture, tmp_path):
    heads, key_width, value_width, kv_layers, positions = ARCHITECTURES[architecture]
    name = tiny_model(architecture, tmp_path)
    expected = geometry(name)
    assert expected.architecture == architecture
    assert (expected.kv_heads, expected.key_width, expected.value_width) == (heads, key_width, value_width)
    assert (expected.layers, expected.kv_layers) == (3, kv_layers)
    assert (expected.query_heads, expected.hidden, expected.vocabulary) == (4, 64, 400)
    assert expected.positions == positions

    loaded = load(name, "cpu")
    with loaded.lock, torch.no_grad():
        cache = returned(loaded.model.base_model(input_ids=torch.arange(1, 8)[None], use_cache=True))
    held = {i: layer for i, layer in enumerate(cache.layers) if getattr(layer, "keys", None) is not None}
    assert tuple(held) == kv_layers
    first = held[kv_layers[0]]
    assert first.keys.shape == (1, heads, 7, key_width)
    assert first.values.shape == (1, heads, 7, value_width)
    assert sum(layer.keys[0, :, 0].numel() + layer.values[0, :, 0].numel() for layer in held.values()) == (
        expected.kv_values_per_token
    )
    assert expected.parameters == sum(tensor.numel() for tensor in loaded.model.parameters())
    assert loaded.geometry == expected


LLAMA_SIZES = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "vocab_size": 32000}
QWEN_SIZES = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064}


def test_the_pair_of_the_checklist_without_its_weights():
    student = geometry_of(
        AutoConfig.for_model(
            "llama", **LLAMA_SIZES, num_attention_heads=32, num_key_value_heads=4, max_position_embeddings=2048
        ),
        "TinyLlama",
    )
    # embedding and head, then per layer: queries and output, keys and values, three feed-forward, two norms
    layer = 2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 5632 + 2 * 2048
    assert student.parameters == 2 * 32000 * 2048 + 22 * layer + 2048 == 1_100_048_384
    assert (student.kv_heads, student.key_width, student.query_heads) == (4, 64, 32)
    assert student.kv_values_per_token == 22 * 4 * 128
    assert student.max_positions == 2048

    rope = {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    teacher = geometry_of(
        AutoConfig.for_model(
            "qwen2",
            **QWEN_SIZES,
            num_attention_heads=28,
            num_key_value_heads=4,
            max_position_embeddings=131072,
            rope_parameters=rope,
        ),
        "Qwen2-7B",
    )
    layer = 2 * 3584 * 3584 + 3584 + 2 * (3584 * 512 + 512) + 3 * 3584 * 18944 + 2 * 3584
    assert teacher.parameters == 2 * 152064 * 3584 + 28 * layer + 3584 == 7_615_616_512
    assert (teacher.kv_heads, teacher.key_width, teacher.value_width) == (4, 128, 128)
    assert teacher.positions == Positions("rope", theta=1e6, scaling="yarn")
    assert Geometry.from_dict(json.loads(json.dumps(teacher.to_dict()))) == teacher


def test_a_head_width_that_is_not_hidden_over_heads():
    shape = geometry_of(tiny_config("qwen3", head_dim=32, num_key_value_heads=1), "x")
    assert (shape.kv_heads, shape.key_width, shape.kv_values_per_token) == (1, 32, 3 * 64)


def test_tied_weights_count_once():
    apart = geometry_of(tiny_config("llama", vocab=400), "x").parameters
    tied = geometry_of(tiny_config("llama", vocab=400, tie_word_embeddings=True), "x").parameters
    assert apart - tied == 400 * 64


def test_two_rotations_by_layer_type_give_the_first_layers():
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 7e5, "factor": 8.0},
    }
    assert geometry_of(tiny_config("gemma3_text", rope_parameters=rope), "x").positions.theta == 5000.0
    full_first = ["full_attention", "sliding_attention", "full_attention"]
    shape = geometry_of(tiny_config("gemma3_text", rope_parameters=rope, layer_types=full_first), "x")
    assert shape.positions == Positions("rope", theta=7e5, scaling="linear")


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "gpt2", "gpt_neox", "mixtral", "stablelm"])
def test_where_the_meta_forward_fails_the_configuration_says_the_same(architecture, monkeypatch):
    config = tiny_config(architecture)
    measured = geometry_of(config, "x")
    measure = geometry_module._cache_shapes

    def without_forward(skeleton, text):
        skeleton.base_model.forward = None
        return measure(skeleton, text)

    monkeypatch.setattr(geometry_module, "_cache_shapes", without_forward)
    monkeypatch.setattr(geometry_module, "_shapes_by_configuration", count := counted(measured_by_fields))
    assert geometry_of(config, "x") == measured
    assert count.calls == 1


measured_by_fields = geometry_module._shapes_by_configuration


def counted(call):
    def wrapper(*arguments, **keywords):
        wrapper.calls += 1
        return call(*arguments, **keywords)

    wrapper.calls = 0
    return wrapper


def test_geometry_reads_no_weights_and_leaves_the_configuration_alone(tmp_path):
    folder = Path(tiny_model("qwen2", tmp_path))
    whole = geometry(str(folder))
    (folder / "model.safetensors").unlink()
    assert geometry(str(folder)) == whole
    config = loading.configuration(folder, "x")
    before = config.to_dict()
    geometry_of(config, "x")
    assert config.to_dict() == before


# --- loading ---------------------------------------------------------------------------------------------------


def test_a_loaded_model_is_ready_to_read(tmp_path):
    loaded = load(tiny_model("llama", tmp_path, tokenizer_style="sentencepiece"), "cpu")
    assert loaded.name == str(tmp_path)
    assert not loaded.model.training
    assert not any(tensor.requires_grad for tensor in loaded.model.parameters())
    assert (loaded.device, loaded.dtype) == (torch.device("cpu"), torch.float32)
    assert {tensor.dtype for tensor in loaded.model.parameters()} == {torch.float32}
    assert loaded.lock.acquire(blocking=False)
    encoded = loaded.tokenizer("two boats", return_offsets_mapping=True)
    assert encoded["input_ids"][0] == loaded.tokenizer.bos_token_id
    assert encoded["offset_mapping"][-1][1] == len("two boats")


def test_the_weights_are_those_of_the_file_in_the_asked_type(tmp_path):
    name = tiny_model("qwen2", tmp_path, seed=5)
    written = AutoModelForCausalLM.from_pretrained(name).state_dict()
    for tensor_name, tensor in load(name, "cpu", "bf16").model.state_dict().items():
        assert tensor.dtype == torch.bfloat16
        torch.testing.assert_close(tensor, written[tensor_name].bfloat16(), rtol=0, atol=0)


def test_tiny_models_follow_their_seed(tmp_path):
    one, same, other = (
        load(tiny_model("llama", tmp_path / str(i), seed=seed), "cpu").model.lm_head.weight
        for i, seed in enumerate((1, 1, 2))
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize(("style", "bos"), [("byte", False), ("sentencepiece", True)])
def test_tiny_tokenizers_read_back_what_they_read(style, bos, tmp_path):
    built = tiny_tokenizer(tmp_path, style)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.is_fast and len(tokenizer) == len(built) == 400
    for text in ("The river runs 12 miles.\n  two", "河水流过🙂旧磨坊 é", ""):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert (ids[:1] == [tokenizer.bos_token_id]) == bos


def test_sharded_weights_load(tmp_path):
    name = tiny_model("llama", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(name)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert torch.equal(load(name, "cpu").model.lm_head.weight, model.lm_head.weight)


def test_a_model_of_the_hub_loads_from_the_cache_without_network(tmp_path, monkeypatch):
    def unreachable(*arguments, **keywords):
        raise ConnectionError("Name or service not known")

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--tiny"
    name = tiny_model("qwen2", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(models.HfApi, "model_info", unreachable)
    loaded = load("owner/tiny", "cpu")
    assert loaded.name == loaded.geometry.name == "owner/tiny"
    assert torch.equal(loaded.model.lm_head.weight, load(name, "cpu").model.lm_head.weight)
    assert refusal("owner/other").kind == "model-offline"


def test_auto_is_float32_on_the_processor(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    with pytest.raises(ModelError) as caught:
        pick_device("cuda")
    assert caught.value.kind == "model-device-invalid"


@pytest.mark.parametrize(("capability", "dtype"), [((9, 0), torch.bfloat16), ((7, 0), torch.float16)])
def test_auto_on_a_gpu_takes_bfloat16_where_it_is_native(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (1, 2))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = pick_device("auto")
    assert (device, pick_dtype("auto", device)) == (torch.device("cuda:0"), dtype)


# --- refusals: each before any weight is read -----------------------------------------------------------------------


@pytest.fixture
def no_weights_read(monkeypatch):
    def read(*arguments):
        raise AssertionError("weights were read")

    monkeypatch.setattr(loading, "_read", read)


def refusal(name, *arguments) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load(str(name), *arguments)
    assert caught.value.remedy and "\n" not in caught.value.found
    return caught.value


def write_config(folder: Path, **fields) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"model_type": "t5"}, "model-encoder-decoder"),
        ({"model_type": "bart"}, "model-encoder-decoder"),
        ({"model_type": "vit"}, "model-not-causal"),
        ({"model_type": "brandnew"}, "model-unknown-architecture"),
        ({"model_type": "brandnew", "auto_map": {"AutoConfig": "configuration_x.X"}}, "model-remote-code"),
        ({"hidden_size": 64}, "model-broken"),
        ({"model_type": "llama", "hidden_size": "wide"}, "model-broken"),
        ({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 0}, "model-broken"),
    ],
)
def test_a_configuration_that_is_refused(fields, kind, tmp_path, no_weights_read):
    assert refusal(write_config(tmp_path, **fields)).kind == kind


@pytest.mark.parametrize("text", ["{", "[]", "null", "\x00\x01", '"text"'])
def test_a_configuration_that_is_garbage(text, tmp_path, no_weights_read):
    (tmp_path / "config.json").write_text(text)
    assert refusal(tmp_path).kind == "model-broken"


@pytest.mark.parametrize("architecture", ["mamba", "bert", "rembert"])
def test_a_model_without_a_kv_cache(architecture, tmp_path, no_weights_read):
    found = refusal(tiny_model(architecture, tmp_path))
    assert found.kind == "model-no-kv-cache" and repr(architecture) in found.found


def test_no_code_of_a_repository_is_run(tmp_path, no_weights_read):
    folder = write_config(tmp_path, model_type="brandnew", auto_map={"AutoConfig": "configuration_x.X"})
    (folder / "configuration_x.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass X: pass\n")
    assert refusal(folder).kind == "model-remote-code"
    assert not (tmp_path / "ran").exists()


def test_only_pickles(tmp_path, no_weights_read):
    folder = Path(tiny_model("llama", tmp_path))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert refusal(folder).kind == "model-no-safetensors"


def test_a_truncated_weight_file(tmp_path, no_weights_read):
    folder = Path(tiny_model("llama", tmp_path))
    weights = (folder / "model.safetensors").read_bytes()
    for cut in (weights[: len(weights) // 2], weights[:10], b""):
        (folder / "model.safetensors").write_bytes(cut)
        found = refusal(folder)
        assert found.kind == "model-broken" and "model.safetensors" in found.found


def test_weights_that_leave_the_model_partly_random(tmp_path):
    folder = Path(tiny_model("llama", tmp_path))
    shallow = folder / "shallow"
    tiny_model("llama", shallow, num_hidden_layers=2)
    shutil.copy(shallow / "model.safetensors", folder)
    found = refusal(folder)
    assert found.kind == "model-broken" and "model.layers.2" in found.found


def test_weights_of_another_shape(tmp_path):
    folder = Path(tiny_model("llama", tmp_path))
    tiny_model("llama", folder / "wide", intermediate_size=96)
    shutil.copy(folder / "wide" / "model.safetensors", folder)
    assert refusal(folder).kind == "model-broken"


def test_no_tokenizer(tmp_path, no_weights_read):
    folder = Path(tiny_model("llama", tmp_path))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert refusal(folder).kind == "tokenizer-missing"


def test_a_tokenizer_without_offsets(tmp_path, no_weights_read, monkeypatch):
    class Slow(BertTokenizer):
        is_fast = False

    monkeypatch.setattr(loading.AutoTokenizer, "from_pretrained", lambda *arguments, **keywords: Slow())
    assert refusal(tiny_model("llama", tmp_path)).kind == "tokenizer-slow"


def test_a_model_larger_than_free_memory(tmp_path, no_weights_read, monkeypatch):
    name = tiny_model("llama", tmp_path)
    needed = geometry(name).parameters * 4
    monkeypatch.setattr(memory, "device_memory", lambda device: DeviceMemory("cpu", 2**30, needed - 1, "psutil"))
    found = refusal(name, "cpu", "float32")
    assert found.kind == "model-memory" and memory.readable(needed) in found.expected
    with pytest.raises(AssertionError, match="weights were read"):
        load(name, "cpu", "bfloat16")  # half as large: fits


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_memory_that_runs_out_while_loading(tmp_path, monkeypatch, error):
    def fail(*arguments, **keywords):
        raise error

    name = tiny_model("llama", tmp_path)
    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", fail)
    assert refusal(name).kind == "model-memory"


def test_an_architecture_that_needs_another_package(tmp_path, monkeypatch):
    def fail(*arguments, **keywords):
        raise ImportError("requires the timm library\nlong advice")

    name = tiny_model("llama", tmp_path)
    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_config", fail)
    found = refusal(name)
    assert (found.kind, str(found.found)) == ("model-package-missing", "requires the timm library")


def test_loading_never_trusts_a_repository(tmp_path, monkeypatch):
    name = tiny_model("llama", tmp_path)
    seen = {}
    for loader in (loading.AutoConfig, loading.AutoModelForCausalLM, loading.AutoTokenizer):
        real = loader.from_pretrained

        def spy(*arguments, _real=real, _name=loader.__name__, **keywords):
            seen[_name] = keywords
            return _real(*arguments, **keywords)

        monkeypatch.setattr(loader, "from_pretrained", spy)
    load(name, "cpu")
    assert set(seen) == {"AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"}
    assert all(keywords["trust_remote_code"] is False for keywords in seen.values())
    assert seen["AutoModelForCausalLM"]["use_safetensors"] is True


# --- the same model with random weights -------------------------------------------------------------------------


def test_random_weights_of_the_same_architecture(tmp_path):
    loaded = load(tiny_model("qwen3", tmp_path, seed=1), "cpu")
    loaded.model.config.quantization_config = {"quant_method": "bitsandbytes"}
    state = torch.get_rng_state()
    one, same, other = (random_like(loaded, seed) for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert hasattr(loaded.model.config, "quantization_config")
    assert not hasattr(one.model.config, "quantization_config")
    assert (one.tokenizer, one.geometry) == (loaded.tokenizer, loaded.geometry)
    assert (one.device, one.dtype) == (loaded.device, loaded.dtype)
    assert not one.model.training and not any(p.requires_grad for p in one.model.parameters())

    def keys(model):
        with torch.no_grad():
            return returned(model.model.base_model(torch.arange(1, 8)[None], use_cache=True)).layers[0].keys

    assert (keys(one) - keys(loaded)).abs().max() > 0.1
    assert torch.equal(keys(one), keys(same)) and not torch.equal(keys(one), keys(other))
    assert random_like(load(loaded.name, "cpu", "bf16"), 7).model.dtype == torch.bfloat16


def test_random_weights_that_do_not_fit(tmp_path, monkeypatch):
    loaded = load(tiny_model("llama", tmp_path), "cpu")
    monkeypatch.setattr(memory, "device_memory", lambda device: DeviceMemory("cpu", 10**6, 10**4, "system"))
    with pytest.raises(ModelError) as caught:
        random_like(loaded, 0)
    assert caught.value.kind == "model-memory"


# --- the cache of models ----------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path):
    return [tiny_model("llama", tmp_path / name, num_hidden_layers=1) for name in "abc"]


def test_the_cache_keeps_the_last_used(three, monkeypatch):
    a, b, c = three
    monkeypatch.setattr(loading, "load", loads := counted(load))
    cache = ModelCache(max_models=2)
    first = cache.get(a)
    cache.get(b)
    assert cache.get(f"{a}/") is first and loads.calls == 2
    cache.get(c)
    assert cache.names() == [a, c]  # b was the least recently used
    assert cache.get(a) is first and loads.calls == 3
    assert cache.get(a, dtype="bf16") is not first
    assert cache.get(a, "cpu", "float32") is first
    cache.release()
    assert cache.names() == []
    assert cache.get(a) is not first


def test_at_most_the_bound_is_in_memory_while_another_loads(three, monkeypatch):
    cache = ModelCache(max_models=1)
    held_while_loading = []

    def spy(*arguments):
        held_while_loading.append(cache.names())
        return load(*arguments)

    monkeypatch.setattr(loading, "load", spy)
    for name in three:
        cache.get(name)
    assert held_while_loading == [[], [], []]


def test_many_callers_load_once_and_one_at_a_time(three, monkeypatch):
    busy, most, calls = 0, 0, 0
    guard = threading.Lock()

    def slow(name, device, dtype, *placed):
        nonlocal busy, most, calls
        with guard:
            busy, calls = busy + 1, calls + 1
            most = max(most, busy)
        loaded = load(name, device, dtype, *placed)
        with guard:
            busy -= 1
        return loaded

    monkeypatch.setattr(loading, "load", slow)
    cache, got = ModelCache(3), []
    threads = [threading.Thread(target=lambda n=name: got.append(cache.get(n))) for name in three * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, calls, len(got), len({id(loaded) for loaded in got})) == (1, 3, 9, 3)


def test_a_model_in_the_cache_is_had_while_another_loads(three, monkeypatch):
    cache = ModelCache(3)
    here = cache.get(three[0])
    started, go_on = threading.Event(), threading.Event()

    def stuck(*arguments):
        started.set()
        assert go_on.wait(20)
        return load(*arguments)

    monkeypatch.setattr(loading, "load", stuck)
    thread = threading.Thread(target=cache.get, args=(three[1],))
    thread.start()
    assert started.wait(20)
    assert cache.get(three[0]) is here
    go_on.set()
    thread.join()
    assert cache.names() == [three[1], three[0]] or cache.names() == [three[0], three[1]]


def test_when_memory_is_short_the_others_are_dropped(three, monkeypatch):
    cache = ModelCache(3)
    cache.get(three[0])

    def short(*arguments):
        if cache.names():
            raise ModelError("model-memory", expected="room", found="none", remedy="drop")
        return load(*arguments)

    monkeypatch.setattr(loading, "load", short)
    assert isinstance(cache.get(three[1]), LoadedModel)
    assert cache.names() == [three[1]]


def test_a_failed_load_leaves_the_cache_as_it_was(three, tmp_path):
    cache = ModelCache(3)
    cache.get(three[0])
    with pytest.raises(ModelError):
        cache.get(str(tmp_path))
    assert cache.names() == [three[0]]


def test_a_cache_holds_at_least_one():
    with pytest.raises(ValueError, match="at least 1"):
        ModelCache(0)


def test_geometry_in_one_thread_does_not_disturb_loading_and_reading_in_another(tmp_path):
    """transformers changes torch's default dtype while it builds a model; the worker does both at once."""
    tiny_model("llama", tmp_path)
    over = threading.Event()
    problems = []

    def ask():
        while not over.is_set():
            loading.geometry(str(tmp_path))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(12):
            loaded = loading.load(str(tmp_path), "cpu", "float32")
            dtypes = {p.dtype for p in [*loaded.model.parameters(), *loaded.model.buffers()] if p.is_floating_point()}
            logits = loaded.model(torch.tensor([[1, 2, 3]])).logits
            problems += [found for found in (dtypes - {torch.float32}, {logits.dtype} - {torch.float32}) if found]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not problems
    assert torch.get_default_dtype() == torch.float32
