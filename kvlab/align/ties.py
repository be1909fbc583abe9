"""Choices that rounding does not make.

Scores that differ by less than a ``HAIR`` are as good, and a fixed order decides between them: two processors round
differently, and a tie that each breaks in its own way would show in every number behind it.
"""

import torch

HAIR = 1e-4


def first_of_the_best(scores: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """The first place along ``dim`` whose R^2 or CKA is within a ``HAIR`` of the highest; of nothing known, 0."""
    known = scores.nan_to_num(nan=-torch.inf)
    as_good = known >= known.amax(dim, keepdim=True) - HAIR
    return as_good.int().argmax(dim)


def last_of_the_least(errors: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """The last place along ``dim`` whose error is within a ``HAIR``, as a share, of the least.

    The first place where the least is nothing but rounding: zero or below.
    """
    as_good = errors < (1 + HAIR) * errors.amin(dim, keepdim=True)
    last = errors.shape[dim] - 1 - as_good.flip(dim).int().argmax(dim)
    return torch.where(as_good.any(dim), last, 0)
