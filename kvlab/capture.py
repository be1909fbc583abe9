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
from weakref import WeakKeyDictionary

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
    ids: torch.Tensor  # [B, T], 0 where padded
    pre_rope: bool

    def of(self, kind: str) -> list[torch.Tensor]:
        return self.keys if kind == "key" else self.values

    def side_by_side(self, kind: str, layers: tuple[int, ...]) -> torch.Tensor:
        """The heads of several cached layers: [B, len(layers) * H, T, D]."""
        return torch.cat([self.of(kind)[layer] for layer in layers], dim=1)

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

    On the model's device, in float32; with ``pre_rope`` the rotation of the keys is undone. Raises AlignError
    ``keys-rotation-unknown`` for a model whose rotation cannot be undone, as its self-test shows.
    """
    rotated = rotated_layers(loaded) if pre_rope else frozenset()
    ids, mask = _padded(batch, loaded.device)
    cache, rotations = _forward(loaded, ids, attention_mask=mask)
    keys, values = [], []
    for layer in loaded.geometry.kv_layers:
        k, v = cache.layers[layer].keys.float(), cache.layers[layer].values.float()
        keys.append(unrotate(k, rotations[layer]) if layer in rotated else k)
        values.append(v)
    return CapturedBatch(keys, values, batch, ids, pre_rope)


def _forward(loaded: LoadedModel, ids: torch.Tensor, **inputs) -> tuple[DynamicCache, dict[int, Rotation]]:
    """One forward of the base model -> its cache of every token, and what its layers rotated with."""
    geometry = loaded.geometry
    # Built from the configuration a cache forgets what lies outside a sliding window; hybrids need it to exist.
    hybrid = len(geometry.kv_layers) < geometry.layers
    with loaded.lock, _rotations(loaded.model) as rotations:
        cache = DynamicCache(config=loaded.model.config.get_text_config()) if hybrid else DynamicCache()
        loaded.model.base_model(input_ids=ids, past_key_values=cache, use_cache=True, **inputs)
    kept = {cache.layers[layer].keys.shape[2] for layer in geometry.kv_layers}
    if kept != {ids.shape[1]}:
        raise AlignError(
            "cache-incomplete",
            expected=f"a cache of all {ids.shape[1]} tokens in every layer of {loaded.name}",
            found=f"layers with {sorted(kept)} tokens",
            remedy="use shorter prompts (--max-tokens), within the model's sliding window",
        )
    return cache, rotations


# --- the self-test: which layers rotate their keys, and whether that is undone ------------------------------

SHIFT = 64  # positions
_tested: WeakKeyDictionary[torch.nn.Module, frozenset[int]] = WeakKeyDictionary()


def rotated_layers(loaded: LoadedModel) -> frozenset[int]:
    """The layers whose keys RoPE rotates, found once per loaded model by reading the same tokens at two positions.

    Without a rotation a layer's keys do not change; with one that is undone rightly, the un-rotated keys do not.
    """
    if loaded.geometry.positions.kind != "rope":
        return frozenset()
    if loaded.model not in _tested:
        _tested[loaded.model] = _self_test(loaded)
    return _tested[loaded.model]


def _self_test(loaded: LoadedModel) -> frozenset[int]:
    ids = torch.arange(1, 9, device=loaded.device)[None] % loaded.geometry.vocabulary
    readings = []
    for first in (0, SHIFT):
        positions = torch.arange(first, first + ids.shape[1], device=loaded.device)[None]
        readings.append(_forward(loaded, ids, position_ids=positions))
    rotated = set()
    for layer in loaded.geometry.kv_layers:
        (here, rotation_here), (there, rotation_there) = (
            (cache.layers[layer], rotations.get(layer)) for cache, rotations in readings
        )
        if not _alike(here.values, there.values, loaded):
            raise _unknown_rotation(loaded, layer, "values that depend on the position")
        if _alike(here.keys, there.keys, loaded):
            continue
        try:
            undone = unrotate(here.keys.float(), rotation_here), unrotate(there.keys.float(), rotation_there)
        except (TypeError, AttributeError, RuntimeError, IndexError) as error:
            raise _unknown_rotation(loaded, layer, f"a rotation of another form ({type(error).__name__})") from error
        if not _alike(*undone, loaded):
            raise _unknown_rotation(loaded, layer, "keys that still depend on the position")
        rotated.add(layer)
    return frozenset(rotated)


def _alike(a: torch.Tensor, b: torch.Tensor, loaded: LoadedModel) -> bool:
    """Equal to the rounding of the model's own number type. What is not a number is for others to find."""
    tolerance = 1e-3 if loaded.dtype == torch.float32 else 5e-2
    a, b = a.float().nan_to_num(), b.float().nan_to_num()
    return bool((a - b).abs().max() <= tolerance * a.abs().max().clamp(min=1e-6))


def _unknown_rotation(loaded: LoadedModel, layer: int, found: str) -> AlignError:
    return AlignError(
        "keys-rotation-unknown",
        expected="attention layers whose rotation of the keys (RoPE) can be undone",
        found=f"in layer {layer} of {loaded.name} ({loaded.geometry.architecture}) {found}",
        remedy="align the keys as they are cached: --keys post-rope",
    )


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
        if isinstance(embeddings, tuple) and len(embeddings) == 2:
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


def unrotate(keys: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Keys [B, H, T, D] as they were before RoPE; only the first R channels are rotated (R = cos width)."""
    cos, sin = rotation.cos.float(), rotation.sin.float()
    rotated, rest = keys[..., : cos.shape[-1]], keys[..., cos.shape[-1] :]
    _, inverse = rotation.apply(rotated, rotated, cos, -sin)
    return torch.cat([inverse / (cos**2 + sin**2).unsqueeze(1), rest], dim=-1)
