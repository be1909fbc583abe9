"""Reading the same tokens at two positions shows what a position does to each layer's keys, and that it is undone.

A rotation that is undone rightly leaves keys that do not depend on where the text stands. So every way in which a
layer's keys could have been rotated (and "not at all") is tried, and the one whose keys move least is taken, if they
do not move at all. What moves the values as well is no rotation but the token's embedding: learned positions.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache, PreTrainedModel

from kvlab.errors import AlignError
from kvlab.models import LoadedModel
from kvlab.probe import Site, pairs_of
from kvlab.reading import read
from kvlab.rotation import HEADS, TIME, Call, Watch, unrotate
from kvlab.types import KINDS, LayerTest, SelfTest

TOKENS = 9
SHIFT = 64  # positions, where the model has that many

# What counts as "does not move": float32 leaves 1e-6 to 1e-5, half precision some percent, a wrong inverse about 1.
TOLERANCE = {torch.float32: 1e-3}
HALF_TOLERANCE = 0.15


@dataclass(frozen=True)
class Tested:
    """A model's self-test and, by cached layer and kind ("key" | "value"), where its rotations are found."""

    result: SelfTest
    sites: dict[tuple[int, str], Site] = field(default_factory=dict)


_tested: WeakKeyDictionary[torch.nn.Module, Tested] = WeakKeyDictionary()


def self_test(loaded: LoadedModel) -> SelfTest:
    """What was found out about the positions in each cached layer; run once per loaded model.

    Raises AlignError ``keys-rotation-unknown`` for a layer whose rotation cannot be undone, and as ``read`` does.
    """
    return tested(loaded).result


@torch.inference_mode()
def tested(loaded: LoadedModel) -> Tested:
    """The self-test with the places of the rotations; raises as ``self_test``."""
    if loaded.model not in _tested:
        _tested[loaded.model] = _test(loaded)
    return _tested[loaded.model]


def _test(loaded: LoadedModel) -> Tested:
    readings = _read_twice(loaded)
    layers, sites = [], {}
    for layer in loaded.geometry.kv_layers:
        here, there = (
            (dict(zip(KINDS, _key_value(cache, layer), strict=True)), watch.layers.get(layer, []))
            for cache, watch in readings
        )
        best = {kind: _best(here, there, kind) for kind in KINDS}
        test = _layer_test(loaded, layer, best, here[1])
        layers.append(test)
        if test.positions == "rope":
            sites |= {(layer, kind): site for kind, (_, site) in best.items() if site is not None}
    return Tested(SelfTest(loaded.name, loaded.geometry.latent, tuple(layers)), sites)


def _read_twice(loaded: LoadedModel) -> list[tuple[DynamicCache, Watch]]:
    ids = torch.arange(1, 1 + TOKENS, device=loaded.device)[None] % loaded.geometry.vocabulary
    if not _takes_positions(loaded.model):  # ALiBi: positions are counted along the cache, padding included
        padded = torch.cat([torch.zeros_like(ids), ids], dim=1)
        mask = (torch.arange(2 * TOKENS, device=loaded.device) >= TOKENS).long()[None]
        return [read(loaded, ids, True), read(loaded, padded, True, attention_mask=mask)]
    positions = torch.arange(TOKENS, device=loaded.device)[None]
    return [read(loaded, ids, True, position_ids=positions + first) for first in (0, _shift(loaded))]


def _takes_positions(model: PreTrainedModel) -> bool:
    return "position_ids" in inspect.signature(model.base_model.forward).parameters


def _shift(loaded: LoadedModel) -> int:
    """As far as the model has positions, and short of those where frequencies change with the length."""
    text = loaded.model.config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    limits = [loaded.geometry.max_positions, getattr(text, "original_max_position_embeddings", None)]
    limits += [
        part.get("original_max_position_embeddings") for part in (rope, *rope.values()) if isinstance(part, dict)
    ]
    return max(1, min([SHIFT, *(limit - TOKENS for limit in limits if limit)]))


def _key_value(cache: DynamicCache, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The last tokens of a layer's keys and values; those before are padding."""
    return tuple(x[:, :, -TOKENS:].float().nan_to_num() for x in (cache.layers[layer].keys, cache.layers[layer].values))


def _best(here, there, kind: str) -> tuple[float, Site | None]:
    """The rotation (None: none) whose undoing makes two readings of a layer's keys or values most alike."""
    (a, calls_here), (b, calls_there) = (here[0][kind], here[1]), (there[0][kind], there[1])
    best = _difference(a, b), None
    for site in _candidates(calls_there, a.shape[-1]):
        if len(calls_here) != len(calls_there):
            break
        undone = unrotate(a, site.rotation(calls_here, {})), unrotate(b, site.rotation(calls_there, {}))
        if (error := _difference(*undone)) < best[0]:
            best = error, site
    return best


def _candidates(calls: list[Call], width: int) -> list[Site]:
    sites = []
    for number, call in enumerate(calls):
        shape = call.shapes[-1]
        for heads_axis, time_axis in ((HEADS, TIME), (TIME, HEADS)):
            if shape[time_axis] != TOKENS or shape[-1] > width:
                continue
            if (pairs := pairs_of(call, heads_axis)) is not None:
                offsets = {0, width - shape[-1]}
                sites += [Site(number, heads_axis, offset, pairs) for offset in sorted(offsets)]
    return sites


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far apart two readings [1, H, T, D] are: per channel relative to its size, rms over D, median over T.

    The largest over heads. Relative to each channel, so that a few large ones do not hide the others; the median, so
    that a token that a router sends to another expert does not speak for all.
    """
    size = a.square().mean(2, keepdim=True).sqrt()
    size = size.clamp(min=1e-6).maximum(1e-3 * size.amax(-1, keepdim=True))
    return float(((a - b) / size).square().mean(-1).sqrt().median(-1).values.max())


def _layer_test(loaded: LoadedModel, layer: int, best: dict[str, tuple[float, Site | None]], calls) -> LayerTest:
    tolerance = TOLERANCE.get(loaded.dtype, HALF_TOLERANCE)
    (key_error, key_site), (value_error, value_site) = best["key"], best["value"]
    site = key_site or value_site
    error = max(key_error, value_error) if value_site else key_error
    embedded = loaded.geometry.positions.kind in ("learned", "sinusoidal")
    if key_error <= tolerance and value_error <= tolerance:
        if site is None:
            return LayerTest(layer, "absolute" if embedded else "none", None, None, 1.0, error)
        rotation = site.rotation(calls, {})
        scale = float((rotation.cos.square() + rotation.sin.square()).mean().sqrt())
        scale = 1.0 if abs(scale - 1) <= tolerance / 10 else scale
        return LayerTest(layer, "rope", 2 * site.pairs.count, site.pairs.layout, scale, error)
    if key_error > tolerance and value_error > tolerance and not calls:
        return LayerTest(layer, "absolute", None, None, 1.0, key_error)
    raise _unknown_rotation(loaded, layer, key_error)


def _unknown_rotation(loaded: LoadedModel, layer: int, error: float) -> AlignError:
    return AlignError(
        "keys-rotation-unknown",
        expected="attention layers whose rotation of the keys (RoPE) can be undone",
        found=f"in layer {layer} of {loaded.name} ({loaded.geometry.architecture}) keys that still depend on the "
        f"position: the same tokens, read at another one, differ by {error:.2g} of their size",
        remedy="align the keys as they are cached: --keys post-rope",
    )
