"""Token lists of several documents -> one batch, padded on the right and masked.

On a GPU the width is rounded up. Attention there (cuDNN's) makes a plan for every new shape, which took an H200 longer
than the forward itself: 10,000 prompts in batches of any width are all new shapes, and so are the steps of a run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from kvlab.types import Tokens

ROUNDED_ON = ("cuda",)
LEAST = 8  # tokens
SHARE = 16  # at most 1 / 16 of the width is padding for the sake of its shape


def padded(batch: Sequence[Tokens], device: torch.device, most: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """ids [B, T], 0 where padded, and mask [B, T] on the device; T is never above ``most`` positions of the model."""
    longest = max(map(len, batch))
    length = width(longest, most) if device.type in ROUNDED_ON else longest
    ids, mask = (np.zeros((len(batch), length), dtype=np.int64) for _ in "im")
    for b, tokens in enumerate(batch):
        ids[b, : len(tokens)] = tokens.ids
        mask[b, : len(tokens)] = 1
    # Not waiting for what the device still has to do.
    return tuple(torch.from_numpy(x).to(device, non_blocking=True) for x in (ids, mask))


def width(longest: int, most: int | None = None) -> int:
    """``longest`` rounded up to one of 16 widths between a power of two and the next."""
    step = max(LEAST, 2 ** (longest.bit_length() - 1) // SHARE)
    rounded = -(-longest // step) * step
    return max(longest, min(rounded, most)) if most else rounded
