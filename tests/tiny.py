"""Tiny random models and tokenizers, built in code in well under a second each.

    name = tiny_model("qwen3", tmp_path / "teacher")                                      # byte-level BPE, like Qwen
    name = tiny_model("llama", tmp_path / "student", tokenizer_style="sentencepiece")     # dummy prefix, BOS

gives a complete local model folder for any architecture that transformers knows, by its ``model_type``. Further
keywords are fields of its configuration. Sizes: hidden 64, 3 layers, 4 query heads, 2 KV heads where the
architecture groups them, head width 16.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from kvlab.models.geometry import geometry_of
from kvlab.models.loading import LoadedModel
from kvlab.shapes import Tokens

TEXT = """\
The river runs past the old mill, and every spring the children of the village build small boats from bark.
A boat that is made well will reach the bridge; a boat that is made badly turns over at the first stone.
Question: if three boats leave the mill and one turns over, how many reach the bridge? Answer: two boats.
She said: "Numbers matter. 12 boats, 7 stones, 1 bridge." He didn't agree, but he kept on counting anyway.
The teacher reads the page slowly, and the student reads it again; what they remember is not the same thing.
When the water is high, the miller opens the gate. When the water is low, the miller closes the gate and waits.
def reach(boats, lost):
    return boats - lost  # the ones that reach the bridge
河水流过旧磨坊，每年春天，村里的孩子们用树皮做小船。做得好的船会到达桥边，做得不好的船会在第一块石头处翻倒。
问题：三只船离开磨坊，一只翻了，有几只到达桥边？答案：两只船。
老师慢慢地读这一页，学生再读一遍；他们记住的东西不一样。水位高的时候，磨坊主打开闸门；水位低的时候，他关上闸门等待。
"""

# Qwen2's way to cut text into words, shortened: one digit at a time, a space belongs to the word behind it.
WORDS = r"'(?:s|t|re|ve|m|ll|d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# Passed to every architecture that has the field; the fields it lacks are left out.
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "initializer_range": 0.15,  # wide enough that attention and logits are far from uniform
    "tie_word_embeddings": False,
    # experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    # latent attention
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}
LINEAR_THEN_FULL = {
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
# What the common fields cannot say.
EXTRAS = {
    "opt": {"word_embed_proj_dim": 64, "ffn_dim": 128},
    "gpt2": {"tie_word_embeddings": True},
    "bloom": {"tie_word_embeddings": True},
    "gptj": {"rotary_dim": 8},
    "codegen": {"rotary_dim": 8},
    "gemma2": {"query_pre_attn_scalar": 16},
    "gemma3_text": {"query_pre_attn_scalar": 16, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "num_kv_shared_layers": 1,
        "vocab_size_per_layer_input": 400,
        "hidden_size_per_layer_input": 8,
        "activation_sparsity_pattern": [0.0] * 3,
    },
    "gemma4_text": {
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "global_head_dim": 32,
        "vocab_size_per_layer_input": 400,
        "hidden_size_per_layer_input": 8,
    },
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]], "num_layers": 3},
    "dbrx": {
        "d_model": 64,
        "n_heads": 4,
        "n_layers": 3,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "longcat_flash": {
        "head_dim": 8,
        "num_layers": 2,
        "ffn_hidden_size": 64,
        "expert_ffn_hidden_size": 32,
        "moe_topk": 2,
    },
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid", "mamba"],
        "mamba_d_state": 16,
        "n_mamba_heads": 8,
    },
    "dots1": {"n_shared_experts": 1},
    "zaya": {"num_experts_per_tok": 1},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_state": 16},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba"], "mamba_n_heads": 8, "mamba_d_state": 16},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "minimax": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "qwen3_next": LINEAR_THEN_FULL,
    "qwen3_5_text": LINEAR_THEN_FULL,
    "bailing_hybrid": LINEAR_THEN_FULL,
    "kimi_linear": {**LINEAR_THEN_FULL, "linear_num_heads": 2, "linear_head_dim": 16},
    "qwen4_exp_text": LINEAR_THEN_FULL,
}


def tiny_tokenizer(
    folder: Path | str, style: str = "byte", vocab: int = 400, text: str = TEXT
) -> PreTrainedTokenizerFast:
    """Train a fast tokenizer on ``text``, save it to ``folder`` and return it.

    ``style``: "byte" is byte-level BPE as Qwen2's (NFC, no BOS); "sentencepiece" is Llama's (dummy prefix ▁,
    byte fallback for what it never saw, BOS). ``vocab`` counts everything; at least 257 and 259 plus characters.
    """
    build = {"byte": _byte_level, "sentencepiece": _sentencepiece_like}[style]
    tokenizer = build(vocab, text)
    tokenizer.save_pretrained(folder)
    return tokenizer


def tiny_model(
    architecture: str,
    folder: Path | str,
    seed: int = 0,
    tokenizer_style: str = "byte",
    vocab: int = 400,
    text: str = TEXT,
    **config_overrides,
) -> str:
    """Write a model of random weights and its tokenizer to ``folder``; returns the folder as a model name."""
    tokenizer = tiny_tokenizer(folder, tokenizer_style, vocab, text)
    config = tiny_config(architecture, len(tokenizer), **config_overrides)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    return str(folder)


def tiny_loaded(
    architecture: str, seed: int = 0, dtype: torch.dtype = torch.float32, **config_overrides
) -> LoadedModel:
    """A model of random weights in memory, without a folder or a tokenizer.

    Vectors (norm weights, biases) are random too: at the values they are initialised with they hide mistakes.
    """
    config = tiny_config(architecture, **config_overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.2 * torch.randn_like(parameter)
    model = model.to(dtype).eval().requires_grad_(False)
    return LoadedModel(architecture, model, None, geometry_of(config, architecture), torch.device("cpu"), dtype)


def tiny_tokens(length: int, seed: int = 0, vocab: int = 400) -> Tokens:
    """A document of random tokens, a byte each."""
    ids = np.random.default_rng(seed).integers(1, vocab, length)
    spans = np.stack([np.arange(length), np.arange(length) + 1], axis=1)
    return Tokens(ids, spans, np.zeros(length, dtype=bool), lossless=True)


def tiny_config(architecture: str, vocab: int = 400, **overrides):
    """The configuration of a tiny model of ``architecture``, transformers' ``model_type``."""
    default = AutoConfig.for_model(architecture)
    fields = {**SIZES, "vocab_size": vocab, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    fields = {**fields, **EXTRAS.get(architecture, {}), **overrides}
    parts = {name: getattr(default, name, None) for name in type(default).sub_configs}
    parts = {name: part for name, part in parts.items() if part is not None}
    if "text_config" not in parts:
        given = {**EXTRAS.get(architecture, {}), **overrides}
        return AutoConfig.for_model(architecture, **_accepted(default, fields, given))
    small = {name: {"model_type": part.model_type, **_accepted(part, fields)} for name, part in parts.items()}
    small["text_config"].update(overrides)
    return AutoConfig.for_model(architecture, **small)


def _accepted(default, fields: dict, overrides: dict | None = None) -> dict:
    latent = _has(default, "kv_lora_rank") and default.to_dict().get("kv_lora_rank") is not None
    unwanted = {"head_dim", "num_key_value_heads"} if latent else set()  # latent attention derives them
    writable = {
        name: value
        for name, value in fields.items()
        if _has(default, name) and not isinstance(getattr(type(default), name, None), property)
    }
    return {name: value for name, value in writable.items() if name not in unwanted} | (overrides or {})


def _has(config, name: str) -> bool:
    try:
        return hasattr(config, name)
    except RuntimeError:  # a field that differs by layer
        return True


def _byte_level(vocab: int, text: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)


def _sentencepiece_like(vocab: int, text: str) -> PreTrainedTokenizerFast:
    fixed = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=vocab - len(fixed), show_progress=False)
    trained.train_from_iterator(text.splitlines(), trainer)
    learned = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    ids = {token: index for index, token in enumerate([*fixed, *(token for token, _ in learned)])}
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]

    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
