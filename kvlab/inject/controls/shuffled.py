"""Control ``shuffled``: the projected rows, keys in one other order and values in another."""

import torch

from kvlab.language import phrase

WORDS = phrase("shuffled cache")
LOOK = ("#E69F00", "triangle-up", "dash")
PLACE = 1


def rows(projected: torch.Tensor, mean: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return projected[order]
