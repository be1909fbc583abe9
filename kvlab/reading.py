"""One forward of a model's base -> its cache of every token of the text."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import torch
from transformers import DynamicCache, PreTrainedModel

from kvlab import cache_names
from kvlab.errors import AlignError
from kvlab.models import LoadedModel
from kvlab.rotation import Watch, watched

NEVER = 2**31  # tokens: a window that no text leaves


def read(loaded: LoadedModel, ids: torch.Tensor, watch: Watch | None, **inputs: torch.Tensor) -> DynamicCache:
    """The cache of ``ids`` [B, T], each layer's whole timeline; ``watch`` sees the rotations of its keys.

    Raises AlignError ``cache-incomplete`` for layers that keep something else than one entry per token.
    """
    cache = empty_cache(loaded)
    with loaded.lock, watched(loaded.model, watch, cache) if watch else nullcontext():
        loaded.model.base_model(input_ids=ids, **cache_names.passing(loaded.model.base_model, cache), **inputs)
    stored = [cache.layers[layer].keys for layer in loaded.geometry.kv_layers]
    kept = {0 if keys is None else keys.shape[2] for keys in stored}
    if kept != {ids.shape[1]}:
        raise AlignError(
            "cache-incomplete",
            expected=f"a cache of all {ids.shape[1]} tokens in every layer of {loaded.name}",
            found=f"layers with {sorted(kept)} tokens",
            remedy="choose a model whose layers cache every token",
        )
    return cache


def empty_cache(loaded: LoadedModel) -> DynamicCache:
    """The model's own kind of cache (hybrids hold their recurrent state in it), that forgets nothing.

    A window decides what attention looks at, which is the mask's work; it need not decide what is kept.
    """
    own = _own_cache_class(loaded.model)
    cache = own() if own else DynamicCache(config=loaded.model.config.get_text_config(decoder=True))
    for layer in cache.layers:
        if getattr(layer, "is_sliding", False):
            layer.sliding_window = NEVER
    return cache


def _own_cache_class(model: PreTrainedModel) -> type[DynamicCache] | None:
    """A cache defined beside the model itself, which then takes no other (MiniMax)."""
    source = type(model).__module__
    defined = [value for value in vars(sys.modules[source]).values() if isinstance(value, type)]
    return next((c for c in defined if c.__module__ == source and issubclass(c, DynamicCache)), None)
