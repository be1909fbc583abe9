"""Any decoder of transformers 5: un-rotated keys against the tensor that enters the rotation, layer by layer.

That tensor is caught by a spy in the place of the model's rotary functions, with no help from what is tested.
"""

import dataclasses
import functools
import json
import math
import re
import sys
import threading

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import DynamicCache

from kvlab.errors import AlignError, ModelError
from kvlab.models import proofs
from kvlab.models import rotation as rotation_module
from kvlab.models.cache_names import returned
from kvlab.models.capture import capture
from kvlab.models.forward import read
from kvlab.models.geometry import geometry_of
from kvlab.models.proofs import proof, self_test
from kvlab.models.rotation import Watch, rotate, unrotate, watched
from kvlab.shapes import Geometry, SelfTest
from tests.tiny import tiny_config, tiny_loaded, tiny_tokens

pytestmark = pytest.mark.model

HALF, INTERLEAVED = "half 16", "interleaved 16"
# Per cached layer (one word: all alike) the layout and rotated channels, "none" or "absolute".
ARCHITECTURES = {
    "afmoe": "half 16",
    "apertus": HALF,
    "arcee": HALF,
    "bamba": "half 8",
    "axk2": "interleaved 8",
    "bailing_hybrid": "interleaved 8",
    "biogpt": "absolute",
    "bitnet": HALF,
    "bloom": "none",
    "codegen": "interleaved 8",
    "cohere": INTERLEAVED,
    "cohere2": INTERLEAVED,
    "ctrl": "absolute",
    "cwm": HALF,
    "dbrx": HALF,
    "deepseek_v2": "interleaved 8",
    "deepseek_v3": "interleaved 8",
    "deepseek_v32": "interleaved 8",
    "diffllama": HALF,
    "doge": HALF,
    "dots1": HALF,
    "ernie4_5": INTERLEAVED,
    "ernie4_5_moe": INTERLEAVED,
    "exaone4": HALF,
    "falcon": HALF,
    "falcon_h1": HALF,
    "flex_olmo": HALF,
    "gemma": HALF,
    "gemma2": HALF,
    "gemma3_text": HALF,
    "gemma3n_text": HALF,
    "gemma4_text": "half 16, half 16, half 8",
    "glm": "interleaved 8",
    "glm4": "interleaved 8",
    "glm4_moe": "half 8",
    "glm4_moe_lite": "interleaved 8",
    "gpt2": "absolute",
    "gpt_bigcode": "absolute",
    "gpt_neo": "absolute",
    "gpt_neox": "half 4",
    "gpt_neox_japanese": HALF,
    "gpt_oss": HALF,
    "gptj": "interleaved 8",
    "granite": HALF,
    "granitemoe": HALF,
    "granitemoehybrid": "none",
    "helium": INTERLEAVED,
    "hunyuan_v1_dense": HALF,
    "hunyuan_v1_moe": HALF,
    "jamba": "none",
    "jetmoe": HALF,
    "kimi_linear": "none",
    "laguna": "half 8",
    "lfm2": HALF,
    "lfm2_moe": HALF,
    "llama": HALF,
    "llama4_text": "interleaved 16, interleaved 16, interleaved 16, none",
    "longcat_flash": "interleaved 8",
    "mimo_v2_flash": "half 6",
    "minicpm3": "half 8",
    "minimax": HALF,
    "minimax_m2": HALF,
    "ministral": HALF,
    "mistral": HALF,
    "mixtral": HALF,
    "modernbert-decoder": HALF,
    "mpt": "none",
    "nanochat": HALF,
    "nemotron": "half 8",
    "nemotron_h": "none",
    "olmo": HALF,
    "olmo2": HALF,
    "olmo3": HALF,
    "olmoe": HALF,
    "opt": "absolute",
    "persimmon": "half 8",
    "phi": "half 8",
    "phi3": HALF,
    "phimoe": HALF,
    "qwen2": HALF,
    "qwen2_moe": HALF,
    "qwen3": HALF,
    "qwen3_5_text": "half 4",
    "qwen3_moe": HALF,
    "qwen3_next": "half 4",
    "seed_oss": HALF,
    "smollm3": "half 16, half 16, half 16, none",
    "stablelm": "half 4",
    "starcoder2": HALF,
    "vaultgemma": HALF,
    "xglm": "absolute",
    "youtu": "interleaved 8",
    "zamba2": "none",
    "zaya": "half 8",
}
FOUR = {"num_hidden_layers": 4}
OVERRIDES = {
    "llama4_text": FOUR,
    "smollm3": FOUR,
    "xglm": {"max_position_embeddings": 256},
    "mimo_v2_flash": {"v_head_dim": 8},  # keys wider than values
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16},
}
# The norm that comes after the rotation is part of the key.
NORM_BEHIND = {
    "hunyuan_v1_dense": "key_layernorm",
    "hunyuan_v1_moe": "key_layernorm",
    "llama4_text": "qk_norm",
    "nanochat": "k_norm",
}
KEYS_FIRST = (
    "gptj",
    "codegen",
    "deepseek_v32",
    "axk2",
)  # of several rotations in a layer the keys' is the first, not the last
# The release of transformers that brought an architecture, or put it right.
SINCE = {
    "bailing_hybrid": ("5.20", "unknown"),
    "doge": ("5.18", "not causal"),
    "lfm3": ("5.23", "unknown"),
}

BATCH_LENGTH = 23
BATCH = [tiny_tokens(BATCH_LENGTH, 1), tiny_tokens(5, 2), tiny_tokens(12, 3)]


@functools.cache
def loaded_of(architecture):
    return tiny_loaded(architecture, **OVERRIDES.get(architecture, {}))


def older_than(release):
    return Version(transformers.__version__) < Version(release)


def skip_where_too_old(architecture):
    release, why = SINCE.get(architecture, ("5", ""))
    if older_than(release):
        pytest.skip(f"{architecture} is {why} in transformers {transformers.__version__}, before {release}")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def loaded(request):
    skip_where_too_old(request.param)
    return loaded_of(request.param)


def per_layer(loaded):
    expected = ARCHITECTURES[loaded.name].split(", ")
    return expected * len(loaded.geometry.kv_layers) if len(expected) == 1 else expected


@pytest.fixture
def entering(monkeypatch):
    """entering(loaded) -> per layer what goes into its rotations from now on, as [B, H, T, D]."""
    handles = []

    def spy_on(loaded):
        seen, current = {}, []

        def spy(function):
            @functools.wraps(function)
            def call(*args, **kwargs):
                result = function(*args, **kwargs)
                if current:
                    k = args[1] if isinstance(result, tuple) else next(iter([*args, *kwargs.values()]))
                    seen.setdefault(current[-1], []).append(k if k.shape[2] == BATCH_LENGTH else k.transpose(1, 2))
                return result

            return call

        for module in loaded.model.modules():
            source = sys.modules[type(module).__module__]
            for name, value in list(vars(source).items()):
                if re.match("apply_rotary", name) and not hasattr(value, "__wrapped__"):
                    monkeypatch.setattr(source, name, spy(value))
            if isinstance(getattr(module, "layer_idx", None), int):
                handles.append(module.register_forward_pre_hook(lambda m, _: current.append(m.layer_idx)))
                handles.append(module.register_forward_hook(lambda *_: current.__delitem__(-1)))
        return seen

    yield spy_on
    for handle in handles:
        handle.remove()


def test_unrotated_keys_are_what_entered_the_rotation(loaded, entering):
    seen = entering(loaded)
    result = self_test(loaded)
    seen.clear()
    captured, cached = capture(loaded, BATCH), capture(loaded, BATCH, pre_rope=False)
    geometry = loaded.geometry
    rotary, other = ("values", "keys") if geometry.latent else ("keys", "values")
    for number, (layer, expected) in enumerate(zip(geometry.kv_layers, per_layer(loaded), strict=True)):
        found, before = getattr(captured, rotary)[number], getattr(cached, rotary)[number]
        assert torch.equal(getattr(captured, other)[number], getattr(cached, other)[number])
        test = result.layers[number]
        assert test.layer == layer and test.error < 1e-5
        assert expected == (f"{test.layout} {test.rotary_width}" if test.positions == "rope" else test.positions)
        if test.positions != "rope":
            assert torch.equal(found, before)
            continue
        key = seen[layer][0 if loaded.name in KEYS_FIRST else -1]
        if norm := norm_behind(loaded, layer):
            key = norm(key)
        width = key.shape[-1]
        assert (found - before).abs().max() > 0.01
        if found.shape[1] != key.shape[1]:  # sparse latent attention before 5.18: in every head, behind its own part
            found, before, key = found.flip(-1), before.flip(-1), key.flip(-1).expand(-1, found.shape[1], -1, -1)
        close(found[..., :width], key)
        assert torch.equal(found[..., width:], before[..., width:])


def test_a_padded_batch_equals_single_documents(loaded):
    together = capture(loaded, BATCH)
    for b, document in enumerate(BATCH):
        alone, padded = capture(loaded, [document]), together.document(b)
        for kind in ("keys", "values"):
            for x, y, shape in zip(
                getattr(padded, kind), getattr(alone, kind), loaded.geometry.layer_shapes, strict=True
            ):
                width = shape[1 if kind == "keys" else 2]
                assert x.shape == (shape[0], len(document), width)
                close(x, y[0])


def close(found, expected):
    scale = float(expected.abs().max().clamp(min=1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale)


def norm_behind(loaded, layer):
    name = NORM_BEHIND.get(loaded.name)
    owners = [m for m in loaded.model.modules() if getattr(m, "layer_idx", None) == layer and name and hasattr(m, name)]
    return getattr(owners[0], name) if owners else None


# --- what single architectures have -------------------------------------------------------------------------------


def test_rotated_again_the_keys_are_those_of_the_cache():
    for architecture in ("llama", "glm", "gpt_oss", "deepseek_v3", "hunyuan_v1_dense"):
        loaded = loaded_of(architecture)
        watch = Watch()
        ids = torch.from_numpy(BATCH[0].ids)[None]
        with torch.inference_mode():
            cache = read(loaded, ids, watch)
            for (layer, kind), site in proof(loaded).sites.items():
                stored = getattr(cache.layers[layer], f"{kind}s")
                rotation = site.rotation(watch.layers[layer], {})
                close(rotate(unrotate(stored, rotation), rotation), stored)


SCALED = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0, "original_max_position_embeddings": 16},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "longrope": {
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


@pytest.mark.parametrize("scaling", SCALED)
def test_scaled_rotations(scaling, entering):
    """Also of texts longer than the original length, where some scalings turn by other frequencies."""
    rope = {"rope_type": scaling, "rope_theta": 10000.0, **SCALED[scaling]}
    loaded = tiny_loaded("llama", max_position_embeddings=64, rope_parameters=rope)
    result = self_test(loaded)
    factor = {"yarn": 0.1 * math.log(4) + 1, "longrope": math.sqrt(1 + math.log(4) / math.log(16))}.get(scaling, 1.0)
    assert [test.scale for test in result.layers] == pytest.approx([factor] * 3, abs=1e-5)
    seen = entering(loaded)
    for found, layer in zip(capture(loaded, BATCH).keys, loaded.geometry.kv_layers, strict=True):
        close(found, seen[layer][-1])


def test_two_rotations_by_layer_type(entering):
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 7e5, "factor": 8.0},
    }
    loaded = tiny_loaded("gemma3_text", rope_parameters=rope)
    proof(loaded)
    seen = entering(loaded)
    captured = capture(loaded, BATCH)
    for found, layer in zip(captured.keys, loaded.geometry.kv_layers, strict=True):
        close(found, seen[layer][-1])


WINDOWS = {
    "mistral": {},
    "gemma2": {},
    "gemma3_text": {},
    "gpt_oss": {},
    "llama4_text": {},  # in chunks
    "lfm3": {"layer_types": ["conv", "sliding_attention", "full_attention"]},  # a hybrid with a window
}


@pytest.mark.parametrize("architecture", WINDOWS)
def test_a_sliding_window_cuts_nothing_and_still_masks(architecture):
    skip_where_too_old(architecture)
    window = "attention_chunk_size" if architecture == "llama4_text" else "sliding_window"
    loaded, wide = (tiny_loaded(architecture, **{window: size}, **WINDOWS[architecture]) for size in (6, 64))
    captured, unmasked = (capture(model, BATCH, pre_rope=False) for model in (loaded, wide))
    assert {x.shape[2] for x in captured.keys + captured.values} == {BATCH_LENGTH}
    with torch.inference_mode():
        own = returned(loaded.model(torch.from_numpy(BATCH[0].ids)[None], use_cache=True))  # cuts
    last = loaded.geometry.kv_layers[-1]
    kept = own.layers[last].keys
    close(captured.keys[-1][:1, :, -kept.shape[2] :], kept)
    assert (captured.keys[-1] - unmasked.keys[-1]).abs().max() > 1e-2


def test_a_latent_is_one_space():
    loaded = loaded_of("deepseek_v3")
    captured = capture(loaded, BATCH)
    assert loaded.geometry.latent and captured.latent and self_test(loaded).latent
    assert loaded.geometry.layer_shapes == ((1, 32, 8),) * 3
    attention = loaded.model.model.layers[0].self_attn
    compressed = {}
    handle = attention.kv_a_proj_with_mqa.register_forward_hook(lambda m, a, out: compressed.update(out=out))
    captured = capture(loaded, BATCH)
    handle.remove()
    latent, rotary = compressed["out"].split([32, 8], dim=-1)
    expected = torch.cat([attention.kv_a_layernorm(latent), rotary], dim=-1)[:, None]
    for kind in ("key", "value"):
        close(captured.features(kind)[0], expected)
    assert captured.side_by_side("key", (0, 2)).shape == (3, 2, BATCH_LENGTH, 40)


def test_layers_of_different_widths():
    loaded = loaded_of("gemma4_text")
    geometry = loaded.geometry
    assert geometry.layer_shapes == ((2, 16, 16), (2, 16, 16), (2, 32, 32))
    assert geometry.kv_values_per_token == 2 * 2 * 32 + 2 * 64
    captured = capture(loaded, BATCH)
    assert captured.side_by_side("key", (0, 1)).shape == (3, 4, BATCH_LENGTH, 16)
    mixed = captured.side_by_side("value", (1, 2))
    assert mixed.shape == (3, 1, BATCH_LENGTH, 2 * 16 + 2 * 32)
    assert torch.equal(mixed[:, 0, :, 16:32], captured.values[1][:, 1])
    assert torch.equal(mixed[:, 0, :, 32:64], captured.values[2][:, 0])
    assert Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry


def test_a_geometry_written_before_layers_could_differ():
    geometry = loaded_of("llama").geometry
    old = {name: value for name, value in geometry.to_dict().items() if name not in ("layer_shapes", "latent")}
    assert Geometry.from_dict(old) == geometry
    with pytest.raises(ValueError, match="layer_shapes"):
        dataclasses.replace(geometry, key_width=8)


def test_one_head_for_all_queries():
    captured = capture(loaded_of("falcon"), BATCH)
    assert [x.shape[1] for x in captured.keys + captured.values] == [1] * 6
    assert all(map(torch.equal, captured.features("key"), captured.keys))


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("mamba", "model-no-kv-cache"),
        ("rwkv", "model-no-kv-cache"),
        ("bert", "model-no-kv-cache"),
        ("openai-gpt", "model-no-kv-cache"),
        ("bart", "model-encoder-decoder"),
        ("t5", "model-encoder-decoder"),
    ],
)
def test_models_without_such_a_cache_are_refused(architecture, kind):
    with pytest.raises(ModelError) as caught:
        geometry_of(tiny_config(architecture), architecture)
    assert caught.value.kind == kind


READS_AHEAD = {
    "gemma3_text": {"use_bidirectional_attention": True},  # as EmbeddingGemma
    # Before 5.18 it leaves out the causal mask where nothing is padded; later its router still mixes tokens.
    "doge": {} if older_than("5.18") else {"is_moe": True, "num_experts": 16},
}


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [("gemma3_text", torch.float32), ("gemma3_text", torch.bfloat16), ("doge", torch.float32)],
)
def test_a_model_that_reads_ahead_is_refused_whichever_keys_are_compared(architecture, dtype):
    loaded = tiny_loaded(architecture, dtype=dtype, **READS_AHEAD[architecture])
    calls = (self_test, lambda model: capture(model, BATCH), lambda model: capture(model, BATCH, pre_rope=False))
    for call in calls:
        with pytest.raises(AlignError, match=f"{architecture}.*reads ahead") as caught:
            call(loaded)
        assert caught.value.kind == "cache-not-causal"


# --- the self-test ------------------------------------------------------------------------------------------------


def test_the_self_test_runs_once_and_reads_back(monkeypatch):
    loaded = tiny_loaded("stablelm")
    result = self_test(loaded)
    monkeypatch.setattr(proofs, "_test", None)
    assert self_test(loaded) is result
    assert SelfTest.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_the_self_test_in_a_sentence():
    rope = "largest difference between two positions "
    assert (
        self_test(loaded_of("smollm3"))
        .sentence()
        .startswith(f"RoPE undone in 3 of 4 layers (half layout, 16 channels), {rope}")
    )
    assert self_test(loaded_of("smollm3")).sentence().endswith("; 1 layer without RoPE")
    assert "(half layout, 16 channels, scaled by 1.347)" in self_test(loaded_of("gpt_oss")).sentence()
    assert self_test(loaded_of("gpt2")).sentence() == "positions are part of keys and values in 3 layers"
    assert self_test(loaded_of("bloom")).sentence() == "3 layers without RoPE"
    assert "latent attention" in self_test(loaded_of("deepseek_v3")).sentence()


@pytest.mark.parametrize("architecture", ["qwen2", "gpt_oss", "qwen3_moe", "deepseek_v3", "cohere", "gpt2", "bloom"])
def test_half_precision_with_channels_of_very_different_size(architecture):
    loaded = tiny_loaded(architecture, dtype=torch.bfloat16)
    for name, parameter in loaded.model.named_parameters():
        if re.search("k_proj.bias", name):
            parameter[::5] *= 300  # as Qwen2 has them
    test = self_test(loaded).layers[0]
    expected = self_test(loaded_of(architecture)).layers[0]
    assert dataclasses.replace(test, error=0, scale=0) == dataclasses.replace(expected, error=0, scale=0)
    assert test.scale == pytest.approx(expected.scale, rel=1e-2)


def wrong_sign(x, rotation):
    return unrotate(x, dataclasses.replace(rotation, sin=-rotation.sin))


def wrong_layout(x, rotation):
    order = torch.arange(x.shape[-1]).view(-1, 2).T.flatten()
    return unrotate(x[..., order], rotation)


@pytest.mark.parametrize("wrong", [wrong_sign, wrong_layout])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wrong_inverse_is_found_out(wrong, dtype, monkeypatch):
    monkeypatch.setattr(proofs, "unrotate", wrong)
    with pytest.raises(AlignError) as caught:
        self_test(tiny_loaded("llama", dtype=dtype))
    assert caught.value.kind == "keys-rotation-unknown"


def test_a_rotation_that_nobody_sees_is_refused_and_post_rope_is_not(monkeypatch):
    monkeypatch.setattr(rotation_module, "NAMED_AFTER_A_ROTATION", re.compile("no such name"))
    loaded = tiny_loaded("llama")
    with pytest.raises(AlignError, match="--keys post-rope") as caught:
        capture(loaded, BATCH)
    assert caught.value.kind == "keys-rotation-unknown"
    assert capture(loaded, BATCH, pre_rope=False).keys[0].shape == (3, 2, BATCH_LENGTH, 16)


def test_what_was_borrowed_is_given_back_and_other_threads_are_left_alone():
    loaded = loaded_of("llama")
    source = sys.modules[type(loaded.model).__module__]
    before = source.apply_rotary_pos_emb
    watch, cache = Watch(), DynamicCache()
    with pytest.raises(ZeroDivisionError), watched(loaded.model, watch, cache):
        assert source.apply_rotary_pos_emb is not before
        x, cos = torch.ones(1, 2, 3, 4), torch.ones(1, 3, 4)
        thread = threading.Thread(target=source.apply_rotary_pos_emb, args=(x, x, cos, cos))
        thread.start()
        thread.join()
        assert watch.pending == []
        source.apply_rotary_pos_emb(x, x, cos, cos)
        assert len(watch.pending) == 1
        raise ZeroDivisionError
    assert "update" not in vars(cache)
    assert source.apply_rotary_pos_emb is before
    self_test(tiny_loaded("llama"))
    assert not any(m._forward_pre_hooks for m in loaded.model.modules())
