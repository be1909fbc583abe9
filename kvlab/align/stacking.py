"""Weight held-out predictions of several teachers per student head and score them, from sums of their products.

A prediction is an affine map of a teacher's features, so its products with others and with the target follow from the
sums of all features side by side. Where the rows themselves are in memory, predicting them costs less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kvlab.align import metrics
from kvlab.align.crossfit import CrossFit
from kvlab.align.fold_sums import FITTED, SCORED, FoldSums, Pairing, total
from kvlab.align.moments import about_own_mean, pilot_of, shifted
from kvlab.align.projectors import ridge_per_head
from kvlab.align.sample import Group

PULL = 1e-3  # towards the mean of the teachers, relative to the variance of a prediction

Map = torch.Tensor  # [p + 1, Q]: of a teacher's features about their pilot, and the constant, to y less a mean


@dataclass(frozen=True)
class Products:
    """Sums over rows, per head: of every two teachers' predictions, and of each with y minus the same mean."""

    gram: torch.Tensor  # [..., H, A, A]
    cross: torch.Tensor  # [..., H, A]

    def __add__(self, other: Products) -> Products:
        return Products(self.gram + other.gram, self.cross + other.cross)

    @classmethod
    def none(cls, heads: int, teachers: int, like: torch.Tensor) -> Products:
        return cls(like.new_zeros(heads, teachers, teachers), like.new_zeros(heads, teachers))


class Summed:
    """Rows known by their sums: the features of all teachers side by side against the targets."""

    def __init__(self, common: Pairing):
        self.targets, self.pilot_x = common.targets, common.targets.pilots[0]
        self._sums = {use: list(zip(common.features.of(*use), self.targets.of(*use))) for use in (FITTED, SCORED)}

    def products(self, use: tuple[str, str], fold: int, maps: Sequence[Map], mean_y: torch.Tensor, heads: int):
        """Add up the products over the rows of one fold, FITTED or SCORED."""
        x, y = self._sums[use][fold]
        sums = torch.cat([x.total, x.total.new_tensor([x.n])])
        gram = torch.cat([torch.cat([x.gram, x.total[:, None]], dim=1), sums[None]])  # [P + 1, P + 1]
        cross = torch.cat([y.cross, y.total[None]]) - torch.outer(sums, mean_y)  # [P + 1, Q]
        products, places, first = Products.none(heads, len(maps), gram), [], 0
        for a, affine in enumerate(maps):
            places.append(torch.tensor([*range(first, first + len(affine) - 1), len(x.total)], device=gram.device))
            first += len(affine) - 1
            products.cross[:, a] = metrics.per_head((affine * cross[places[a]]).sum(0), heads)
            predicted = gram[:, places[a]] @ affine
            for b, other in enumerate(maps[: a + 1]):
                product = metrics.per_head((other * predicted[places[b]]).sum(0), heads)
                products.gram[:, a, b] = products.gram[:, b, a] = product
        return products


class CommonRows:
    """Rows of a sample, by group: ``features`` of each teacher [N, p] and the ``targets`` [N, Q]."""

    def __init__(
        self,
        groups: Sequence[Group],
        folds: int,
        features: Sequence[Callable[[Group], torch.Tensor]],
        targets: Callable[[Group], torch.Tensor],
    ):
        first = next(group for group in groups if group[1] in FITTED)
        self._groups, self._features, self._y = groups, features, targets
        self._pilots = [pilot_of(teacher_rows(first)) for teacher_rows in features]
        self.pilot_x = torch.cat(self._pilots)
        self.targets = FoldSums((self.pilot_x[:0], pilot_of(targets(first))), folds)
        for group in groups:
            y = targets(group)
            self.targets.add(*group, y[:, :0], y)

    def products(self, use: tuple[str, str], fold: int, maps: Sequence[Map], mean_y: torch.Tensor, heads: int):
        """Add up the products over the rows of one fold, FITTED or SCORED."""
        products = Products.none(heads, len(maps), self.pilot_x)
        for group in self._groups:
            if group[0] != fold or group[1] not in use:
                continue
            predicted = [self._predicted(a, group, affine) for a, affine in enumerate(maps)]
            by_head = torch.stack(predicted).unflatten(2, (heads, -1)).permute(2, 0, 1, 3).flatten(2)  # [H, A, N * D]
            y = shifted(self._y(group), self.targets.pilots[1]).double() - mean_y
            y_by_head = y.unflatten(1, (heads, -1)).transpose(0, 1).flatten(1)  # [H, N * D]
            products += Products(by_head @ by_head.mT, (by_head @ y_by_head[..., None])[..., 0])
        return products

    def _predicted(self, teacher: int, group: Group, affine: Map) -> torch.Tensor:
        x = shifted(self._features[teacher](group), self._pilots[teacher])
        return (x @ affine[:-1].to(x.dtype)).double() + affine[-1]


class Stack:
    """Score weighted predictions of any of the teachers, per head, on folds that neither maps nor weights have seen.

    ``alone``: each teacher's rows, on which it is fitted alone, and ``fits`` its ridge with the penalties chosen there.
    """

    def __init__(self, common: Summed | CommonRows, alone: Sequence[Pairing], fits: Sequence[CrossFit], heads: int):
        self.alone, self.fits, self.common = alone, fits, common
        fit_y, score_y = common.targets.fit(), common.targets.score()
        self.n = [fold.n for fold in score_y]
        self.mean_y = [(total(fit_y) - fold).mean() for fold in fit_y]  # [F][Q] of the other folds
        tss = [fold.squares_about(mean) for fold, mean in zip(score_y, self.mean_y)]
        self.tss = torch.stack([metrics.per_head(fold_tss, heads) for fold_tss in tss])  # [F, H]
        folds = range(common.targets.folds)
        self.fitted, self.tested = [], []  # [F] products to fit the weights on, and to score them on
        for f in folds:
            mean, fitted = self.mean_y[f], Products.none(heads, len(alone), self.tss)
            self.tested.append(common.products(SCORED, f, self._maps(f), mean, heads))
            for g in folds if len(folds) > 2 else ():
                if g != f:
                    fitted += common.products(FITTED, g, self._maps(f, g), mean, heads)
            self.fitted.append(fitted)

    def judged(self, teachers: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return RSS [F, H] of the weighted predictions of some teachers, and their weights [A, H], mean over folds."""
        fitted, tested = self._select(self.fitted, teachers), self._select(self.tested, teachers)
        variance = fitted.gram.diagonal(dim1=-2, dim2=-1).mean(-1)
        pull = (PULL * variance).clamp(min=torch.finfo(variance.dtype).tiny)  # with two folds, only the pull decides
        system = fitted.gram + pull[..., None, None] * torch.eye(len(teachers)).to(fitted.gram)
        w = torch.linalg.solve(system, fitted.cross + pull[..., None] / len(teachers))  # [F, H, A]
        squares = (w * ((tested.gram @ w[..., None])[..., 0] - 2 * tested.cross)).sum(-1)
        return self.tss + squares, w.mean(0).T

    def jackknife(self, rss: torch.Tensor) -> torch.Tensor:
        """Return the standard error [H] over the scored folds: a fold may hold calibration documents only."""
        held = torch.tensor([n > 0 for n in self.n])
        return metrics.jackknife(rss[held], self.tss[held])

    def _select(self, products: Sequence[Products], teachers: Sequence[int]) -> Products:
        """Return the products of some teachers, [F, H, A, A] and [F, H, A]."""
        some = torch.tensor(list(teachers))
        gram, cross = torch.stack([p.gram for p in products]), torch.stack([p.cross for p in products])
        return Products(gram[..., some[:, None], some], cross[..., some])

    def _maps(self, *without: int) -> list[Map]:
        """Fit each teacher on its own rows without these folds, with the columns and penalties of the first fold."""
        maps, first, pilot_y = [], 0, self.common.targets.pilots[1]
        for pairing, fit in zip(self.alone, self.fits):
            w, intercept = _map(pairing, without, fit.penalties[without[0]])
            # Rewrite it from features about the common pilot to targets about the mean that scores the first fold.
            pilot_x = self.common.pilot_x[first : first + len(w)]
            constant = intercept + w.T @ pilot_x - pilot_y - self.mean_y[without[0]]
            maps.append(torch.cat([w, constant[None]]))
            first += len(w)
        return maps


def _map(pairing: Pairing, without: Sequence[int], penalties: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit W [P, Q], zero outside the columns of the first fold, and the intercept [Q], with a penalty per head."""
    fit_x, fit_y = pairing.features.fit(), pairing.targets.fit()
    x, y = total(fit_x), total(fit_y)
    for fold in without:
        x, y = x - fit_x[fold], y - fit_y[fold]
    train, columns = about_own_mean(x, y), pairing.columns_of(without[0])
    w = torch.zeros_like(train.xy)
    w[columns] = ridge_per_head(train.features(columns), penalties)
    return w, train.mean_y + y.pilot_y - w.T @ (train.mean_x + x.pilot)
