"""Run one forward of a base model over a batch, padded on the right and masked, and keep every token's cache.

On a GPU, round the width up. Attention there (cuDNN's) makes a plan for every new shape, which took an H200 longer
than the forward itself: 10,000 prompts in batches of any width are all new shapes, and so are the steps of a run.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from kvlab.errors import AlignError
from kvlab.language import Message
from kvlab.models import cache_names
from kvlab.models.loading import LoadedModel
from kvlab.models.rotation import Watch, watched
from kvlab.shapes import Tokens

NEVER = 2**31  # tokens: a window that no text leaves


def read(loaded: LoadedModel, ids: torch.Tensor, watch: Watch | None, **inputs: torch.Tensor) -> DynamicCache:
    """Return the cache of ``ids`` [B, T], each layer's whole timeline; ``watch`` sees the rotations of its keys.

    Raises AlignError ``cache-incomplete`` for layers that do not keep one entry per token, and ``cache-shared-out``
    for a model of tensor parallelism, whose processes hold some of the heads each.
    """
    cache = empty_cache(loaded)
    with loaded.lock, watched(loaded.model, watch, cache) if watch else nullcontext():
        loaded.model.base_model(input_ids=ids, **cache_names.passing(loaded.model.base_model, cache), **inputs)
    stored = [cache.layers[layer].keys for layer in loaded.geometry.kv_layers]
    lengths = {0 if keys is None else keys.shape[2] for keys in stored}
    if lengths != {ids.shape[1]}:
        raise AlignError(
            "cache-incomplete",
            expected=Message("a cache of all {n} tokens in every layer of {name}", n=ids.shape[1], name=loaded.name),
            found=Message("layers with {counts} tokens", counts=sorted(lengths)),
            remedy=Message("choose a model whose layers cache every token"),
        )
    heads = [keys.shape[1] for keys in stored]
    expected = [shape[0] for shape in loaded.geometry.layer_shapes]
    if any(few < all_of_them for few, all_of_them in zip(heads, expected, strict=True)):
        raise AlignError(
            "cache-shared-out",
            expected=Message("all {n} KV heads in every layer of {name}", n=expected[0], name=loaded.name),
            found=Message("layers with {counts} heads", counts=sorted(set(heads))),
            remedy=Message(
                "load the model without tensor parallelism (tp_plan): --split-teacher spreads whole layers over GPUs"
            ),
        )
    return cache


@torch.inference_mode()
def read_on(loaded: LoadedModel, cache: DynamicCache, ids: torch.Tensor) -> None:
    """Read ``ids`` [B, T] behind what a cache holds, and leave them in it."""
    with loaded.lock:
        loaded.model.base_model(input_ids=ids, **cache_names.passing(loaded.model.base_model, cache))


def empty_cache(loaded: LoadedModel) -> DynamicCache:
    """Make the model's own kind of cache (hybrids hold their recurrent state in it), one that forgets nothing.

    A window limits attention through the mask; it need not limit what the cache keeps.
    """
    special = _own_cache_class(loaded.model)
    cache = special() if special else DynamicCache(config=loaded.model.config.get_text_config(decoder=True))
    for layer in cache.layers:
        if getattr(layer, "is_sliding", False):
            layer.sliding_window = NEVER
    return cache


def _own_cache_class(model: PreTrainedModel) -> type[DynamicCache] | None:
    """Return a cache class defined beside the model itself, which then accepts no other (MiniMax)."""
    source = type(model).__module__
    defined = [value for value in vars(sys.modules[source]).values() if isinstance(value, type)]
    return next((c for c in defined if c.__module__ == source and issubclass(c, DynamicCache)), None)


@contextmanager
def hooked(handles: Sequence) -> Iterator[None]:
    """Remove these hooks at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def exchanged_inputs(model: PreTrainedModel, exchange: Callable[[Any], Any]) -> Iterator[None]:
    """Pass every argument of every layer through ``exchange``."""

    def hook(module, args, kwargs):
        return tuple(map(exchange, args)), {name: exchange(value) for name, value in kwargs.items()}

    layers = [layer for stack in model.modules() if isinstance(stack, torch.nn.ModuleList) for layer in stack]
    with hooked([layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]):
        yield


ROUNDED_ON = ("cuda",)
LEAST = 8  # tokens
SHARE = 16  # at most 1 / 16 of the width is padding for the sake of its shape


def padded(batch: Sequence[Tokens], device: torch.device, most: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids [B, T], 0 where padded, and mask [B, T]; T is never above ``most`` positions of the model."""
    longest = max(map(len, batch))
    length = width(longest, most) if device.type in ROUNDED_ON else longest
    ids = np.zeros((len(batch), length), dtype=np.int64)
    mask = np.zeros_like(ids)
    for b, tokens in enumerate(batch):
        ids[b, : len(tokens)] = tokens.ids
        mask[b, : len(tokens)] = 1
    # Do not wait for the work queued on the device.
    return tuple(torch.from_numpy(x).to(device, non_blocking=True) for x in (ids, mask))


def width(longest: int, most: int | None = None) -> int:
    """Round ``longest`` up to one of 16 widths between a power of two and the next."""
    step = max(LEAST, 2 ** (longest.bit_length() - 1) // SHARE)
    rounded = -(-longest // step) * step
    return max(longest, min(rounded, most)) if most else rounded
