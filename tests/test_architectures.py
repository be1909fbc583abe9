"""Any decoder of transformers 5: un-rotated keys against the tensor that enters the rotation, layer by layer.

That tensor is caught by a spy in the place of the model's rotary functions, with no help from what is tested.
"""

import functools
import re
import sys

import pytest
import torch
from transformers import DynamicCache

from kvlab import selftest
from kvlab.capture import capture, self_test
from kvlab.errors import AlignError, ModelError
from kvlab.geometry import geometry_of
from kvlab.reading import read
from kvlab.rotation import rotate, unrotate
from kvlab.selftest import proof
from kvlab.types import Geometry, SelfTest
from tests.tiny import tiny_config, tiny_loaded, tiny_tokens

pytestmark = pytest.mark.model

HALF, INTERLEAVED = "half 16", "interleaved 16"
# Per cached layer (one word: all alike) the layout and rotated channels, "none" or "absolute".
ARCHITECTURES = {
    "afmoe": "half 16",
    "apertus": HALF,
    "arcee": HALF,
    "bamba": "half 8",
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
    "lfm2": HALF,
    "llama": HALF,
    "llama4_text": "interleaved 16, interleaved 16, interleaved 16, none",
    "longcat_flash": "interleaved 8",
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
    "zaya": "half 8",
}
FOUR = {"num_hidden_layers": 4}
OVERRIDES = {
    "llama4_text": FOUR,
    "smollm3": FOUR,
    "xglm": {"max_position_embeddings": 256},
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16},
}
# The norm that comes after the rotation is part of the key.
NORM_BEHIND = {
    "hunyuan_v1_dense": "key_layernorm",
    "hunyuan_v1_moe": "key_layernorm",
    "llama4_text": "qk_norm",
    "nanochat": "k_norm",
}
KEYS_FIRST = ("gptj", "codegen", "deepseek_v32")  # of several rotations in a layer the keys' is the first, not the last

BATCH = [tiny_tokens(23, 1), tiny_tokens(5, 2), tiny_tokens(12, 3)]


@functools.cache
def loaded_of(architecture):
    return tiny_loaded(architecture, **OVERRIDES.get(architecture, {}))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def loaded(request):
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


BATCH_LENGTH = 23


def test_unrotated_keys_are_what_entered_the_rotation(loaded, entering):
    seen = entering(loaded)
    result = self_test(loaded)
    seen.clear()
    captured, cached = capture(loaded, BATCH), capture(loaded, BATCH, pre_rope=False)
    geometry = loaded.geometry
    for number, (layer, expected) in enumerate(zip(geometry.kv_layers, per_layer(loaded), strict=True)):
        part = "values" if geometry.latent else "keys"
        found, before = getattr(captured, part)[number], getattr(cached, part)[number]
        assert before.shape == (3, geometry.layer_shapes[number][0], BATCH_LENGTH, before.shape[-1])
        test = result.layers[number]
        assert test.layer == layer and test.error < 1e-5
        assert expected == (f"{test.layout} {test.rotary_width}" if test.positions == "rope" else test.positions)
        if test.positions != "rope":
            assert torch.equal(found, before)
            continue
        key = seen[layer][0 if loaded.name in KEYS_FIRST or len(seen[layer]) == 1 else -1]
        if loaded.name in NORM_BEHIND:
            module = next(
                m
                for m in loaded.model.modules()
                if getattr(m, "layer_idx", None) == layer and hasattr(m, NORM_BEHIND[loaded.name])
            )
            key = getattr(module, NORM_BEHIND[loaded.name])(key)
        width = key.shape[-1]
        assert (found - before).abs().max() > 0.01
        torch.testing.assert_close(found[..., :width], key, rtol=0, atol=1e-5 * float(key.abs().max().clamp(min=1)))
        assert torch.equal(found[..., width:], before[..., width:])
    for kind in ("keys", "values"):
        if kind != ("values" if geometry.latent else "keys"):
            assert all(map(torch.equal, getattr(captured, kind), getattr(cached, kind)))
