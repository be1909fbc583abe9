"""A model and tokens -> KV, with the rotation of the keys undone.

The rotation is undone with the model's own function: each attention layer receives its cos and sin and its module
holds ``apply_rotary_pos_emb``; calling it with -sin and dividing by cos^2 + sin^2 is the inverse, whatever the
layout of the pairs, and also where the rotation is scaled (YaRN). Exact to rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from transformers import DynamicCache

from kvlab.errors import AlignError
from kvlab.models import LoadedModel
from kvlab.types import KV, Tokens


@dataclass
class Rotation:
    """What one attention layer was given, and the function it used."""

    cos: torch.Tensor  # [B, T, R]
    sin: torch.Tensor
    apply: object


@dataclass(frozen=True)
class CapturedBatch:
    """The caches of several documents, right-padded: per cached layer keys [B, H, T, Dk], values [B, H, T, Dv]."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    tokens: list[Tokens]
    pre_rope: bool

    def of(self, kind: str) -> list[torch.Tensor]:
        return self.keys if kind == "key" else self.values

    def document(self, b: int) -> KV:
        """One document without its padding."""
        length = len(self.tokens[b])
        return KV(
            keys=[k[b, :, :length] for k in self.keys],
            values=[v[b, :, :length] for v in self.values],
            tokens=self.tokens[b],
            pre_rope=self.pre_rope,
        )


@torch.inference_mode()
def capture(loaded: LoadedModel, batch: list[Tokens], pre_rope: bool = True) -> CapturedBatch:
    """The caches of several documents in one forward of the base model, padded on the right and masked.

    On the model's device, in float32; with ``pre_rope`` the rotation of the keys is undone.
    """
    ids, mask = _padded(batch, loaded.device)
    with loaded.lock, _rotations(loaded.model) as rotations:
        cache = DynamicCache()
        loaded.model.base_model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
    keys, values = [], []
    for layer in loaded.geometry.kv_layers:
        k, v = cache.layers[layer].keys.float(), cache.layers[layer].values.float()
        keys.append(_unrotated(k, loaded, layer, rotations) if pre_rope else k)
        values.append(v)
    return CapturedBatch(keys, values, batch, pre_rope)


def _padded(batch: list[Tokens], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(tokens) for tokens in batch)
    ids = np.zeros((len(batch), longest), dtype=np.int64)
    mask = np.zeros((len(batch), longest), dtype=np.int64)
    for b, tokens in enumerate(batch):
        ids[b, : len(tokens)] = tokens.ids
        mask[b, : len(tokens)] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


@contextmanager
def _rotations(model: torch.nn.Module) -> Iterator[dict[int, Rotation]]:
    """Note, during one forward, the position embeddings that each attention layer receives."""
    seen: dict[int, Rotation] = {}

    def note(module, args, kwargs):
        embeddings = kwargs.get("position_embeddings")
        if embeddings is not None:
            apply = getattr(sys.modules[type(module).__module__], "apply_rotary_pos_emb", None)
            seen[module.layer_idx] = Rotation(*embeddings, apply)

    hooks = [
        module.register_forward_pre_hook(note, with_kwargs=True)
        for module in model.modules()
        if isinstance(getattr(module, "layer_idx", None), int)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _unrotated(keys: torch.Tensor, loaded: LoadedModel, layer: int, rotations: dict[int, Rotation]) -> torch.Tensor:
    if loaded.geometry.positions.kind != "rope":
        return keys
    rotation = rotations.get(layer)
    if rotation is None or rotation.apply is None:
        raise AlignError(
            "keys-rotation-unknown",
            expected="attention layers that receive position_embeddings (cos, sin)",
            found=f"none in layer {layer} of {loaded.name} ({loaded.geometry.architecture})",
            remedy="align the keys as they are cached: --keys post-rope",
        )
    return unrotate(keys, rotation)


def unrotate(keys: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Keys [B, H, T, D] as they were before RoPE; only the first R channels are rotated (R = cos width)."""
    cos, sin = rotation.cos.float(), rotation.sin.float()
    rotated, rest = keys[..., : cos.shape[-1]], keys[..., cos.shape[-1] :]
    _, inverse = rotation.apply(rotated, rotated, cos, -sin)
    return torch.cat([inverse / (cos**2 + sin**2).unsqueeze(1), rest], dim=-1)
