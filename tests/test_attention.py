"""Observed attention against softmax(Q K^T) by hand, single documents against a batch, and what is given back."""

import numpy as np
import pytest
import torch

from kvlab.errors import AlignError
from kvlab.models.attention import observed_attention, observers
from kvlab.models.loading import load
from kvlab.models.tokens import tokenize
from kvlab.shapes import Segment
from tests.tiny import tiny_model

pytestmark = pytest.mark.model
TEXTS = ["Three boats leave the mill and one turns over.", "老师慢慢地读这一页。", "12 boats"]


def loaded_of(architecture, folder, **fields):
    tiny_model(architecture, folder, tokenizer_style="sentencepiece", **fields)
    return load(str(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return loaded_of("llama", tmp_path_factory.mktemp("llama"))


def test_probabilities_are_the_softmax_of_queries_on_keys(llama):
    """Queries, keys and rotation from the layers' own projections; softmax, mask and heads by hand."""
    tokens = tokenize(llama.tokenizer, TEXTS[0])
    rows = np.array([3, 7, len(tokens) - 1])
    found = observed_attention(llama, [tokens], [rows])
    entering = {}

    def note(module, args, kwargs):
        entering[module.layer_idx] = kwargs["hidden_states"], kwargs["position_embeddings"]

    hooks = [layer.self_attn.register_forward_pre_hook(note, with_kwargs=True) for layer in llama.model.model.layers]
    with torch.inference_mode():
        llama.model(torch.from_numpy(tokens.ids)[None])
    for hook in hooks:
        hook.remove()

    def rotated(x, cos, sin):
        half = x.shape[-1] // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin

    for number, layer in enumerate(llama.model.model.layers):
        hidden, (cos, sin) = entering[number]
        q = rotated(layer.self_attn.q_proj(hidden)[0].reshape(-1, 4, 16).transpose(0, 1), cos[0], sin[0])
        k = rotated(layer.self_attn.k_proj(hidden)[0].reshape(-1, 2, 16).transpose(0, 1), cos[0], sin[0])
        for kv_head in range(2):
            expected = torch.zeros(len(tokens))
            for query_head in (2 * kv_head, 2 * kv_head + 1):
                for row in rows:
                    logits = (k[kv_head, : row + 1] @ q[query_head, row]) / 16**0.5
                    expected[: row + 1] += logits.softmax(0) / 6  # 2 query heads, 3 rows
            torch.testing.assert_close(found[number][0, kv_head], expected, rtol=1e-4, atol=1e-6)


ARCHITECTURES = {
    "llama": {},
    "gpt2": {},
    "qwen3": {},
    "gemma3_text": {"sliding_window": 4},
    "bloom": {},
    "jamba": {},
    "deepseek_v3": {"num_key_value_heads": 4},  # caches a latent of one head, looked at by four
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_shows_its_attention_of_cached_layers(architecture, tmp_path):
    loaded = loaded_of(architecture, tmp_path, **ARCHITECTURES[architecture])
    batch = [tokenize(loaded.tokenizer, text) for text in TEXTS]
    looking = [observers(tokens) for tokens in batch]
    before = loaded.model.config._attn_implementation
    together = observed_attention(loaded, batch, looking)
    geometry = loaded.geometry
    longest = max(map(len, batch))
    assert [tuple(a.shape) for a in together] == [(3, geometry.kv_heads, longest)] * len(geometry.kv_layers)
    for b, tokens in enumerate(batch):
        alone = observed_attention(loaded, [tokens], [looking[b]])
        for of_batch, of_one in zip(together, alone, strict=True):
            torch.testing.assert_close(of_batch[b, :, : len(tokens)], of_one[0], rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(of_one.sum(-1), torch.ones(1, geometry.kv_heads))  # whole probabilities
            assert not of_batch[b, :, len(tokens) :].any()
    assert loaded.model.config._attn_implementation == before
    assert not any(module._forward_hooks for module in loaded.model.modules() if hasattr(module, "layer_idx"))


def test_the_attention_implementation_is_given_back_when_the_forward_fails(llama):
    tokens = tokenize(llama.tokenizer, TEXTS[0])
    with pytest.raises(IndexError):
        observed_attention(llama, [tokens], [np.array([10**6])])
    assert llama.model.config._attn_implementation == "sdpa"
    assert not llama.lock.locked()


def test_a_document_without_observers_looks_nowhere(llama):
    tokens = tokenize(llama.tokenizer, TEXTS[0])
    assert not observed_attention(llama, [tokens], [np.array([], dtype=int)])[0].any()


def test_a_model_that_shows_no_attention_is_refused_with_a_way_out(tmp_path):
    loaded = loaded_of("falcon", tmp_path)
    with pytest.raises(AlignError, match=r"falcon\).*--time floor") as caught:
        observed_attention(loaded, [tokenize(loaded.tokenizer, TEXTS[0])], [np.array([1])])
    assert caught.value.kind == "attention-unavailable"


def test_observers_are_the_answers_tokens_or_the_last_of_the_content(llama):
    text = "three boats leave the mill\ntwo boats"
    tokens = tokenize(llama.tokenizer, text)
    border, end = text.index("two"), len(text)
    rows = observers(tokens, [Segment("prompt", 0, border), Segment("answer", border, end)])
    assert len(rows) and all(tokens.spans[i, 1] > border for i in rows)
    assert rows.tolist() == [i for i in range(len(tokens)) if tokens.spans[i, 1] > border]
    last = np.flatnonzero(~tokens.special)[-8:].tolist()
    assert observers(tokens).tolist() == last
    # An answer that was cut off with the end of a long document leaves nobody to look from it.
    assert observers(tokens, [Segment("prompt", 0, end), Segment("answer", end, end + 9)]).tolist() == last
    assert observers(tokenize(llama.tokenizer, "")).tolist() == []
