"""Reading the same tokens at two positions shows what a position does to each layer's keys, and that it is undone.

The second reading hands every layer the hidden states of the first, so a layer's keys can differ by its rotation
only. Every way in which they could have been rotated (and "not at all") is tried; the one whose undoing leaves keys
that do not move is taken, and where none does, the layer is refused. Where the hidden states that enter the first
layer move by themselves, positions are part of the embedding: learned or sinusoidal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from kvlab.causal import check_causal
from kvlab.errors import AlignError
from kvlab.models import LoadedModel
from kvlab.probe import Known, Site, pairs_of
from kvlab.rotation import HEADS, TIME, Call, unrotate
from kvlab.twice import HALF_TOLERANCE, TOKENS, TOLERANCE, Reading, difference, read_twice
from kvlab.types import KINDS, LayerTest, SelfTest


@dataclass(frozen=True)
class Proof:
    """A model's self-test and, by cached layer and kind ("key" | "value"), where its rotations are found."""

    result: SelfTest
    sites: dict[tuple[int, str], Site] = field(default_factory=dict)


_proofs: WeakKeyDictionary[torch.nn.Module, Proof] = WeakKeyDictionary()


def self_test(loaded: LoadedModel) -> SelfTest:
    """What was found out about the positions in each cached layer; run once per loaded model.

    Raises AlignError ``keys-rotation-unknown`` for a layer whose rotation cannot be undone, and as ``check_causal`` and
    ``read`` do.
    """
    return proof(loaded).result


@torch.inference_mode()
def proof(loaded: LoadedModel) -> Proof:
    """The self-test with the places of the rotations; raises as ``self_test``."""
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
    """The rotation (None: none) whose undoing makes two readings of a layer's keys or values most alike."""
    a, b = getattr(here, kind), getattr(there, kind)
    best = difference(a, b), None
    plain = _candidates(there.calls, b, known) if len(here.calls) == len(there.calls) else []
    behind = [site.behind(weight) for site in plain for weight in norms if len(weight) == site.pairs.width]
    moved = False
    for site in plain + behind:
        first, second = site.rotation(here.calls, known), site.rotation(there.calls, known)
        if torch.equal(first.cos, second.cos):
            continue  # read at the same positions twice: proves nothing
        moved = True
        # Every rotation is also one behind some norm of weights near 1: only a clear gain says that there is one.
        error = difference(unrotate(a, first), unrotate(b, second))
        if error < (best[0] if site in plain else best[0] / 4):
            best = error, site
    return best if moved or not plain else (float("inf"), None)


def _norm_weights(model: PreTrainedModel, layer: int) -> list[torch.Tensor]:
    """The vectors among the parameters of what belongs to one layer: the norms that may follow its rotation."""
    owners = [module for module in model.modules() if getattr(module, "layer_idx", None) == layer]
    return [weight for owner in owners for weight in owner.parameters() if weight.dim() == 1]


def _candidates(calls: list[Call], cached: torch.Tensor, known: Known) -> list[Site]:
    """Where the rotation of ``cached`` [1, H, T, D] may be: the calls whose result it holds, or else (a norm) any."""
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
        embedded = True  # keys and values alike: where the layer's inputs could not be held, this is how it shows
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
        expected="attention layers whose rotation of the keys (RoPE) can be undone",
        found=f"in layer {layer} of {loaded.name} ({loaded.geometry.architecture}) keys that still depend on the "
        f"position: the same tokens, read at another one, differ by {error:.2g} of their size",
        remedy="align the keys as they are cached: --keys post-rope",
    )
