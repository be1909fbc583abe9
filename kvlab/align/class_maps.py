"""The maps that are handed on: fitted on every document, one for each class of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kvlab.align.crossfit import CrossFit, Penalties
from kvlab.align.fold_sums import Classes, Pairing, total
from kvlab.align.moments import Centred, about_own_mean
from kvlab.align.projectors import ridge_per_head


@dataclass(frozen=True)
class ClassMaps:
    """Affine maps [P] -> [Q] of one kind and student layer, by class of row."""

    classes: list[Classes]
    weights: list[torch.Tensor]  # [P, Q] of each
    biases: list[torch.Tensor]  # [Q] of each
    means: list[torch.Tensor]  # [Q] of each: the student's own rows that it was fitted on, all alike

    def channels(self, some: slice) -> ClassMaps:
        """The maps of some of the targets' channels."""
        weights = [weight[:, some] for weight in self.weights]
        return ClassMaps(self.classes, weights, [b[some] for b in self.biases], [mean[some] for mean in self.means])

    def place(self, row_class: int) -> int:
        """Which map rows of a class take; the last one for a class that was not met in the fit."""
        for place, classes in enumerate(self.classes):
            if classes is None or row_class in classes:
                return place
        return len(self.classes) - 1

    def predict(self, x: torch.Tensor, row_classes: torch.Tensor) -> torch.Tensor:
        """[N, P], [N] -> [N, Q]"""
        y = x.new_zeros(len(x), len(self.biases[0]))
        for row_class in row_classes.unique().tolist():
            rows, place = row_classes == row_class, self.place(row_class)
            y[rows] = x[rows] @ self.weights[place].to(x) + self.biases[place].to(x)
        return y

    def mean(self, row_classes: torch.Tensor) -> torch.Tensor:
        """[N] -> [N, Q]: the mean of each row's class."""
        places = torch.tensor([self.place(row_class) for row_class in row_classes.tolist()], dtype=torch.int64)
        return torch.stack(self.means)[places.to(self.means[0].device)]


def class_maps(
    pairing: Pairing,
    columns: torch.Tensor,
    penalties: Sequence[Penalties | CrossFit],
    solve: Callable[[Centred], torch.Tensor] | None = None,
) -> ClassMaps:
    """Fitted on every fold from some ``columns``; ``solve``: of a projector that is not ridge.

    Ridge takes the penalty of each head that all pairs of folds together like best.
    """
    maps = ClassMaps([], [], [], [])
    for of_class, one in zip(pairing.by_class(), penalties, strict=True):
        fit_x, fit_y = of_class.fit()
        everything = about_own_mean(total(fit_x), total(fit_y))
        train = everything.features(columns)
        weights = solve(train) if solve else ridge_per_head(train, one.whole_penalties)
        mean_y = everything.mean_y + fit_y[0].pilot_y
        mean_x = (everything.mean_x + fit_x[0].pilot)[columns]
        maps.classes.append(one.classes)
        maps.weights.append(weights.float())
        maps.biases.append((mean_y - weights.T @ mean_x).float())
        maps.means.append((total(fit_y).plain_mean() + fit_y[0].pilot_y).float())
    return maps
