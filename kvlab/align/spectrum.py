"""Compute the error spectrum: how much a map explains along each principal direction of a head's keys or values.

The directions v_i are the eigenvectors of the head's target covariance over the held-out rows, about the training
means; along v_i, TSS_i = v_i^T (sum of y y^T) v_i and RSS_i = v_i^T (sum of r r^T) v_i with r = y - yhat. So the
error of the head is the mean of RSS_i / TSS_i weighted by each direction's share of the variance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kvlab.align import metrics
from kvlab.align.crossfit import ByClass
from kvlab.align.moments import HeadGrams

LEAST_SHARE = 1e-6  # of the variance; a direction with less is rounding of float32 products


@dataclass(frozen=True)
class Spectrum:
    """Per head and direction, the largest first; NaN where a head has no variance."""

    directions: torch.Tensor  # [H, D, D], one per column, of length 1
    deviation: torch.Tensor  # [H, D]: root of the variance along it, in the head's own unit
    share: torch.Tensor  # [H, D] of the head's variance
    error: torch.Tensor  # [H, D] RSS_i / TSS_i
    se: torch.Tensor  # [H, D] jackknife over folds, the directions held
    error_identity: torch.Tensor  # [H, D] of the ridge from the token embedding, along the same directions

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that a result stores."""
        return {name: getattr(self, name).cpu().numpy() for name in ("share", "error", "se", "error_identity")}


def spectrum(fit: ByClass, identity: ByClass, targets: Sequence[Sequence[HeadGrams]]) -> Spectrum:
    """``targets`` [F] of each class: the sums of the rows that a fold is scored on; both fits are of the same rows."""

    def spread(means: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
        """[F, H, D, D] about a mean [F][Q] of each class."""
        return sum(
            torch.stack([fold.gram_about(mean - fold.pilot) for fold, mean in zip(of_class, of_folds, strict=True)])
            for of_class, of_folds in zip(targets, means, strict=True)
        )

    about_mean = spread([one.mean_y for one in fit.fits])
    directions = _principal(about_mean.sum(0))

    def along(grams: torch.Tensor) -> torch.Tensor:
        """[F, H, D, D] -> [F, H, D]"""
        return torch.einsum("hdi,fhde,hei->fhi", directions, grams, directions)

    tss, held = along(about_mean), fit.n > 0
    whole = tss.sum(0)
    share = whole / whole.sum(-1, keepdim=True)
    varies = ~fit.channel_tss.sum(0).unflatten(0, (fit.heads, -1)).isnan() & (share > LEAST_SHARE)

    def known(values: torch.Tensor) -> torch.Tensor:
        return values.masked_fill(~varies, float("nan"))

    about_fitted = along(spread([one.fitted_y for one in fit.fits]))
    rss, rss_identity = (about_fitted + along(f.residual_grams) for f in (fit, identity))
    return Spectrum(
        directions=directions,
        deviation=known((whole.clamp(min=0) / fit.n.sum()).sqrt()),
        share=known(share),
        error=known(rss.sum(0) / whole),
        se=known(metrics.jackknife(rss[held], tss[held])),
        error_identity=known(rss_identity.sum(0) / whole),
    )


def _principal(grams: torch.Tensor) -> torch.Tensor:
    """Return eigenvectors [H, D, D] by falling eigenvalue; the largest entry of each is positive, to fix the sign."""
    vectors = torch.linalg.eigh(grams).eigenvectors.flip(-1)
    largest = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
    return vectors * largest.sign()
