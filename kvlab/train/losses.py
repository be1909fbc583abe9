"""The terms of the loss, each as a sum over the rows it is a mean of, so that micro-batches add up exactly."""

from __future__ import annotations

import torch
import torch.nn.functional as F

LEFT_OUT = -100


def cross_entropy(logits: torch.Tensor, ids: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Nats, summed over the predicted tokens: logits [B, T, V], ids [B, T], predicted [B, T - 1] bool."""
    # Not indexed by ``predicted``, for whose count a GPU would have to be waited for.
    following = ids[:, 1:].masked_fill(~predicted, LEFT_OUT).flatten()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), following, ignore_index=LEFT_OUT, reduction="sum")


def kv_error(student: torch.Tensor, target: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
    """Sum over rows of the mean over channels of ((student - target) / scale)^2, for rows [..., N, Q] of each layer.

    The L2 form of KaVa's KV loss (arXiv 2510.02312), where each layer is divided by the standard deviation of its
    targets; ``scale`` is that deviation, measured once before training, so that no term changes its unit.
    """
    return ((student - target) / scale).square().mean(-1).sum(-1)


def matched(
    student: torch.Tensor, target: torch.Tensor, scale: float | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The student's error against the target, and the target's against the student, each without the other's gradient.

    The first is the KV loss (its target is stop-gradient). The second, of the same value, trains a projector or a
    router towards the student as it is; it is without gradient where both are frozen.
    """
    error = kv_error(student, target.detach(), scale)
    return error, kv_error(student.detach(), target, scale) if target.requires_grad else error.detach()
