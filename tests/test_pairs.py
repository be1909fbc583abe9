"""Any two decoders: tiny random models of every form aligned end to end, and each with itself."""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kvlab.align.pipeline import align
from kvlab.request.align import AlignSettings
from kvlab.results.alignment import data
from kvlab.shapes import Document
from tests.tiny import TEXT, tiny_loaded, tiny_tokenizer

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("pairs")]

ARCHITECTURES = (
    *("llama", "qwen2", "qwen3", "qwen3_moe", "mistral", "mixtral", "gemma2", "gemma3_text", "phi", "phi3", "gpt2"),
    *("gpt_neox", "gptj", "opt", "bloom", "falcon", "stablelm", "cohere", "glm", "olmo2", "deepseek_v3", "gpt_oss"),
    *("smollm3", "qwen3_next", "jamba", "gemma4_text", "gemma3n_text", "llama4_text"),
)
# Each with the one after the sixth, of another family: a teacher and a student once.
PAIRS = [(a, ARCHITECTURES[(i + 7) % len(ARCHITECTURES)]) for i, a in enumerate(ARCHITECTURES)]
SETTINGS = AlignSettings(inspect=1, sample_tokens=400, batch_tokens=512, folds=3)


@functools.cache
def tokenizer(style):
    return tiny_tokenizer(Path(tempfile.mkdtemp()), style)


@functools.cache
def model(architecture, style):
    """Cached: two tokenizers over the same weights."""
    loaded = tiny_loaded(architecture)
    return replace(loaded, tokenizer=tokenizer(style), name=architecture)


@functools.cache
def documents(count=16, words=24):
    rng = np.random.default_rng(1)
    return tuple(Document(f"d{i}", " ".join(rng.choice(TEXT.split(), words))) for i in range(count))


@pytest.mark.parametrize(("teacher", "student"), PAIRS, ids=[f"{t}-{s}" for t, s in PAIRS])
def test_a_pair_is_aligned_end_to_end(teacher, student, tmp_path):
    teacher, student = model(teacher, "byte"), model(student, "sentencepiece")
    result, maps = align(teacher, student, documents(), SETTINGS)
    shapes = student.geometry.layer_shapes
    expected = [
        (kind, layer, head)
        for kind in ("key", "value")
        for layer, shape in zip(student.geometry.kv_layers, shapes)
        for head in range(shape[0])
    ]
    assert [(s.kind, s.layer, s.head) for s in result.heads] == expected
    table = result.table()
    assert np.isfinite(table[["r2", "r2_identity", "r2_random", "r2_shuffled", "gain_se"]].to_numpy()).all()
    assert table["r2_shuffled"].max() < 0.15  # few rows
    for kind, map_of_kind in maps.items():
        chosen = result.layer_map["teacher_layers"][kind]
        assert {layer for layers in chosen for layer in layers} <= set(teacher.geometry.kv_layers)
        assert len(map_of_kind.layers) == len(shapes) == len(chosen)
    data.write(result, tmp_path)
    assert data.plain(data.read(tmp_path).to_dict()) == data.plain(result.to_dict())
    assert result.capture["teacher"]["latent"] == teacher.geometry.latent


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_explains_itself(architecture):
    own = model(architecture, "byte")
    settings = SETTINGS.model_copy(update={"inspect": 0, "layers": "depth", "random_teacher": False})
    result, _ = align(own, own, documents(24, 30), settings)
    assert result.timeline["rules"]["floor"]["exact_rate"] == 1
    assert result.table()["error"].max() < 1e-4
    assert all(
        layers == [layer] for layer, layers in zip(own.geometry.kv_layers, result.layer_map["teacher_layers"]["key"])
    )
