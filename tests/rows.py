"""Synthetic rows in the form that the engine reads them from documents: a planted teacher and student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kvlab.align.fold_sums import FIT_AND_SCORE, Part
from kvlab.align.sample import Sample
from kvlab.shapes import KINDS


@dataclass
class Block:
    """One batch's rows, of one fold and the part FIT_AND_SCORE. ``xs`` [Lt][N, P], ``ys`` [Ls][N, Q], both kinds.

    ``embedded`` [N, E] are the teacher's token embeddings; left out, the first of ``xs``. ``own_tokens`` [N, 3 Es] are
    the student's own; left out, three columns of zeros. ``received`` [Ls][N] are the weights of the rows in the fits.
    """

    fold: int
    xs: list[torch.Tensor]
    ys: list[torch.Tensor]
    parts: tuple[Part, ...] = (FIT_AND_SCORE,)
    embedded: torch.Tensor | None = None
    own_tokens: torch.Tensor | None = None
    received: list[torch.Tensor] | None = None

    def x(self, kind, layer, part):
        return self.xs[layer]

    def side_by_side(self, kind, layers, part):
        return torch.cat([self.xs[layer] for layer in layers], dim=1)

    def y(self, kind, layer, part):
        return self.ys[layer]

    def e(self, part):
        return self.xs[0] if self.embedded is None else self.embedded

    def own(self, part):
        return self.xs[0].new_zeros(len(self.xs[0]), 3) if self.own_tokens is None else self.own_tokens

    def weights(self, layer, part):
        return None if self.received is None else self.received[layer]


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


def sample_of(
    xs: list[torch.Tensor], ys: list[torch.Tensor], folds: int, seed: int = 0, classes: Sequence = (0,)
) -> Sample:
    """Row i is of fold i modulo ``folds``; the rounds of folds take the row ``classes`` in turn."""
    rows = torch.arange(len(xs[0]))
    blocks = []
    for fold in range(folds):
        for number, row_class in enumerate(classes):
            of = rows[(rows % folds == fold) & (rows // folds % len(classes) == number)]
            blocks.append(Block(fold, [x[of] for x in xs], [y[of] for y in ys], (FIT_AND_SCORE.of(row_class),)))
    assert sum(len(b.xs[0]) for b in blocks) == len(rows) and KINDS
    return Sample(blocks, len(xs), len(ys), folds, seed)
