"""Sums of the features of many layers, shared by all problems that put some of them side by side.

Of X^T X only blocks of two sources (layers, the student's own token) are kept that some problem combines: with a band
of b layers around each student layer, memory grows with b times the number of layers, not with its square, and not
with the number of student layers. A problem gathers its own matrix when it is solved.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import torch

from kvlab.align.moments import BLOCK, CHUNK, Additive, Inputs
from kvlab.request.sums_size import ROWS_IN_DOUBLE

FeatureName = Hashable  # a layer, or what other features are called


@dataclass(frozen=True)
class Layout:
    """Where the blocks of X^T X lie in a row of numbers. Block row i: X_i^T X_j for each partner j, from i on."""

    widths: tuple[tuple[FeatureName, int], ...]  # of each source, in the order of the features
    partners: tuple[tuple[int, ...], ...]  # of each source: itself, and those behind it that some problem combines

    @classmethod
    def of(cls, widths: Mapping[FeatureName, int], together: Iterable[Sequence[FeatureName]]) -> Layout:
        """``together``: the sources of each problem."""
        place = {source: n for n, source in enumerate(widths)}
        partners: list[set[int]] = [{n} for n in range(len(widths))]
        for sources in together:
            places = sorted(place[source] for source in sources)
            for number, at in enumerate(places):
                partners[at].update(places[number:])
        return cls(tuple(widths.items()), tuple(tuple(sorted(of)) for of in partners))

    @cached_property
    def starts(self) -> list[int]:
        """[sources + 1] first features."""
        return list(accumulate((width for _, width in self.widths), initial=0))

    @cached_property
    def rows(self) -> list[slice]:
        """The place of each block row."""
        sizes = [width * self.width(partners) for (_, width), partners in zip(self.widths, self.partners)]
        edges = list(accumulate(sizes, initial=0))
        return [slice(*edge) for edge in pairwise(edges)]

    @property
    def size(self) -> int:
        return self.rows[-1].stop

    def width(self, places: Sequence[int]) -> int:
        return sum(self.widths[n][1] for n in places)

    def places(self, sources: Sequence[FeatureName]) -> list[int]:
        names = [source for source, _ in self.widths]
        return [names.index(source) for source in sources]

    def columns(self, places: Sequence[int], device: torch.device) -> slice | torch.Tensor:
        """Features of some sources; neighbours are a slice, which copies nothing."""
        if list(places) == list(range(places[0], places[-1] + 1)):
            return slice(self.starts[places[0]], self.starts[places[-1] + 1])
        return torch.cat([torch.arange(self.starts[n], self.starts[n + 1], device=device) for n in places])


@dataclass
class BlockInputs(Additive):
    """As ``Inputs``, of the features of every source side by side; of sum of w x x^T the blocks of ``layout``, flat."""

    pilot: torch.Tensor
    layout: Layout
    n: int
    weight: float | torch.Tensor
    total: torch.Tensor
    blocks: torch.Tensor

    @classmethod
    def empty(cls, pilot: torch.Tensor, layout: Layout) -> BlockInputs:
        pilot = pilot.double()
        return cls(pilot, layout, 0, 0, torch.zeros_like(pilot), pilot.new_zeros(layout.size))

    def add_shifted(self, x: torch.Tensor) -> None:
        self.n += len(x)
        self.weight = self.weight + len(x)
        self.total += x.sum(0, dtype=torch.float64)
        for part in x.split(min(CHUNK, max(1, ROWS_IN_DOUBLE // x.shape[1]))):
            part = part.double()
            for at, partners in enumerate(self.layout.partners):
                self._add_block_row(at, part[:, self.layout.columns(partners, x.device)])

    def _add_block_row(self, at: int, columns: torch.Tensor) -> None:
        """Of the source's own columns, the first ones, the upper half is computed."""
        width = self.layout.widths[at][1]
        row = self.blocks[self.layout.rows[at]].view(width, -1)
        for first in range(0, width, BLOCK):
            own = columns[:, first : min(first + BLOCK, width)]
            row[first : first + BLOCK, first:].addmm_(own.T, columns[:, first:])

    def select(self, sources: Sequence[FeatureName]) -> Inputs:
        """The sums of some sources that a problem combines."""
        layout, places = self.layout, self.layout.places(sources)
        edges = list(accumulate((layout.widths[n][1] for n in places), initial=0))
        gram = self.blocks.new_empty(edges[-1], edges[-1])
        for a, at in enumerate(places):
            row = self.blocks[layout.rows[at]].view(layout.widths[at][1], -1)
            own = slice(edges[a], edges[a + 1])
            for b, other in list(enumerate(places))[a:]:
                first = layout.width([n for n in layout.partners[at] if n < other])
                block = row[:, first : first + layout.widths[other][1]]
                if a == b:
                    block = block.triu() + block.triu(1).mT
                else:
                    gram[edges[b] : edges[b + 1], own] = block.mT
                gram[own, edges[b] : edges[b + 1]] = block
        pilot, total = (row[layout.columns(places, row.device)] for row in (self.pilot, self.total))
        return Inputs(pilot, self.n, self.weight, total, gram)
