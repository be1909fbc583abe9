"""Sums of each fold of documents, by the use of their rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from kvlab.align.moments import HeadGrams, Inputs, Outputs, shifted

FIT_AND_SCORE = "fit and score"  # both models have read the same bytes
SCORE_ONLY = "score only"  # the rule gives a teacher step, but not at the same byte
FIT_ONLY = "fit only"  # calibration documents
SINK = "sink"  # first content tokens of a document, of either model: scored separately
SPECIAL = "special"  # the special token that both models begin with: scored separately
APART = (SINK, SPECIAL)
FITTED, SCORED = (FIT_AND_SCORE, FIT_ONLY), (FIT_AND_SCORE, SCORE_ONLY)


@dataclass
class FoldSums:
    """Inputs (one pilot), Outputs (two) or HeadGrams (one pilot, ``heads``) of each part and fold that has rows."""

    pilots: tuple[torch.Tensor, ...]
    folds: int
    parts: dict[tuple[str, int], Inputs | Outputs | HeadGrams] = field(default_factory=dict)
    heads: int | None = None

    def empty(self) -> Inputs | Outputs | HeadGrams:
        if self.heads is not None:
            return HeadGrams.empty(*self.pilots, self.heads)
        return (Inputs if len(self.pilots) == 1 else Outputs).empty(*self.pilots)

    def shift(self, rows: torch.Tensor) -> torch.Tensor:
        """Return features (of Inputs) or targets (of Outputs) about their pilot."""
        return shifted(rows, self.pilots[-1])

    def add(self, fold: int, part: str, *rows: torch.Tensor) -> None:
        self.add_shifted(fold, part, *map(shifted, rows, self.pilots))

    def add_shifted(self, fold: int, part: str, *rows: torch.Tensor) -> None:
        if not len(rows[0]):
            return
        if (part, fold) not in self.parts:
            self.parts[part, fold] = self.empty()
        self.parts[part, fold].add_shifted(*rows)

    def of(self, *parts: str) -> list:
        """Return [F] sums over the rows of these parts."""
        by_fold = [[self.parts[p, fold] for p in parts if (p, fold) in self.parts] for fold in range(self.folds)]
        return [total(present) if present else self.empty() for present in by_fold]

    def fit(self) -> list:
        return self.of(*FITTED)

    def score(self) -> list:
        return self.of(*SCORED)


def total(sums: list) -> Inputs | Outputs | HeadGrams:
    return sum(sums[1:], sums[0])


@dataclass
class Pairing:
    """One problem: the features and targets of the same rows.

    ``columns[f]``: the features that the map for fold f may use (chosen without f); None: all of them.
    """

    features: FoldSums
    targets: FoldSums
    columns: list[torch.Tensor] | None = None

    @classmethod
    def begin(cls, pilot_x: torch.Tensor, pilot_y: torch.Tensor, folds: int, columns=None) -> Pairing:
        return cls(FoldSums((pilot_x,), folds), FoldSums((pilot_x, pilot_y), folds), columns)

    def add(self, fold: int, part: str, x: torch.Tensor, y: torch.Tensor) -> None:
        self.features.add(fold, part, x)
        self.targets.add(fold, part, x, y)

    def columns_of(self, fold: int) -> torch.Tensor:
        if self.columns is None:
            return torch.arange(len(self.features.pilots[0]), device=self.features.pilots[0].device)
        return self.columns[fold]
