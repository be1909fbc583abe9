"""Choose the best score so that rounding does not decide.

Scores that differ by less than a ``HAIR`` count as equal, and a fixed order decides between them. Two processors round
differently, and a tie broken differently on each would show in every later number.
"""

import torch

HAIR = 1e-4


def first_of_the_best(scores: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Return the first place along ``dim`` whose R^2 or CKA is within a ``HAIR`` of the highest; 0 if all are NaN."""
    known = scores.nan_to_num(nan=-torch.inf)
    as_good = known >= known.amax(dim, keepdim=True) - HAIR
    return as_good.int().argmax(dim)


def last_of_the_least(errors: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Return the last place along ``dim`` whose error is within a ``HAIR``, as a share, of the least.

    Return the first place where the least is only rounding: zero or below.
    """
    as_good = errors < (1 + HAIR) * errors.amin(dim, keepdim=True)
    last = errors.shape[dim] - 1 - as_good.flip(dim).int().argmax(dim)
    return torch.where(as_good.any(dim), last, 0)
