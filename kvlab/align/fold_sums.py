"""Sums of each fold of documents, by the use of their rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import distributed

from kvlab.align.blocks import BlockInputs, Layout
from kvlab.align.moments import HOST, HeadGrams, Inputs, Outputs, shifted


class Part(NamedTuple):
    """What rows are for, and their class (``rows.classes_of``): of each teacher, where several share the rows."""

    use: str
    row_class: int | tuple[int, ...] = 0

    def of(self, row_class: int | tuple[int, ...]) -> Part:
        return Part(self.use, row_class)


FIT_AND_SCORE = Part("fit and score")
SCORE_ONLY = Part("score only")  # rows of a class that has no map of its own, where that is not wanted
FIT_ONLY = Part("fit only")  # calibration documents
SINK = Part("sink")  # first content tokens of a document, of either model: scored apart
SPECIAL = Part("special")  # the special token that both models begin with: scored apart
APART = (SINK.use, SPECIAL.use)
FITTED, SCORED = (FIT_AND_SCORE.use, FIT_ONLY.use), (FIT_AND_SCORE.use, SCORE_ONLY.use)
LEAST_ROWS = 20  # to fit a map on, whichever fold is left out; a class with fewer shares the map of another

Classes = tuple[int, ...] | None  # row classes that share a map; None: all
Sums = Inputs | BlockInputs | Outputs | HeadGrams


def weighed(part: Part, weights: torch.Tensor | None) -> Iterator[tuple[Part, torch.Tensor | None]]:
    """Yield the parts whose sums rows enter, and their weights there: those of the fit, if any; scores have none."""
    if weights is None or part.use not in FITTED:
        yield part, None
        return
    yield FIT_ONLY.of(part.row_class), weights
    if part.use in SCORED:
        yield SCORE_ONLY.of(part.row_class), None


@dataclass
class FoldSums:
    """Sums of each part and fold that has rows: Inputs (one pilot), BlockInputs (one, ``layout``), Outputs (two) or
    HeadGrams (one, ``heads``)."""

    pilots: tuple[torch.Tensor, ...]
    folds: int
    parts: dict[tuple[Part, int], Sums] = field(default_factory=dict)
    heads: int | None = None
    layout: Layout | None = None
    away: bool = False  # some sums lie on the host

    @property
    def device(self) -> torch.device:
        return self.pilots[0].device

    def put_away(self, but: int | None = None) -> None:
        """Move the sums of all folds ``but`` one to the host; they come back when they are added to or solved."""
        if self.device == HOST:
            return
        for (part, fold), sums in self.parts.items():
            if fold != but:
                self.parts[part, fold] = sums.to(HOST)
        self.away = True

    def empty(self) -> Sums:
        if self.layout is not None:
            return BlockInputs.empty(*self.pilots, self.layout)
        if self.heads is not None:
            return HeadGrams.empty(*self.pilots, self.heads)
        return (Inputs if len(self.pilots) == 1 else Outputs).empty(*self.pilots)

    def shift(self, rows: torch.Tensor) -> torch.Tensor:
        """Return features (of Inputs) or targets (of Outputs) about their pilot."""
        return shifted(rows, self.pilots[-1])

    def add(self, fold: int, part: Part, *rows: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        self.add_shifted(fold, part, *map(shifted, rows, self.pilots), weights=weights)

    def add_shifted(self, fold: int, part: Part, *rows: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        if not len(rows[0]):
            return
        if (part, fold) not in self.parts:
            self.parts[part, fold] = self.empty()
        elif self.away:
            self.parts[part, fold] = self.parts[part, fold].to(self.device)
        weighted = () if weights is None else (weights,)
        self.parts[part, fold].add_shifted(*rows, *weighted)

    def reduce(self, parts: Sequence[tuple[Part, int]]) -> None:
        """Add the sums of all processes, in the first of them. ``parts``: those that any process has, in one order."""
        for at in parts:
            sums = self.parts.setdefault(at, self.empty())
            for name in sums.names():
                value = torch.as_tensor(getattr(sums, name), dtype=torch.float64, device=self.device)
                value = value.contiguous()
                distributed.reduce(value, dst=0)
                setattr(sums, name, int(value) if name == "n" else value)

    def of(self, uses: Sequence[str], classes: Classes = None) -> list:
        """[F] sums over the rows of these uses and classes."""
        by_fold: list[list] = [[] for _ in range(self.folds)]
        for (part, fold), sums in self.parts.items():
            if part.use in uses and (classes is None or part.row_class in classes):
                by_fold[fold].append(sums)
        return [total(present).to(self.device) if present else self.empty() for present in by_fold]

    def fit(self, classes: Classes = None) -> list:
        return self.of(FITTED, classes)

    def score(self, classes: Classes = None) -> list:
        return self.of(SCORED, classes)

    def classes(self) -> list[Classes]:
        """Row classes by the map they share: each its own where ``LEAST_ROWS`` allow it.

        One with fewer joins the class before it, or the first one the class behind it.
        """
        present = sorted({part.row_class for part, _ in self.parts if part.use in (*FITTED, *SCORED)})
        groups: list[tuple[int, ...]] = []
        waiting: tuple[int, ...] = ()
        for row_class in present:
            if self._fittable((*waiting, row_class)):
                groups.append((*waiting, row_class))
                waiting = ()
            elif groups:
                groups[-1] = (*groups[-1], row_class)
            else:
                waiting = (*waiting, row_class)
        return groups or [waiting or None]

    def _fittable(self, classes: Classes) -> bool:
        rows = [fold.n for fold in self.fit(classes)]
        return sum(rows) - max(rows) >= LEAST_ROWS


def add_unweighted(features: FoldSums, fold: int, part: Part, x: torch.Tensor, weights: torch.Tensor | None) -> None:
    """Add shifted rows to the sums that targets share: those that count alike, whatever the ``weights`` of a target."""
    for use, row_weights in weighed(part, weights):
        if row_weights is None:
            features.add_shifted(fold, use, x)


def add_targets(
    targets: FoldSums,
    weighted: FoldSums | None,
    fold: int,
    part: Part,
    x: torch.Tensor,
    y: torch.Tensor,
    weights: torch.Tensor | None,
) -> None:
    """Add shifted rows to the sums of a target, and their features to those of its weighted rows."""
    for use, row_weights in weighed(part, weights):
        targets.add_shifted(fold, use, x, y, weights=row_weights)
        if row_weights is not None:
            weighted.add_shifted(fold, use, x, weights=row_weights)


def total(sums: list) -> Sums:
    return sum(sums[1:], sums[0])


@dataclass
class Pairing:
    """One problem: the features and targets of the same rows.

    ``columns[f]``: the features that the map for fold f may use (chosen without f); None: all of them.
    ``classes``: the rows that are fitted and scored; None: all. ``weighted``: the features of the fitted rows where
    these have weights, which other problems with the same features do not share.
    """

    features: FoldSums
    targets: FoldSums
    columns: list[torch.Tensor] | None = None
    classes: Classes = None
    weighted: FoldSums | None = None

    @classmethod
    def begin(cls, pilot_x: torch.Tensor, pilot_y: torch.Tensor, folds: int, columns=None) -> Pairing:
        return cls(FoldSums((pilot_x,), folds), FoldSums((pilot_x, pilot_y), folds), columns)

    def add(self, fold: int, part: Part, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        for use, row_weights in weighed(part, weights):
            self.features.add(fold, use, x, weights=row_weights)
            self.targets.add(fold, use, x, y, weights=row_weights)

    def fit(self) -> tuple[list[Inputs], list[Outputs]]:
        """[F] sums of the rows that maps are fitted on."""
        return (self.weighted or self.features).fit(self.classes), self.targets.fit(self.classes)

    def score(self) -> tuple[list[Inputs], list[Outputs]]:
        """[F] sums of the rows that maps are scored on."""
        return self.features.score(self.classes), self.targets.score(self.classes)

    def by_class(self) -> list[Pairing]:
        """The same for each group of row classes that shares a map."""
        return [replace(self, classes=classes) for classes in self.targets.classes()]

    def columns_of(self, fold: int) -> torch.Tensor:
        if self.columns is None:
            return torch.arange(len(self.features.pilots[0]), device=self.features.pilots[0].device)
        return self.columns[fold]


def beside(pairings: Sequence[Pairing]) -> Pairing:
    """The targets of several problems with the same features, side by side."""
    first, targets = pairings[0], [pairing.targets for pairing in pairings]
    if len(pairings) == 1:
        return first
    pilots = targets[0].pilots[0], torch.cat([sums.pilots[1] for sums in targets])
    together = FoldSums(pilots, targets[0].folds)
    for at in targets[0].parts:
        # Some folds may lie on the host; those that are asked for come to the device.
        of_all = [sums.parts[at].to(HOST) for sums in targets]
        outputs = of_all[0]
        total_y, plain, squares = (
            torch.cat([getattr(o, name) for o in of_all]) for name in ("total", "plain", "squares")
        )
        cross = torch.cat([o.cross for o in of_all], dim=1)
        together.parts[at] = Outputs(*pilots, outputs.n, outputs.weight, total_y, plain, cross, squares)
    return replace(first, targets=together)
