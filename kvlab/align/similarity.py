"""Compute unbiased linear CKA between all layers of two models, from sums over rows.

CKA(X, Y) = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)) (Kornblith et al. 2019, eq. 2) with the unbiased HSIC_1 of Song
et al. 2012, eq. 5, whose mean is zero for independent data of any widths. With linear kernels it needs, besides
X^T Y, only sums of rows weighted by squared norms. Adding a constant to all rows changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kvlab.align.moments import Additive, product


@dataclass
class CrossMoments(Additive):
    """Sums over the same rows of the layers A (widths P_l) and B (widths Q_m), each side by side."""

    widths_a: tuple[int, ...]
    widths_b: tuple[int, ...]
    n: int
    sum_a: torch.Tensor  # [sum P]
    sum_b: torch.Tensor  # [sum Q]
    norms_a: torch.Tensor  # [A] sum of |a_l|^2
    norms_b: torch.Tensor  # [B]
    ab: torch.Tensor  # [sum P, sum Q]
    a_by_norm_b: torch.Tensor  # [sum P, B] sum of a |b_m|^2
    norm_a_by_b: torch.Tensor  # [A, sum Q] sum of |a_l|^2 b
    norm_a_by_norm_b: torch.Tensor  # [A, B] sum of |a_l|^2 |b_m|^2

    @classmethod
    def of(cls, a: list[torch.Tensor], b: list[torch.Tensor]) -> CrossMoments:
        """Sum rows of each layer, [N, P_l] and [N, Q_m], near their mean (see ``moments.pilot_of``)."""
        rows_a, rows_b = torch.cat(a, dim=1), torch.cat(b, dim=1)
        squares_a, squares_b = (torch.stack([x.square().sum(1) for x in layers], dim=1) for layers in (a, b))
        return cls(
            tuple(x.shape[1] for x in a),
            tuple(x.shape[1] for x in b),
            len(rows_a),
            rows_a.sum(0, dtype=torch.float64),
            rows_b.sum(0, dtype=torch.float64),
            squares_a.sum(0, dtype=torch.float64),
            squares_b.sum(0, dtype=torch.float64),
            product(rows_a, rows_b),
            product(rows_a, squares_b),
            product(squares_a, rows_b),
            product(squares_a.double(), squares_b.double()),
        )


def hsic(m: CrossMoments) -> torch.Tensor:
    """Return [A, B] HSIC_1 of every pair of layers, with linear kernels K = A A^T, L = B B^T without diagonals."""
    n = m.n
    if n < 4:
        return torch.full_like(m.norm_a_by_norm_b, float("nan"))
    trace = _blocks(m.ab.square(), m.widths_a, m.widths_b) - m.norm_a_by_norm_b
    total_k = _sums(m.sum_a.square(), m.widths_a) - m.norms_a
    total_l = _sums(m.sum_b.square(), m.widths_b) - m.norms_b
    weighted = m.sum_a[:, None] * m.ab * m.sum_b
    row_sums = (
        _blocks(weighted, m.widths_a, m.widths_b)
        - _sums((m.sum_a[:, None] * m.a_by_norm_b).T, m.widths_a).T
        - _sums(m.norm_a_by_b * m.sum_b, m.widths_b)
        + m.norm_a_by_norm_b
    )
    return (trace + torch.outer(total_k, total_l) / ((n - 1) * (n - 2)) - 2 * row_sums / (n - 2)) / (n * (n - 3))


def cka(between: CrossMoments, hsic_a: torch.Tensor, hsic_b: torch.Tensor) -> torch.Tensor:
    """Return [A, B] from the moments between the layers and HSIC(X, X) of each [A], HSIC(Y, Y) of each [B].

    NaN for a layer that does not vary.
    """
    scale = (hsic_a[:, None] * hsic_b).clamp(min=0).sqrt()
    return torch.where(scale > 0, hsic(between) / scale, float("nan"))


def own_hsic(layer: torch.Tensor) -> torch.Tensor:
    """Return HSIC_1 of one layer's rows [N, P] with themselves."""
    return hsic(CrossMoments.of([layer], [layer]))[0, 0]


def _sums(columns: torch.Tensor, widths: tuple[int, ...]) -> torch.Tensor:
    """Sum within each layer's columns: [..., sum P] -> [..., L]."""
    return torch.stack([part.sum(-1) for part in columns.split(widths, dim=-1)], dim=-1)


def _blocks(matrix: torch.Tensor, widths_a: tuple[int, ...], widths_b: tuple[int, ...]) -> torch.Tensor:
    """Sum within each pair's block: [sum P, sum Q] -> [A, B]."""
    return _sums(_sums(matrix, widths_b).T, widths_a).T
