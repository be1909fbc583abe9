"""Measure whether the student's K or V has shrunk to nothing or onto few directions, from sums over micro-batches.

Works on one layer, or on several of one shape at once, on leading axes [...].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

MOMENTS = ("n", "total", "gram")


@dataclass
class Moments:
    """n, sum [..., Q] and Gram matrix [..., Q, Q] of rows of one kind."""

    n: torch.Tensor
    total: torch.Tensor
    gram: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor) -> Moments:
        """Sum rows [..., N, Q], without their gradient."""
        rows = rows.detach().float()
        # Fill instead of copying: a copy to a GPU waits for all work queued on it.
        return cls(rows.new_full((), rows.shape[-2]), rows.sum(-2), rows.mT @ rows)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.total + other.total, self.gram + other.gram)

    def covariance(self) -> torch.Tensor:
        """Return the covariance [..., Q, Q]."""
        n = self.n.clamp(min=1)
        mean = self.total / n
        return self.gram / n - mean[..., :, None] * mean[..., None, :]


def variance(covariance: torch.Tensor) -> torch.Tensor:
    """Return the mean variance of the channels [...]."""
    return covariance.diagonal(dim1=-2, dim2=-1).mean(-1)


def effective_rank(covariance: torch.Tensor) -> torch.Tensor:
    """Return the participation ratio [...], 1 to Q: (sum of eigenvalues)^2 / sum of squares, without eigenvalues."""
    squares = covariance.square().sum((-2, -1))
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    return trace.square() / squares.clamp(min=torch.finfo(squares.dtype).tiny)
