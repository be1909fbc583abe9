"""Weight held-out predictions of several teachers per student head and score them, from sums of their products.

A prediction is an affine map of a teacher's features, so its products with others and with the target follow from the
sums of all features side by side. Where the rows themselves are in memory, predicting them costs less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from kvlab.align import metrics
from kvlab.align.crossfit import CrossFit, Penalties, for_class
from kvlab.align.fold_sums import FITTED, SCORED, FoldSums, Pairing, total, weighed
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


JointClass = tuple[int, ...]  # the class that a row has for each teacher
MapsOf = Callable[[JointClass], Sequence[Map]]  # the map of each teacher for such a row


class Summed:
    """Rows known by their sums: the features of all teachers side by side against the targets."""

    def __init__(self, common: Pairing):
        self.targets, self.pilot_x = common.targets, common.targets.pilots[0]
        self._features = common.features

    def products(self, uses: Sequence[str], fold: int, maps_of: MapsOf, mean_y: torch.Tensor, heads: int) -> Products:
        """Of the rows of one fold, FITTED or SCORED."""
        products = None
        for (part, of_fold), y in self.targets.parts.items():
            if of_fold != fold or part.use not in uses:
                continue
            x, maps = self._features.parts[part, fold], maps_of(part.row_class)
            sums = torch.cat([x.total, torch.as_tensor(x.weight).to(x.total)[None]])
            gram = torch.cat([torch.cat([x.gram, x.total[:, None]], dim=1), sums[None]])  # [P + 1, P + 1]
            cross = torch.cat([y.cross, y.total[None]]) - torch.outer(sums, mean_y)  # [P + 1, Q]
            of_class, places, first = Products.none(heads, len(maps), gram), [], 0
            for a, one in enumerate(maps):
                columns = [*range(first, first + len(one) - 1), len(x.total)]
                places.append(torch.tensor(columns, device=gram.device))
                first += len(one) - 1
                of_class.cross[:, a] = metrics.per_head((one * cross[places[a]]).sum(0), heads)
                predicted = gram[:, places[a]] @ one
                for b, other in enumerate(maps[: a + 1]):
                    product = metrics.per_head((other * predicted[places[b]]).sum(0), heads)
                    of_class.gram[:, a, b] = of_class.gram[:, b, a] = product
            products = of_class if products is None else products + of_class
        return products


class CommonRows:
    """Rows of a sample, by group: ``features`` of each teacher [N, p] and the ``targets`` [N, Q]."""

    def __init__(
        self,
        groups: Sequence[Group],
        folds: int,
        features: Sequence[Callable[[Group], torch.Tensor]],
        targets: Callable[[Group], torch.Tensor],
        weights: Callable[[Group], torch.Tensor | None] = lambda group: None,
    ):
        first = next(group for group in groups if group[1].use in FITTED)
        self._groups, self._features, self._y, self._weights = groups, features, targets, weights
        self._pilots = [pilot_of(teacher_rows(first)) for teacher_rows in features]
        self.pilot_x = torch.cat(self._pilots)
        self.targets = FoldSums((self.pilot_x[:0], pilot_of(targets(first))), folds)
        for group in groups:
            y = targets(group)
            for use, row_weights in weighed(group[1], weights(group)):
                self.targets.add(group[0], use, y[:, :0], y, weights=row_weights)

    def products(self, uses: Sequence[str], fold: int, maps_of: MapsOf, mean_y: torch.Tensor, heads: int) -> Products:
        """Of the rows of one fold, FITTED or SCORED."""
        products = None
        for group in self._groups:
            if group[0] != fold or group[1].use not in uses:
                continue
            maps = maps_of(group[1].row_class)
            predicted = [self._predicted(a, group, one) for a, one in enumerate(maps)]
            y = shifted(self._y(group), self.targets.pilots[1]).double() - mean_y
            row_weights = self._weights(group) if uses == FITTED else None
            if row_weights is not None:
                roots = row_weights.double().sqrt()[:, None]
                y, predicted = y * roots, [rows * roots for rows in predicted]
            by_head = torch.stack(predicted).unflatten(2, (heads, -1)).permute(2, 0, 1, 3).flatten(2)  # [H, A, N * D]
            of_targets = y.unflatten(1, (heads, -1)).transpose(0, 1).flatten(1)  # [H, N * D]
            of_group = Products(by_head @ by_head.mT, (by_head @ of_targets[..., None])[..., 0])
            products = of_group if products is None else products + of_group
        return products

    def _predicted(self, teacher: int, group: Group, affine: Map) -> torch.Tensor:
        x = shifted(self._features[teacher](group), self._pilots[teacher])
        return (x @ affine[:-1].to(x.dtype)).double() + affine[-1]


class Stack:
    """Score weighted predictions of any of the teachers, per head, on folds that neither maps nor weights have seen.

    ``alone``: each teacher's own rows, and ``penalties`` those chosen for its ridge there, for
    each class of rows; ``widths``: the features of each teacher on the common rows, the first of its own.
    """

    def __init__(
        self,
        common: Summed | CommonRows,
        alone: Sequence[Pairing],
        penalties: Sequence[Sequence[Penalties | CrossFit]],
        widths: Sequence[int],
        heads: int,
    ):
        self.alone, self.penalties, self.widths, self.common = alone, penalties, widths, common
        fit_y, score_y = common.targets.fit(), common.targets.score()
        self.n = [fold.n for fold in score_y]
        self.mean_y = [(total(fit_y) - fold).mean() for fold in fit_y]  # [F][Q] of the other folds
        about_mean = [fold.squares_about(mean) for fold, mean in zip(score_y, self.mean_y)]
        self.energy = torch.stack([metrics.per_head(squares, heads) for squares in about_mean])  # [F, H]
        self.tss = torch.stack([metrics.per_head(self._squares(f), heads) for f in range(len(fit_y))])  # [F, H]
        folds, teachers = range(common.targets.folds), len(alone)
        self.fitted, self.tested = [], []  # [F]: what weights are fitted on, and what they are judged on
        for f in folds:
            mean, fitted = self.mean_y[f], Products.none(heads, teachers, self.tss)
            tested = common.products(SCORED, f, self._maps(f), mean, heads)
            self.tested.append(tested or Products.none(heads, teachers, self.tss))
            for g in folds if len(folds) > 2 else ():
                if g != f and (products := common.products(FITTED, g, self._maps(f, g), mean, heads)) is not None:
                    fitted += products
            self.fitted.append(fitted)

    def _squares(self, fold: int) -> torch.Tensor:
        """TSS [Q] of a fold's scored rows, about the training mean of each joint class."""
        targets, squares = self.common.targets, torch.zeros_like(self.mean_y[fold])
        for joint in {part.row_class for part, _ in targets.parts if part.use in SCORED}:
            fitted = targets.fit((joint,))
            others = total(fitted) - fitted[fold]
            mean = others.plain_mean() if others.n else self.mean_y[fold]
            squares += targets.score((joint,))[fold].squares_about(mean)
        return squares

    def judged(self, teachers: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return RSS [F, H] of the weighted predictions of some teachers, and their weights [A, H], mean over folds."""
        fitted, tested = self._select(self.fitted, teachers), self._select(self.tested, teachers)
        variance = fitted.gram.diagonal(dim1=-2, dim2=-1).mean(-1)
        pull = (PULL * variance).clamp(min=torch.finfo(variance.dtype).tiny)  # with two folds, only the pull decides
        system = fitted.gram + pull[..., None, None] * torch.eye(len(teachers)).to(fitted.gram)
        w = torch.linalg.solve(system, fitted.cross + pull[..., None] / len(teachers))  # [F, H, A]
        squares = (w * ((tested.gram @ w[..., None])[..., 0] - 2 * tested.cross)).sum(-1)
        return self.energy + squares, w.mean(0).T

    def jackknife(self, rss: torch.Tensor) -> torch.Tensor:
        """Return the standard error [H] over the scored folds: a fold may hold calibration documents only."""
        held = torch.tensor([n > 0 for n in self.n])
        return metrics.jackknife(rss[held], self.tss[held])

    def _select(self, products: Sequence[Products], teachers: Sequence[int]) -> Products:
        """Return the products of some teachers, [F, H, A, A] and [F, H, A]."""
        some = torch.tensor(list(teachers))
        gram, cross = torch.stack([p.gram for p in products]), torch.stack([p.cross for p in products])
        return Products(gram[..., some[:, None], some], cross[..., some])

    def _maps(self, *without: int) -> MapsOf:
        """Of each teacher, fitted on its own rows without these folds, with what was chosen for the first of them."""
        known: dict[tuple[int, int], Map] = {}

        def map_of(teacher: int, row_class: int) -> Map:
            fit = for_class(self.penalties[teacher], row_class)
            place = teacher, id(fit)
            if place not in known:
                pairing, width = replace(self.alone[teacher], classes=fit.classes), self.widths[teacher]
                w, intercept = _map(pairing, without, fit.penalties[without[0]])
                # As an affine map of features about the common pilot to targets about the mean that fold is judged by.
                first = sum(self.widths[:teacher])
                pilot_x, pilot_y = self.common.pilot_x[first : first + width], self.common.targets.pilots[1]
                constant = intercept + w[:width].T @ pilot_x - pilot_y - self.mean_y[without[0]]
                known[place] = torch.cat([w[:width], constant[None]])
            return known[place]

        # Random weights, behind the teachers in their order, read the same tokens: their rows have the same classes.
        return lambda joint: [map_of(a, joint[a % len(joint)]) for a in range(len(self.alone))]


def _map(pairing: Pairing, without: Sequence[int], penalties: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """W [P, Q], zero outside the columns of the first fold, and the intercept [Q], with the penalty of each head."""
    fit_x, fit_y = pairing.fit()
    x, y = total(fit_x), total(fit_y)
    for fold in without:
        x, y = x - fit_x[fold], y - fit_y[fold]
    train, columns = about_own_mean(x, y), pairing.columns_of(without[0])
    w = torch.zeros_like(train.xy)
    w[columns] = ridge_per_head(train.features(columns), penalties)
    return w, train.mean_y + y.pilot_y - w.T @ (train.mean_x + x.pilot)
