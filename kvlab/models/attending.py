"""Repeat a layer's own attention over other keys and values, asked by the queries of its forward.

Nothing here knows a model by name. The attention modules of transformers take the function that computes attention
from one registry and give it queries, keys, values, mask and scale. Note the call of each layer, and repeat it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_utils import AttentionInterface


@dataclass(frozen=True, eq=False)
class Attention:
    """One layer's attention in one forward: its queries [B, Hq, T, Dk] as its heads use them, mask, scale, sinks.

    Queries, mask and the rest carry no gradient.
    """

    function: Callable
    module: torch.nn.Module
    keys: torch.Tensor  # [B, H, T, Dk] that it had: they tell whose layer it is
    mask: torch.Tensor | None
    others: dict[str, Any]
    queries: torch.Tensor

    def __call__(self, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return the heads' outputs [B, T, Hq, Dv] over keys [B, H, T, Dk], as cached, and values [B, H, T, Dv]."""
        mask = self.mask
        if mask is not None and mask.is_floating_point():
            mask = mask.to(keys.dtype)
        return self.function(self.module, self.queries.to(keys.dtype), keys, values, mask, **self.others)[0]


@contextmanager
def noted() -> Iterator[list[Attention]]:
    """List every attention that this thread computes, in order. Use inside ``rotation.watched``: it needs its lock."""
    calls: list[Attention] = []
    thread, interface = threading.get_ident(), AttentionInterface.get_interface

    def get_interface(self, *arguments, **names):
        function = interface(self, *arguments, **names)

        def attend(module, query, key, value, attention_mask, *args, **kwargs):
            if threading.get_ident() == thread and not args:
                others = {name: x.detach() if isinstance(x, torch.Tensor) else x for name, x in kwargs.items()}
                others |= {"dropout": 0.0} if "dropout" in others else {}
                calls.append(Attention(function, module, key, attention_mask, others, query.detach()))
            return function(module, query, key, value, attention_mask, *args, **kwargs)

        return attend

    AttentionInterface.get_interface = get_interface
    try:
        yield calls
    finally:
        AttentionInterface.get_interface = interface
