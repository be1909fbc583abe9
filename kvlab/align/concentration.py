"""Whether a head's variance lies in a handful of tokens, as with massive activations at a delimiter in mid-text.

R^2 weighs a token by its distance from the mean. Where few hold most of the variance, it is about them alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kvlab.align.sample import Sample
from kvlab.align.sums import SCORED
from kvlab.types import KINDS

FEW = 0.01  # of the scored tokens


def share_of_few(sample: Sample, kind: str, layer: int, heads: int) -> torch.Tensor:
    """[H] share of the variance of the sample's scored tokens that the ``FEW`` farthest from their mean hold."""
    groups = [group for group in sample.groups if group[1] in SCORED]
    rows = [sample.y(kind, layer, group) for group in groups]
    n = sum(map(len, rows))
    mean = sum(y.sum(0, dtype=torch.float64) for y in rows) / n
    squares = torch.cat([(y - mean.to(y.dtype)).unflatten(1, (heads, -1)).square().sum(2).double() for y in rows])
    few = squares.topk(max(1, int(FEW * n)), dim=0).values
    return few.sum(0) / squares.sum(0)


def concentrated(sample: Sample, heads: Sequence[int], most: float) -> int:
    """In how many heads, K and V, few tokens hold more than the share ``most``; ``heads`` of each student layer."""
    places = [(kind, layer) for kind in KINDS for layer in range(sample.layers_s)]
    return sum(int((share_of_few(sample, kind, at, heads[at]) > most).sum()) for kind, at in places)
