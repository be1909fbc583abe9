"""Has the student's K or V shrunk to nothing, or onto few directions? From sums, so that micro-batches add up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch


@dataclass
class Moments:
    """n, sum [Q] and Gram matrix [Q, Q] of rows of one layer and kind."""

    n: torch.Tensor
    total: torch.Tensor
    gram: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor) -> Moments:
        """Of rows [N, Q], without their gradient."""
        rows = rows.detach().float()
        return cls(rows.new_tensor(len(rows)), rows.sum(0), rows.T @ rows)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.total + other.total, self.gram + other.gram)

    def covariance(self) -> torch.Tensor:
        """[Q, Q]"""
        n = self.n.clamp(min=1)
        mean = self.total / n
        return self.gram / n - torch.outer(mean, mean)


def variance(covariance: torch.Tensor) -> torch.Tensor:
    """Mean variance of the channels."""
    return covariance.diagonal().mean()


def effective_rank(covariance: torch.Tensor) -> torch.Tensor:
    """(sum of eigenvalues)^2 / sum of their squares: the participation ratio, from 1 to Q, without eigenvalues."""
    squares = covariance.square().sum()
    return covariance.diagonal().sum().square() / squares.clamp(min=torch.finfo(squares.dtype).tiny)


def lowest(values: Iterable[torch.Tensor]) -> torch.Tensor:
    """Of several layers the one that is nearest to collapse."""
    return torch.stack(list(values)).min()
