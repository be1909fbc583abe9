"""Compare unbiased CKA of all pairs of layers from sums over rows with the dense form and its N x N Gram matrices.

The dense side computes every layer's Gram matrix once, and the traces of all pairs in one pass over them: the fastest
plain form we know. Both sides read the same float32 rows.
"""

import torch

from kvlab.align.similarity import CrossMoments, cka, own_hsic
from kvlab.bench.row import FASTER, Row, in_turn, timed

EQUAL = 1e-6


def against_dense(device: torch.device, quick: bool) -> Row:
    rows, layers_t, layers_s, rounds = (200, 3, 2, 1) if quick else (6_000, 6, 4, 5)
    teacher, student = layered_rows(rows, [128] * layers_t, [192] * layers_s, device)
    by_sums(student, teacher)  # to warm up
    measured = in_turn(lambda: by_sums(student, teacher), lambda: dense_cka(student, teacher), device, rounds)
    ours, dense = measured[-1]
    difference = float((ours.result - dense.result).abs().max())
    return timed(
        "layer similarity, all pairs",
        "dense CKA on the same rows",
        measured,
        FASTER,
        10.0,
        equal=difference <= EQUAL,
        largest_difference=difference,
        rows=rows,
        teacher_layers=f"{layers_t} of {teacher[0].shape[1]} features",
        student_layers=f"{layers_s} of {student[0].shape[1]} features",
    )


def layered_rows(
    rows: int, widths_t: list[int], widths_s: list[int], device: torch.device
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Draw two stacks of layers [N, P] about zero that share a signal, weaker with every layer."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    signal = normal(rows, 32)

    def layers(widths: list[int]) -> list[torch.Tensor]:
        mixed = [signal @ normal(32, width) / (depth + 2) + normal(rows, width) for depth, width in enumerate(widths)]
        return [layer.to(device) for layer in mixed]

    return layers(widths_t), layers(widths_s)


def by_sums(a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
    """Compute [A, B] as ``align`` does."""
    hsic_a, hsic_b = (torch.stack([own_hsic(layer) for layer in layers]) for layers in (a, b))
    return cka(CrossMoments.of(a, b), hsic_a, hsic_b)


def dense_cka(a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
    """Compute [A, B] from explicit Gram matrices (Song et al. 2012, eq. 5)."""
    grams_a, grams_b = _grams(a), _grams(b)
    between = _hsic(grams_a, grams_b)
    hsic_a, hsic_b = (torch.stack([_hsic(g[None], g[None])[0, 0] for g in grams]) for grams in (grams_a, grams_b))
    return between / (hsic_a[:, None] * hsic_b).sqrt()


def _grams(layers: list[torch.Tensor]) -> torch.Tensor:
    """Return Gram matrices [L, N, N] with zero diagonals."""
    grams = torch.stack([layer @ layer.T for layer in layers])
    grams.diagonal(dim1=1, dim2=2).zero_()
    return grams


def _hsic(k: torch.Tensor, l: torch.Tensor) -> torch.Tensor:  # noqa: E741
    n = k.shape[1]
    traces = torch.bmm(k.transpose(0, 1), l.permute(1, 2, 0)).sum(0, dtype=torch.float64)  # row by row, to keep digits
    sums_k, sums_l = k.sum(1, dtype=torch.float64), l.sum(1, dtype=torch.float64)  # [L, N]
    totals = torch.outer(sums_k.sum(1), sums_l.sum(1)) / ((n - 1) * (n - 2))
    return (traces + totals - 2 * (sums_k @ sums_l.T) / (n - 2)) / (n * (n - 3))
