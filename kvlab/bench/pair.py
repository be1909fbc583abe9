"""Build the inputs of the bench: models of random weights in true proportions, and documents from sample lines.

Speed does not depend on the weights. Token ids come from the small demo tokenizers and are valid in any vocabulary.
"""

from functools import cache

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from kvlab.models.geometry import geometry_of
from kvlab.models.loading import LoadedModel, load, random_like
from kvlab.request import prompts
from kvlab.shapes import Document


def _shape(kind: str, hidden: int, mlp: int, layers: int, heads: int, kv_heads: int, vocabulary: int = 2048) -> dict:
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
    }


QWEN2_7B = _shape("qwen2", 3584, 18944, layers=28, heads=28, kv_heads=4, vocabulary=152064)
TINY_LLAMA = _shape("llama", 2048, 5632, layers=22, heads=32, kv_heads=4, vocabulary=32000)
# For a processor: layers as wide as Qwen2-0.5B's and SmolLM-135M's, but fewer of them.
FEW_LAYERS_OF_QWEN2_05B = _shape("qwen2", 896, 4864, layers=6, heads=14, kv_heads=2)
FEW_LAYERS_OF_SMOLLM = _shape("llama", 576, 1536, layers=4, heads=9, kv_heads=3)
SMALL = (
    _shape("qwen2", 128, 256, layers=6, heads=4, kv_heads=2),
    _shape("llama", 128, 256, layers=4, heads=4, kv_heads=2),
)
TINY = tuple({**shape, "hidden_size": 64, "num_hidden_layers": 2} for shape in SMALL)


@cache
def tokenizers() -> tuple:
    """Return the trained tokenizers of the demo teacher (byte-level BPE) and the demo student (SentencePiece)."""
    return tuple(load(f"demo/{role}", "cpu").tokenizer for role in ("teacher", "student"))


def true_shapes(device: torch.device) -> tuple[dict, dict]:
    """Return the shapes of a pair as large as the device can read by the million tokens."""
    return (QWEN2_7B, TINY_LLAMA) if device.type == "cuda" else (FEW_LAYERS_OF_QWEN2_05B, FEW_LAYERS_OF_SMOLLM)


def random_pair(device: torch.device, shapes: tuple[dict, dict]) -> tuple[LoadedModel, LoadedModel]:
    """Build a teacher and a student on the device, in bfloat16 on a GPU and in float32 elsewhere."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    teacher, student = (
        random_model(role, shape, tokenizer, device, dtype)
        for role, shape, tokenizer in zip(("teacher", "student"), shapes, tokenizers(), strict=True)
    )
    return teacher, student


def configured(shape: dict) -> PretrainedConfig:
    return AutoConfig.for_model(**shape, tie_word_embeddings=False)


def random_model(role: str, shape: dict, tokenizer, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    config = configured(shape)
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(config)
    named = LoadedModel(role, shell, tokenizer, geometry_of(config, role), device, dtype)
    return random_like(named, seed=0)


def documents(count: int, characters: int) -> list[Document]:
    """Make distinct texts of ``characters`` to 1.5 times as many, from random lines of the bundled samples."""
    lines = [line for document in prompts.samples() for line in document.text.splitlines()]
    generator = np.random.default_rng(0)
    texts: dict[str, None] = {}
    while len(texts) < count:
        text, wanted = "", characters * generator.uniform(1, 1.5)
        while len(text) < wanted:
            text += lines[generator.integers(len(lines))] + "\n"
        texts[text] = None
    return [Document(f"synthetic-{number}", text) for number, text in enumerate(texts)]
