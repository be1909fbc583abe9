"""Un-rotated keys against what the projection itself put out; padding against the model's own cache, in a real folder.

Every other architecture: test_architectures.py.
"""

import pytest
import torch
from transformers import DynamicCache

from kvlab.models.cache_names import passing
from kvlab.models.capture import capture
from kvlab.models.loading import load
from kvlab.models.tokens import tokenize
from tests.tiny import tiny_model

pytestmark = pytest.mark.model
TEXTS = ["Three boats leave the mill and one turns over.", "老师慢慢地读这一页。", "12 boats"]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "rope_theta": 10000.0}
MODELS = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "qwen2-yarn": {"rope_parameters": YARN},
}


@pytest.fixture(scope="module", params=MODELS)
def loaded(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    tiny_model(request.param.split("-")[0], folder, tokenizer_style="sentencepiece", **MODELS[request.param])
    return load(str(folder), device="cpu", dtype="float32")


@pytest.fixture
def entering_rotation(loaded):
    """Per layer, what goes into the rotation: the key projection, normalised where the model does that."""
    seen, handles = {}, []
    for number, layer in enumerate(loaded.model.model.layers):
        module = getattr(layer.self_attn, "k_norm", layer.self_attn.k_proj)

        def note(module, args, output, number=number):
            seen[number] = output

        handles.append(module.register_forward_hook(note))
    yield seen
    for handle in handles:
        handle.remove()


def test_pre_rope_keys_are_what_entered_the_rotation(loaded, entering_rotation):
    tokens = [tokenize(loaded.tokenizer, text) for text in TEXTS]
    captured = capture(loaded, tokens)
    geometry = loaded.geometry
    for number, output in entering_rotation.items():
        expected = output.reshape(len(TEXTS), -1, geometry.kv_heads, geometry.key_width).transpose(1, 2)
        for b, document in enumerate(tokens):
            found = captured.document(b).keys[number]
            torch.testing.assert_close(found, expected[b, :, : len(document)], rtol=0, atol=1e-5)


def test_the_rotation_matters(loaded):
    tokens = [tokenize(loaded.tokenizer, TEXTS[0])]
    before, after = capture(loaded, tokens), capture(loaded, tokens, pre_rope=False)
    assert (before.keys[0] - after.keys[0]).abs().max() > 0.01
    torch.testing.assert_close(before.values[0], after.values[0])


def test_a_padded_batch_equals_the_models_own_cache_of_each_document(loaded):
    tokens = [tokenize(loaded.tokenizer, text) for text in TEXTS]
    captured = capture(loaded, tokens, pre_rope=False)
    for b, document in enumerate(tokens):
        with torch.inference_mode():
            cache = DynamicCache()
            loaded.model(torch.from_numpy(document.ids)[None], **passing(loaded.model, cache))
        for number, layer in enumerate(cache.layers):
            torch.testing.assert_close(captured.document(b).keys[number], layer.keys[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(captured.document(b).values[number], layer.values[0], rtol=1e-4, atol=1e-5)


def test_hooks_are_given_back(loaded):
    capture(loaded, [tokenize(loaded.tokenizer, TEXTS[0])])
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())
