"""Prove our assumptions about a model's cache: rotations can be undone, and no token sees ahead.

The self-test reads the same tokens at two positions and gives every layer the hidden states of the first reading, so a
layer's keys can differ only by its rotation. It tries every possible rotation, and none at all, chooses the one that
leaves the keys equal once undone, and refuses the layer if there is none. Where the hidden states that enter the first
layer differ themselves, positions are part of the embedding: learned or sinusoidal.

A cache can be aligned token by token only where its entries for a token depend on no later token. A model may read
ahead because its configuration says so (an embedding model made from a decoder), because it routes tokens to experts by
other tokens of the text, or because its code in the installed transformers forgets the causal mask.
"""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary, WeakSet

import torch
import transformers
from accelerate.utils.modeling import align_module_device
from transformers import DynamicCache, PreTrainedModel

from kvlab.errors import AlignError
from kvlab.language import Message
from kvlab.models.forward import exchanged_inputs, read
from kvlab.models.loading import LoadedModel
from kvlab.models.rotation import HEADS, TIME, Call, Watch, unrotate
from kvlab.models.rotation_probe import Known, Site, pairs_of
from kvlab.shapes import KINDS, LayerTest, SelfTest


@dataclass(frozen=True)
class Proof:
    """A model's self-test and, by cached layer and kind ("key" | "value"), the places of its rotations."""

    result: SelfTest
    sites: dict[tuple[int, str], Site] = field(default_factory=dict)


_proofs: WeakKeyDictionary[torch.nn.Module, Proof] = WeakKeyDictionary()


def self_test(loaded: LoadedModel) -> SelfTest:
    """Return the results of the self-test for each cached layer; it runs once per loaded model.

    Raises AlignError ``keys-rotation-unknown`` for a layer whose rotation cannot be undone, and as ``check_causal`` and
    ``read`` do.
    """
    return proof(loaded).result


@torch.inference_mode()
def proof(loaded: LoadedModel) -> Proof:
    """Return the self-test with the places of the rotations; raises as ``self_test``."""
    if loaded.model not in _proofs:
        check_causal(loaded)
        _proofs[loaded.model] = _test(loaded)
    return _proofs[loaded.model]


def _test(loaded: LoadedModel) -> Proof:
    readings, embedded = read_twice(loaded)
    layers, sites, known = [], {}, {}
    for layer in loaded.geometry.kv_layers:
        norms = _norm_weights(loaded.model, layer)
        here, there = (Reading(cache, watch, layer) for cache, watch in readings)
        best = {kind: _best(here, there, kind, norms, known) for kind in KINDS}
        layers.append(_layer_test(loaded, layer, best, here, embedded))
        sites |= {(layer, kind): site for kind, (_, site) in best.items() if site is not None}
    return Proof(SelfTest(loaded.name, loaded.geometry.latent, tuple(layers)), sites)


def _best(
    here: Reading, there: Reading, kind: str, norms: list[torch.Tensor], known: Known
) -> tuple[float, Site | None]:
    """Return the rotation (or None) that, once undone, makes two readings of a layer's keys or values most alike."""
    a, b = getattr(here, kind), getattr(there, kind)
    best = difference(a, b), None
    plain = _candidates(there.calls, b, known) if len(here.calls) == len(there.calls) else []
    behind = [site.behind(weight) for site in plain for weight in norms if len(weight) == site.pairs.width]
    moved = False
    for site in plain + behind:
        first, second = site.rotation(here.calls, known), site.rotation(there.calls, known)
        if torch.equal(first.cos, second.cos):
            continue  # the same positions twice prove nothing
        moved = True
        # Every rotation also fits behind some norm with weights near 1, so only a clear gain counts as such a norm.
        error = difference(unrotate(a, first), unrotate(b, second))
        if error < (best[0] if site in plain else best[0] / 4):
            best = error, site
    return best if moved or not plain else (float("inf"), None)


def _norm_weights(model: PreTrainedModel, layer: int) -> list[torch.Tensor]:
    """List the vectors among one layer's parameters: the norms that may follow its rotation."""
    weights = []
    for owner in model.modules():
        if getattr(owner, "layer_idx", None) == layer:
            for module in owner.modules():
                with align_module_device(module):  # weights that wait on the processor or on disk
                    weights += [weight.detach() for weight in module.parameters(recurse=False) if weight.dim() == 1]
    return weights


def _candidates(calls: list[Call], cached: torch.Tensor, known: Known) -> list[Site]:
    """List possible places of the rotation of ``cached`` [1, H, T, D]: calls whose result it holds, or else any."""
    sites, holding = [], []
    for number, call in enumerate(calls):
        shape, width = call.shapes[-1], cached.shape[-1]
        for heads_axis, time_axis in ((HEADS, TIME), (TIME, HEADS)):
            if shape[time_axis] != TOKENS or shape[-1] > width:
                continue
            pairs = pairs_of(call, heads_axis, known)
            made = call.made.float().transpose(HEADS, heads_axis)
            for offset in sorted({0, width - shape[-1]}) if pairs else ():
                sites.append(Site(number, heads_axis, offset, pairs))
                share = cached[..., offset : offset + shape[-1]]
                alike = made.shape[TIME:] == share.shape[TIME:] and made.shape[HEADS] in (1, share.shape[HEADS])
                if alike and torch.equal(made.expand_as(share), share):  # one rotated head may be in all of them
                    holding.append(sites[-1])
    return holding or sites


def _tolerance(loaded: LoadedModel) -> float:
    return TOLERANCE.get(loaded.dtype, HALF_TOLERANCE)


def _layer_test(loaded: LoadedModel, layer: int, best, here: Reading, embedded: bool) -> LayerTest:
    (key_error, key_site), (value_error, value_site) = best["key"], best["value"]
    error, site = max(key_error, value_error), key_site or value_site
    if min(key_error, value_error) > _tolerance(loaded) and not here.calls:
        embedded = True  # keys and values both move: a layer whose inputs could not be held shows it like this
    elif not error <= _tolerance(loaded):
        raise _unknown_rotation(loaded, layer, error)
    if site is None:
        return LayerTest(layer, "absolute" if embedded else "none", None, None, 1.0, error)
    rotation = site.rotation(here.calls, {})
    scale = float((rotation.cos.square() + rotation.sin.square()).mean().sqrt())
    scale = 1.0 if abs(scale - 1) <= _tolerance(loaded) / 10 else scale  # the rounding of cos and sin
    return LayerTest(layer, "rope", 2 * site.pairs.count, site.pairs.layout, scale, error)


def _unknown_rotation(loaded: LoadedModel, layer: int, error: float) -> AlignError:
    return AlignError(
        "keys-rotation-unknown",
        expected=Message("attention layers whose rotation of the keys (RoPE) can be undone"),
        found=Message(
            "in layer {layer} of {name} ({kind}) keys that still depend on the position: the same "
            "tokens, read at another one, differ by {error:.2g} of their size",
            layer=layer,
            name=loaded.name,
            kind=loaded.geometry.architecture,
            error=error,
        ),
        remedy=Message("align the keys as they are cached: --keys post-rope"),
    )


TOKENS = 9
SHIFT = 64  # positions, where the model has that many
SAME = 1e-4  # embeddings that do not know positions are equal to the last bit

# Largest relative difference that counts as "does not move". A right inverse leaves 1e-6 in float32 and rounding in
# half precision, a wrong one about 1.
TOLERANCE = {torch.float32: 1e-4}
HALF_TOLERANCE = 0.1


class Reading:
    """One layer's keys and values [1, H, T, D] of the tokens, without the padding before them, and its calls."""

    def __init__(self, cache: DynamicCache, watch: Watch, layer: int):
        stored = cache.layers[layer]
        for kind, x in zip(KINDS, (stored.keys, stored.values), strict=True):
            setattr(self, kind, x[:, :, -TOKENS:].float().nan_to_num())
        self.calls: list[Call] = watch.layers.get(layer, [])


def read_twice(loaded: LoadedModel) -> tuple[list[tuple[DynamicCache, Watch]], bool]:
    """Return the caches at two positions, and whether the hidden states that enter the first layer depend on them."""
    embedded = loaded.geometry.positions.kind in ("learned", "sinusoidal")
    ids = torch.arange(1, 1 + TOKENS, device=loaded.device)[None] % loaded.geometry.vocabulary
    if not _takes_positions(loaded):  # ALiBi: positions are counted along the cache, padding included
        padded = torch.cat([torch.zeros_like(ids), ids], dim=1)
        mask = (torch.arange(2 * TOKENS, device=loaded.device) >= TOKENS).long()[None]
        return [_reading(loaded, ids), _reading(loaded, padded, attention_mask=mask)], embedded
    positions = torch.arange(TOKENS, device=loaded.device)[None]
    noted: deque[torch.Tensor] = deque()
    with _layer_inputs(loaded, lambda x: noted.append(x) or x):
        first = _reading(loaded, ids, position_ids=positions)
    entering = noted[0] if noted else None
    moved = []

    def held(x):
        same = noted.popleft() if noted else x
        if same is entering:
            moved.append(difference(x.unsqueeze(1).float(), same.unsqueeze(1).float()))
        return same

    with _layer_inputs(loaded, held):
        second = _reading(loaded, ids, position_ids=positions + _shift(loaded))
    return [first, second], embedded or bool(moved and moved[0] > SAME)


def _reading(loaded: LoadedModel, ids: torch.Tensor, **inputs: torch.Tensor) -> tuple[DynamicCache, Watch]:
    watch = Watch(keep_results=True)
    return read(loaded, ids, watch, **inputs), watch


def _layer_inputs(loaded: LoadedModel, exchange: Callable[[torch.Tensor], torch.Tensor]) -> AbstractContextManager:
    """Pass the hidden states [B, T, hidden] that enter each layer through ``exchange``, in this thread."""
    thread = threading.get_ident()

    def passed(x):
        hidden = isinstance(x, torch.Tensor) and x.dim() == 3 and x.shape[1:] == (TOKENS, loaded.geometry.hidden)
        return exchange(x) if hidden and threading.get_ident() == thread else x

    return exchanged_inputs(loaded.model, passed)


def _takes_positions(loaded: LoadedModel) -> bool:
    takes = inspect.signature(loaded.model.base_model.forward).parameters
    return "position_ids" in takes or ("kwargs" in takes and loaded.geometry.positions.kind == "rope")


def _shift(loaded: LoadedModel) -> int:
    """Return a shift within the model's positions, below those where frequencies change with the length."""
    text = loaded.model.config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    limits = [loaded.geometry.max_positions, getattr(text, "original_max_position_embeddings", None)]
    limits += [
        part.get("original_max_position_embeddings") for part in (rope, *rope.values()) if isinstance(part, dict)
    ]
    return max(1, min([SHIFT, *(limit - TOKENS for limit in limits if limit)]))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest of the ``differences`` of two readings [B, H, T, D]."""
    return float(differences(a, b).max())


def differences(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return how far apart two readings [B, H, T, D] are at each token [T]: rms over D, largest over B and H.

    Each channel is taken relative to its size, so that a few large ones do not hide the others.
    """
    size = a.square().mean(2, keepdim=True).sqrt()
    size = size.maximum(1e-2 * size.amax(-1, keepdim=True)).clamp(min=1e-6)
    return ((a - b) / size).square().mean(-1).sqrt().amax((0, 1))


ALIKE, CHANGED = 4, 5  # tokens: two texts that begin alike

_checked: WeakSet[torch.nn.Module] = WeakSet()


@torch.inference_mode()
def check_causal(loaded: LoadedModel) -> None:
    """Read two texts that begin alike and compare the caches of their beginning; once per loaded model.

    Raises AlignError ``cache-not-causal`` where most of its tokens differ in some layer. Not any: in half precision,
    rounding alone may route one token to other experts.
    """
    if loaded.model in _checked:
        return
    ids = torch.arange(1, 1 + ALIKE + CHANGED, device=loaded.device).repeat(2, 1)
    ids[1, ALIKE:] += CHANGED
    cache = read(loaded, ids % loaded.geometry.vocabulary, None)
    layers = [cache.layers[layer] for layer in loaded.geometry.kv_layers]
    pairs = [x[:, :, :ALIKE].float().split(1) for layer in layers for x in (layer.keys, layer.values)]
    error = max(float(differences(*pair).median()) for pair in pairs)
    if error > TOLERANCE.get(loaded.dtype, HALF_TOLERANCE):
        raise AlignError(
            "cache-not-causal",
            expected=Message("keys and values of a token that depend on no later token"),
            found=Message(
                "that {name} ({kind}) reads ahead with transformers {version}: of two texts that begin "
                "alike, the keys and values of the beginning differ by {error:.2g} of their size",
                name=loaded.name,
                kind=loaded.geometry.architecture,
                version=transformers.__version__,
                error=error,
            ),
            remedy=Message(
                "choose a causal model; where this one should be causal, install another release: pip "
                "install --upgrade transformers"
            ),
        )
    _checked.add(loaded.model)
