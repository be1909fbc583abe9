"""Control ``mean``: the student's training mean in every replaced row."""

import torch

from kvlab.language import phrase

WORDS = phrase("mean cache")
LOOK = ("#8A8F98", "x", "dot")
PLACE = 0


def rows(projected: torch.Tensor, mean: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return mean.expand_as(projected)
