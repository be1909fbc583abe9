"""The same tokens read at two positions, each layer the second time with the hidden states of the first.

So what differs in a layer's cache is what that layer itself does with positions, without the rounding and the choices
of experts in the layers before it.
"""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import DynamicCache

from kvlab.models import LoadedModel
from kvlab.reading import read
from kvlab.rotation import Call, Watch
from kvlab.types import KINDS

TOKENS = 9
SHIFT = 64  # positions, where the model has that many
SAME = 1e-4  # embeddings that do not know positions are equal to the last bit

# Relative, what counts as "does not move". A right inverse leaves 1e-6 in float32 and rounding in half precision, a
# wrong one about 1.
TOLERANCE = {torch.float32: 1e-4}
HALF_TOLERANCE = 0.1


class Reading:
    """One layer's keys and values [1, H, T, D] of the tokens, less what padding is before them, and its calls."""

    def __init__(self, cache: DynamicCache, watch: Watch, layer: int):
        stored = cache.layers[layer]
        for kind, x in zip(KINDS, (stored.keys, stored.values), strict=True):
            setattr(self, kind, x[:, :, -TOKENS:].float().nan_to_num())
        self.calls: list[Call] = watch.layers.get(layer, [])


def read_twice(loaded: LoadedModel) -> tuple[list[tuple[DynamicCache, Watch]], bool]:
    """The caches at two positions, and whether the hidden states that enter the first layer depend on them."""
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


@contextmanager
def _layer_inputs(loaded: LoadedModel, exchange: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Pass the hidden states [B, T, hidden] that enter each layer through ``exchange``, in this thread."""
    thread = threading.get_ident()

    def passed(x):
        hidden = isinstance(x, torch.Tensor) and x.dim() == 3 and x.shape[1:] == (TOKENS, loaded.geometry.hidden)
        return exchange(x) if hidden and threading.get_ident() == thread else x

    def hook(module, args, kwargs):
        return tuple(map(passed, args)), {name: passed(value) for name, value in kwargs.items()}

    handles = [
        module.register_forward_pre_hook(hook, with_kwargs=True)
        for stack in loaded.model.modules()
        if isinstance(stack, torch.nn.ModuleList)
        for module in stack
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _takes_positions(loaded: LoadedModel) -> bool:
    takes = inspect.signature(loaded.model.base_model.forward).parameters
    return "position_ids" in takes or ("kwargs" in takes and loaded.geometry.positions.kind == "rope")


def _shift(loaded: LoadedModel) -> int:
    """As far as the model has positions, and short of those where frequencies change with the length."""
    text = loaded.model.config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    limits = [loaded.geometry.max_positions, getattr(text, "original_max_position_embeddings", None)]
    limits += [
        part.get("original_max_position_embeddings") for part in (rope, *rope.values()) if isinstance(part, dict)
    ]
    return max(1, min([SHIFT, *(limit - TOKENS for limit in limits if limit)]))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far apart two readings [B, H, T, D] are: the largest of their ``differences``."""
    return float(differences(a, b).max())


def differences(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """How far apart two readings [B, H, T, D] are at each token [T], each channel relative to its size: rms over D,
    largest over B and H.

    Relative to each channel, so that a few large ones do not hide the others.
    """
    size = a.square().mean(2, keepdim=True).sqrt()
    size = size.maximum(1e-2 * size.amax(-1, keepdim=True)).clamp(min=1e-6)
    return ((a - b) / size).square().mean(-1).sqrt().amax((0, 1))
