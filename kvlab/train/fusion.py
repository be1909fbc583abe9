"""Fuse several teachers in the student's space into one target.

Weights are [A, N], one per teacher and row. Invariant: they sum to 1 over the teachers that cover the row.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


def fixed(weights: Sequence[float], covered: torch.Tensor) -> torch.Tensor:
    """Share weights [A] among the teachers that cover a row: covered [A, N] bool -> [A, N].

    If only teachers of weight 0 cover a row, they share it evenly.
    """
    by_teacher = torch.tensor(weights, dtype=torch.float32).to(covered.device, non_blocking=True)
    shares = by_teacher[:, None] * covered
    uncovered = shares.sum(0, keepdim=True) == 0
    shares = torch.where(uncovered, covered.float(), shares)
    return shares / shares.sum(0, keepdim=True)


def similarity(student: torch.Tensor, targets: torch.Tensor, covered: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return softmax(cosine(student, target) / temperature) over covering teachers: [N, Q], [A, N, Q] -> [A, N]."""
    logits = F.cosine_similarity(student.detach()[None], targets.detach(), dim=-1) / temperature
    return masked_softmax(logits, covered)


class Router(nn.Module):
    """Weights learned from the student's own row of each layer and kind; even at the start."""

    def __init__(self, width: int, teachers: int, scale: float):
        super().__init__()
        self.gate = nn.Linear(width, teachers)
        self.scale = scale  # of the rows, which the gate sees in units of it
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, student: torch.Tensor, covered: torch.Tensor) -> torch.Tensor:
        """Return the weights, [N, Q], [A, N] -> [A, N]; the student gets no gradient from the gate."""
        return masked_softmax(self.gate(student.detach() / self.scale).T, covered)


def masked_softmax(logits: torch.Tensor, covered: torch.Tensor) -> torch.Tensor:
    """Return the softmax over the teachers [A, N] that cover a row; every row has at least one."""
    return logits.float().masked_fill(~covered, -torch.inf).softmax(0)


def entropy(weights: torch.Tensor) -> torch.Tensor:
    """Return the sum over rows of the entropy of weights [A, N], as a share of its maximum, log A."""
    if len(weights) < 2:
        return weights.new_zeros(())
    return -torch.xlogy(weights, weights.clamp(min=torch.finfo(weights.dtype).tiny)).sum() / math.log(len(weights))


def fuse(weights: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum over teachers, [A, N] and [A, N, Q] -> [N, Q]."""
    return torch.einsum("an,anq->nq", weights, targets)
