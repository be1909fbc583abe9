"""Projector ``structured``: heads are mixed, then the width is projected, as the seed's ``KVProjector`` does."""

from collections.abc import Sequence

import torch

from kvlab.align import projectors
from kvlab.align.moments import Centred
from kvlab.language import phrase

WORDS = phrase("structured — head mixing × width projection (KVProjector)")
ONE_WIDTH = True
PLACE = 1
OWN_PENALTY = 1e-4  # relative to the mean variance of a feature; only keeps the solves well posed


def solve(train: Centred, shapes: Sequence[tuple[int, int]], heads_s: int, penalty: float) -> torch.Tensor:
    heads_t = sum(heads for heads, _ in shapes)
    return projectors.structured(train, heads_t, heads_s, projectors.absolute_penalty(train, OWN_PENALTY))
