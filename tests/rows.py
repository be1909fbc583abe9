"""Synthetic rows in the form that the engine reads them from documents: a planted teacher and student."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kvlab.align.fold_sums import FIT_AND_SCORE
from kvlab.align.sample import Sample
from kvlab.shapes import KINDS


@dataclass
class Block:
    """One batch's rows, of one fold and the part FIT_AND_SCORE. ``xs`` [Lt][N, P], ``ys`` [Ls][N, Q], both kinds.

    ``embedded`` [N, E] are the token embeddings; left out, the first of ``xs``.
    """

    fold: int
    xs: list[torch.Tensor]
    ys: list[torch.Tensor]
    parts: tuple[str, ...] = (FIT_AND_SCORE,)
    embedded: torch.Tensor | None = None

    def x(self, kind, layer, part):
        return self.xs[layer]

    def side_by_side(self, kind, layers, part):
        return torch.cat([self.xs[layer] for layer in layers], dim=1)

    def y(self, kind, layer, part):
        return self.ys[layer]

    def e(self, part):
        return self.xs[0] if self.embedded is None else self.embedded


def teacher_layers(seed: int, n: int, layers: int, width: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, width, generator=g, dtype=torch.float64) for _ in range(layers)]


def planted(xs: list[torch.Tensor], sources: list[list[int]], width: int, noise: float, seed: int = 0):
    """Student layers [N, width], each a linear map of some teacher layers and noise."""
    g = torch.Generator().manual_seed(seed)
    ys = []
    for layers in sources:
        signal = sum(xs[at] @ torch.randn(xs[at].shape[1], width, generator=g, dtype=torch.float64) for at in layers)
        signal = signal / signal.std()
        ys.append(signal + noise * torch.randn(signal.shape, generator=g, dtype=torch.float64))
    return ys


def sample_of(xs: list[torch.Tensor], ys: list[torch.Tensor], folds: int, seed: int = 0) -> Sample:
    n = len(xs[0])
    blocks = [Block(f, [x[f::folds] for x in xs], [y[f::folds] for y in ys]) for f in range(folds)]
    assert sum(len(b.xs[0]) for b in blocks) == n and KINDS
    return Sample(blocks, len(xs), len(ys), folds, seed)
