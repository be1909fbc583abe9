"""Read the student's own keys and values, before RoPE and with their gradient, in the forward of its logits."""

import functools
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin
from transformers.modeling_layers import GradientCheckpointingLayer

from kvlab.errors import TrainError
from kvlab.language import Message
from kvlab.models import cache_names
from kvlab.models.attending import Attention, noted
from kvlab.models.forward import empty_cache
from kvlab.models.loading import LoadedModel
from kvlab.models.proofs import proof
from kvlab.models.rotation import Rotation, Watch, unrotate_layers, watched
from kvlab.shapes import KINDS


@dataclass(frozen=True)
class ReadStudent:
    """Logits [B, T, V], and per cached layer keys [B, H, T, Dk] before RoPE and values [B, H, T, Dv], in float32."""

    logits: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    rotations: list[tuple[Rotation | None, Rotation | None]]  # of keys and values, as cached
    attention: list[Attention] = field(default_factory=list)  # per cached layer, where it was asked for

    def of(self, kind: str) -> list[torch.Tensor]:
        return self.keys if kind == KINDS[0] else self.values


def read_student(loaded: LoadedModel, ids: torch.Tensor, mask: torch.Tensor, attending: bool = False) -> ReadStudent:
    """Run one forward of ids [B, T], right-padded by ``mask`` [B, T]; gradients also flow from keys and values.

    The self-test of the untrained student, which must have run, proved the rotations. ``attending``: also note each
    layer's attention. Raises TrainError ``student-cache-incomplete`` for a student that does not keep one entry per
    token, and ``queries-unavailable`` for one whose layers attend to anything but the keys that they cache.
    """
    sites = proof(loaded).sites
    cache = _keeping(loaded)
    watch = Watch()
    with watched(loaded.model, watch, cache), noted() if attending else nullcontext([]) as calls:
        output = loaded.model(input_ids=ids, attention_mask=mask, **cache_names.passing(loaded.model, cache))
    stored_of: dict[str, list[torch.Tensor]] = {kind: [] for kind in KINDS}
    rotations: dict[str, list[Rotation | None]] = {kind: [] for kind in KINDS}
    shared = {}  # rotations, the same in many layers
    for layer in loaded.geometry.kv_layers:
        stored = cache.layers[layer].keys, cache.layers[layer].values
        if stored[0] is None or stored[0].shape[2] != ids.shape[1]:
            wanted = {"n": ids.shape[1], "layer": layer, "name": loaded.name}
            raise TrainError(
                "student-cache-incomplete",
                expected=Message("a cache of all {n} tokens in layer {layer} of {name}", **wanted),
                found=Message("nothing") if stored[0] is None else Message("{n} tokens", n=stored[0].shape[2]),
                remedy=Message("choose a student whose layers cache every token"),
            )
        for kind, x in zip(KINDS, stored, strict=True):
            site = sites.get((layer, kind))
            stored_of[kind].append(x)
            rotations[kind].append(site.rotation(watch.layers[layer], shared) if site else None)
    keys, values = (unrotate_layers(stored_of[kind], rotations[kind]) for kind in KINDS)
    attention = [_attention(loaded, calls, cache, layer) for layer in loaded.geometry.kv_layers if attending]
    return ReadStudent(output.logits, keys, values, list(zip(*(rotations[kind] for kind in KINDS))), attention)


def _attention(loaded: LoadedModel, calls: list[Attention], cache: DynamicCache, layer: int) -> Attention:
    """Return the attention of the layer that caches these very keys."""
    for call in calls:
        if call.keys is cache.layers[layer].keys:
            return call
    kind = loaded.geometry.architecture
    raise TrainError(
        "queries-unavailable",
        expected=Message(
            "the queries of layer {layer} of {name}, beside the keys that it caches", layer=layer, name=loaded.name
        ),
        found=Message("an architecture ({kind}) whose layers do not hand out their queries", kind=kind),
        remedy=Message("take the KV loss on keys and values: --kv_loss rows"),
    )


@torch.no_grad()
def check_attention(loaded: LoadedModel) -> None:
    """Raise TrainError ``queries-unavailable`` for a student whose attention cannot be repeated over another cache."""
    ids = torch.ones((1, 2), dtype=torch.long, device=loaded.device)
    read_student(loaded, ids, torch.ones_like(ids), attending=True)


def recompute_activations(loaded: LoadedModel) -> None:
    """Checkpoint the gradients of every layer and keep the cache, which transformers' own switch turns off.

    Raises TrainError ``checkpointing-unsupported`` for layers that cannot run twice: those unknown to transformers'
    checkpointing, and those that keep a recurrent state in the cache, which the first run has already advanced.
    """
    layers = [module for module in loaded.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    cache = empty_cache(loaded)
    recurrent = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)
    if not layers or recurrent or type(cache) is not DynamicCache:
        name = type(loaded.model).__name__
        raise TrainError(
            "checkpointing-unsupported",
            expected=Message("a student whose layers can be computed twice (gradient checkpointing)"),
            found=Message("{name}, with a recurrent state" if layers else "{name}, which has none", name=name),
            remedy=Message("leave --gradient_checkpointing out, and use a smaller batch: --batch_size 1"),
        )
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)


def _keeping(loaded: LoadedModel) -> DynamicCache:
    """Return a cache that keeps each layer's first keys and values and returns every layer its own input.

    The backward pass of a checkpointed layer runs its forward again, which must neither grow the cache nor see it.
    """
    cache = empty_cache(loaded)
    cache_class = type(cache)

    class Keeping(cache_class):
        def update(self, key_states, value_states, layer_idx, *args, **kwargs):
            while len(self.layers) <= layer_idx:
                self.layers.append(self.layer_class_to_replicate())
            layer = self.layers[layer_idx]
            if not layer.is_initialized:
                layer.keys, layer.values, layer.is_initialized = key_states, value_states, True
            return key_states, value_states

    cache.__class__ = Keeping
    return cache
