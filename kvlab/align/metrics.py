"""Score a map on rows it was not fitted on, from their sums alone.

All are per output channel or per student head; a channel's sums about the *training* means make the train-mean
predictor score exactly 1, so error = RSS / TSS = 1 - R^2 (0 perfect, 1 no better than the mean).
"""

import torch

from kvlab.align.moments import Centred

# With two folds, the standard error is their one difference: a zero gain exceeds two of it in 15 of 100 cases.
LEAST_FOLDS = 3


def residual_squares(test: Centred, weights: torch.Tensor, predicted: torch.Tensor | None = None) -> torch.Tensor:
    """RSS [..., Q] = sum over rows of (y - W^T x)^2, both about the training means; weights [..., P, Q].

    ``predicted``: XX W, where it is at hand.
    """
    predicted = test.xx @ weights if predicted is None else predicted
    return test.yy + torch.linalg.vecdot(weights, predicted - 2 * test.xy, dim=-2)


def residual_grams(
    test: Centred, weights: torch.Tensor, heads: int, predicted: torch.Tensor | None = None
) -> torch.Tensor:
    """Sum of r r^T - y y^T over rows, per head [H, D, D]; r = y - W^T x, both about the training means.

    Added to the head's sum of y y^T it is that of the residuals, whose trace is RSS. weights [P, Q].
    """

    def by_head(columns: torch.Tensor) -> torch.Tensor:
        return columns.unflatten(1, (heads, -1)).transpose(0, 1)  # [H, P, D]

    predicted = test.xx @ weights if predicted is None else predicted
    w, xy = by_head(weights), by_head(test.xy)
    return w.mT @ by_head(predicted - test.xy) - xy.mT @ w


def per_head(channels: torch.Tensor, heads: int) -> torch.Tensor:
    """Sum over a head's channels: [..., H * D] -> [..., H]."""
    return channels.reshape(*channels.shape[:-1], heads, -1).sum(-1)


def per_head_mean(channels: torch.Tensor, heads: int) -> torch.Tensor:
    """Mean over a head's channels that vary: [..., H * D] -> [..., H]."""
    return channels.reshape(*channels.shape[:-1], heads, -1).nanmean(-1)


def r_squared(rss: torch.Tensor, tss: torch.Tensor) -> torch.Tensor:
    """Return 1 - RSS / TSS; NaN where a head has no variance."""
    return 1 - rss / tss


def jackknife(rss: torch.Tensor, tss: torch.Tensor) -> torch.Tensor:
    """Return the standard error [H] of 1 - RSS / TSS by leaving out one fold at a time: rss, tss [folds, H].

    Efron and Stein 1981. NaN with fewer than ``LEAST_FOLDS``.
    """
    folds = len(rss)
    if folds < LEAST_FOLDS:
        return torch.full_like(rss[0], float("nan"))
    left_out = 1 - (rss.sum(0) - rss) / (tss.sum(0) - tss)
    return ((folds - 1) / folds * ((left_out - left_out.mean(0)) ** 2).sum(0)).sqrt()


def pooled_cosine(dot: torch.Tensor, squares_a: torch.Tensor, squares_b: torch.Tensor) -> torch.Tensor:
    """sum <a, b> / sqrt(sum |a|^2 * sum |b|^2) over all rows: one cosine of the stacked rows, not centred."""
    return dot / (squares_a * squares_b).sqrt()
