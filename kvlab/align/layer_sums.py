"""The features of one problem, gathered from the sums of all layers when the problem is solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from kvlab.align.blocks import FeatureName
from kvlab.align.fold_sums import FITTED, SCORED, Classes, FoldSums, Part, total
from kvlab.align.moments import Inputs, shifted
from kvlab.request.sums_size import GATHERED_BYTES


@dataclass
class Gathered:
    """The matrices last gathered, of one problem's sources, which its fits share; at most ``GATHERED_BYTES``."""

    sources: tuple | None = None
    inputs: dict[tuple, Inputs] = field(default_factory=dict)

    def clear(self) -> None:
        self.sources, self.inputs = None, {}

    def keep(self, key: tuple, inputs: Inputs) -> Inputs:
        room = GATHERED_BYTES // max(inputs.gram.nbytes, 1)
        while self.inputs and len(self.inputs) >= room:
            del self.inputs[next(iter(self.inputs))]
        if room:
            self.inputs[key] = inputs
        return inputs


@dataclass(eq=False)
class SomeSources:
    """The features of one problem: ``FoldSums`` of Inputs, gathered from the sums of all sources."""

    sums: FoldSums  # of BlockInputs
    sources: tuple[FeatureName, ...]
    kept: Gathered

    @property
    def folds(self) -> int:
        return self.sums.folds

    @property
    def pilots(self) -> tuple[torch.Tensor]:
        pilot = self.sums.pilots[0]
        return (pilot[self.sums.layout.columns(self.sums.layout.places(self.sources), pilot.device)],)

    def of(self, every: torch.Tensor) -> torch.Tensor:
        """[N, all features] -> [N, P] those of this problem."""
        return every[:, self.sums.layout.columns(self.sums.layout.places(self.sources), every.device)]

    def shift(self, rows: torch.Tensor) -> torch.Tensor:
        return shifted(rows, self.pilots[0])

    def fit(self, classes: Classes = None) -> list[Inputs]:
        return self._of(FITTED, classes)

    def score(self, classes: Classes = None) -> list[Inputs]:
        return self._of(SCORED, classes)

    def _of(self, uses: Sequence[str], classes: Classes) -> list[Inputs]:
        """[F]"""
        mine = id(self.sums), self.sources
        if self.kept.sources != mine:
            self.kept.clear()
            self.kept.sources = mine
        by_fold = []
        for fold in range(self.folds):
            parts = tuple(
                part
                for part, of_fold in self.sums.parts
                if of_fold == fold and part.use in uses and (classes is None or part.row_class in classes)
            )
            present = [self._gathered(fold, part) for part in parts]
            by_fold.append(total(present) if present else Inputs.empty(self.pilots[0]))
        return by_fold

    def _gathered(self, fold: int, part: Part) -> Inputs:
        key = fold, part, self.sums.parts[part, fold].n
        if key in self.kept.inputs:
            return self.kept.inputs[key]
        return self.kept.keep(key, self.sums.parts[part, fold].select(self.sources).to(self.sums.device))
