"""Projector ``ridge``: a free affine map in closed form. Held-out scores choose a penalty for each head."""

from collections.abc import Sequence

import torch

from kvlab.align import projectors
from kvlab.align.moments import Centred
from kvlab.language import phrase

WORDS = phrase("ridge — closed form, from all teacher heads")
PLACE = 0


def solve(train: Centred, shapes: Sequence[tuple[int, int]], heads_s: int, penalty: float) -> torch.Tensor:
    return projectors.ridge(train, projectors.absolute_penalty(train, penalty))
