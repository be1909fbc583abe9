"""Fit on some documents, score on the others: k-fold cross-validation by document, from sums alone.

A map that has not seen a fold scores it. The ridge penalty of that map is chosen among the remaining folds only
(nested), so nothing about the scored documents enters the fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TypeVar

import torch

from kvlab.align import metrics
from kvlab.align.fold_sums import HOST, Classes, Pairing, Part, beside, total
from kvlab.align.moments import Centred, Inputs, Outputs, about_own_mean, centred
from kvlab.align.projectors import absolute_penalty, ridge_path, ridge_per_head
from kvlab.align.ties import last_of_the_least
from kvlab.request.sums_size import LARGE_BYTES

RELATIVE_PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 100.0)  # ascending
MIDDLE_PENALTY = 1e-2  # with which the search begins
PATIENCE = 2  # penalties; the errors of few documents have two valleys, and R² of a head moved by .02
DIRECTIONS = 8  # of a head's channels, along which penalties are compared where targets are many
FEW_CHANNELS = 256  # of all heads together, up to which every channel is looked at
LEAST_ERROR = 5e-3  # share of the energy; estimated errors are off by more, and may be below zero
FALLBACK_PENALTY = 1.0  # where no fold is left to choose a penalty on: a cautious one
Target = tuple[str, int]  # kind, student layer
Key = TypeVar("Key")
Fit = TypeVar("Fit", "Penalties", "CrossFit")

CONSTANT = 1e-12  # share of a head's energy below which its variance is rounding


@dataclass(frozen=True)
class HeldOutScores:
    """Held-out results per fold (F), output channel (Q) and student head (H)."""

    heads: int
    channel_rss: torch.Tensor  # [F, Q]
    channel_tss: torch.Tensor  # [F, Q]; not a number for a head that does not vary
    products: torch.Tensor  # [3, H]: sums of y.yhat, |y|^2 and |yhat|^2, not centred
    n: torch.Tensor  # [F] rows scored
    residual_grams: torch.Tensor  # [F, H, D, D]: sum of r r^T - y y^T of the scored rows, r = y - yhat

    @property
    def rss(self) -> torch.Tensor:
        """[F, H]"""
        return metrics.per_head(self.channel_rss, self.heads)

    @property
    def tss(self) -> torch.Tensor:
        """[F, H]"""
        return metrics.per_head(self.channel_tss, self.heads)

    @property
    def r2(self) -> torch.Tensor:
        """[H], pooled over folds."""
        return metrics.r_squared(self.rss.sum(0), self.tss.sum(0))

    @property
    def cosine(self) -> torch.Tensor:
        """[H], pooled over rows, not centred."""
        return metrics.pooled_cosine(*self.products)

    def with_error(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return R^2 [H] and its standard error, over the scored folds (others hold calibration documents only)."""
        held = self.n > 0
        return self.r2, metrics.jackknife(self.rss[held], self.tss[held])


@dataclass(frozen=True)
class Penalties:
    """The relative penalties of one class of rows; not a number for maps without one."""

    classes: Classes
    penalties: torch.Tensor  # [F, H]
    whole_penalties: torch.Tensor  # [H] of a map fitted on every fold


@dataclass(frozen=True)
class CrossFit(HeldOutScores):
    """The results of one class of rows, and the maps that gave them."""

    weights: list[torch.Tensor]  # [F][P, Q], on the host, in float32 where that is not the device
    mean_x: list[torch.Tensor]  # [F][P], of the training rows with their weights
    fitted_y: list[torch.Tensor]  # [F][Q], likewise: what is predicted of a row of mean features
    mean_y: list[torch.Tensor]  # [F][Q], of the training rows all alike, about which scores are
    penalties: torch.Tensor  # [F, H], relative; not a number for maps without one
    whole_penalties: torch.Tensor  # [H] of a map fitted on every fold
    classes: Classes = None

    def select(self, first: int, count: int) -> CrossFit:
        """Return the results and maps of ``count`` heads from ``first`` on."""
        width = self.channel_rss.shape[1] // self.heads
        heads, channels = slice(first, first + count), slice(first * width, (first + count) * width)
        return replace(
            self,
            heads=count,
            weights=[w[:, channels] for w in self.weights],
            fitted_y=[mean[channels] for mean in self.fitted_y],
            mean_y=[mean[channels] for mean in self.mean_y],
            channel_rss=self.channel_rss[:, channels],
            channel_tss=self.channel_tss[:, channels],
            products=self.products[:, heads],
            penalties=self.penalties[:, heads],
            whole_penalties=self.whole_penalties[heads],
            residual_grams=self.residual_grams[:, heads],
        )

    def predict(self, fold: int, x: torch.Tensor) -> torch.Tensor:
        """Predict [N, P] -> [N, Q] with the map that has not seen ``fold``."""
        return (x.double() - self.mean_x[fold]) @ self.weights[fold].to(x.device, torch.float64) + self.fitted_y[fold]

    def scores_alone(self) -> CrossFit:
        """The same without the maps, which take most of its memory."""
        return replace(self, weights=[], mean_x=[], fitted_y=[], mean_y=[])


@dataclass(frozen=True)
class ByClass(HeldOutScores):
    """The fits of every class of rows, and their results together.

    TSS is about each class's own training mean: knowing the class of a row explains nothing.
    """

    fits: tuple[CrossFit, ...]

    @classmethod
    def of(cls, fits: Sequence[CrossFit]) -> ByClass:
        tss = torch.stack([fit.channel_tss for fit in fits])
        return cls(
            heads=fits[0].heads,
            channel_rss=sum(fit.channel_rss for fit in fits),
            # A head that varies in one class only is scored on that one.
            channel_tss=tss.nansum(0).masked_fill(tss.isnan().all(0), float("nan")),
            products=sum(fit.products for fit in fits),
            n=sum(fit.n for fit in fits),
            residual_grams=sum(fit.residual_grams for fit in fits),
            fits=tuple(fits),
        )

    def scores_alone(self) -> ByClass:
        """The same without the maps."""
        return replace(self, fits=tuple(fit.scores_alone() for fit in self.fits))

    def of_class(self, row_class: int) -> CrossFit:
        """The fit that rows of a class are predicted by."""
        return for_class(self.fits, row_class)

    def predict(self, fold: int, x: torch.Tensor, row_classes: torch.Tensor) -> torch.Tensor:
        """[N, P], [N] -> [N, Q] with the maps that have not seen ``fold``."""
        y = torch.zeros(len(x), self.channel_rss.shape[1], dtype=torch.float64, device=x.device)
        for row_class in row_classes.unique().tolist():
            rows = row_classes == row_class
            y[rows] = self.of_class(row_class).predict(fold, x[rows])
        return y

    def mean_y(self, fold: int, row_classes: torch.Tensor) -> torch.Tensor:
        """[N] -> [N, Q]: the training mean of each row's class."""
        means = {row_class: self.of_class(row_class).mean_y[fold] for row_class in row_classes.unique().tolist()}
        return torch.stack([means[row_class] for row_class in row_classes.tolist()])


def for_class(fits: Sequence[Fit], row_class: int) -> Fit:
    """The one of several that rows of a class belong to; of a class that was not met in the fit, the last."""
    for fit in fits:
        if fit.classes is None or row_class in fit.classes:
            return fit
    return fits[-1]


@dataclass(frozen=True)
class Unseen:
    """Rows whose token a map has not seen in its fit: those of fold ``tested`` if fitted without it and ``other``."""

    empty: Callable[[], Pairing]  # with the pilots of all rows
    # (other, tested) -> part, x [N, P], y [N, Q] and weights [N] or None of some rows; other = tested: of the map that
    # is fitted on all folds but one.
    rows: dict[tuple[int, int], list[tuple[Part, torch.Tensor, torch.Tensor, torch.Tensor | None]]]

    def fit(self, other: int, tested: int) -> tuple[Inputs, Outputs]:
        """Sums of the rows of an inner test, with their weights in the fit."""
        return self._first(self._sums(other, tested).fit())

    def score(self, fold: int) -> tuple[Inputs, Outputs]:
        """Sums of the scored rows of a fold."""
        return self._first(self._sums(fold, fold).score())

    def _sums(self, other: int, tested: int) -> Pairing:
        sums = self.empty()
        for part, *rows, weights in self.rows[other, tested]:
            device = sums.features.device
            sums.add(0, part, *(r.to(device) for r in rows), None if weights is None else weights.to(device))
        return sums

    @staticmethod
    def _first(sums: tuple[list[Inputs], list[Outputs]]) -> tuple[Inputs, Outputs]:
        (inputs,), (outputs,) = sums
        return inputs, outputs


def chosen_penalties(pairing: Pairing, heads: int) -> Penalties:
    """A penalty per head, chosen on held-out folds within each training set, and over all of them."""
    chosen, whole, _ = _choose_penalties(pairing, heads)
    return _penalties(pairing, chosen, whole)


def _penalties(pairing: Pairing, chosen: torch.Tensor, whole: torch.Tensor) -> Penalties:
    grid = torch.tensor(RELATIVE_PENALTIES, dtype=torch.float64)
    return Penalties(pairing.classes, grid[chosen.cpu()], grid[whole.cpu()])


def crossfit_ridge(pairing: Pairing, heads: int, unseen: Unseen | None = None) -> CrossFit:
    """Ridge with a penalty per head, chosen on held-out folds within each training set.

    ``unseen``: rows on which no penalty is chosen. A map predicts them in a head for which, within its training set, it
    predicted such rows better than the training mean does; in any other head the mean stands for it.
    """
    *found, tests = _choose_penalties(pairing, heads, unseen)
    chosen = _penalties(pairing, *found)
    relative = chosen.penalties

    def solve(train: Centred, fold: int) -> torch.Tensor:
        return ridge_per_head(train, relative[fold])

    apart = None if unseen is None else (unseen, _told(tests, relative))
    return _crossfit(pairing, heads, solve, relative, chosen.whole_penalties, apart)


def _told(tests: Sequence[_InnerTest], relative: torch.Tensor) -> torch.Tensor:
    """[F, H]: whether the map for a fold tells unseen rows better than the mean does, as far as its own tests know."""
    explained = torch.zeros(relative.shape, dtype=torch.float64)
    for test in tests:
        for penalty in relative[test.chosen_for].unique().tolist():
            mine = relative[test.chosen_for] == penalty
            explained[test.chosen_for, mine] += test.explained_of_unseen(penalty).cpu()[mine]
    return explained > 0


def crossfit_fixed(
    pairing: Pairing,
    layers: Sequence[Sequence[int]],
    heads: int,
    solve: Callable[[Centred, Sequence[int]], torch.Tensor],
) -> CrossFit:
    """Fit any map that follows from the training sums and the ``layers`` [F] of a fold, without choosing a penalty."""
    nothing = torch.full((pairing.features.folds, heads), float("nan"))
    return _crossfit(pairing, heads, lambda train, fold: solve(train, layers[fold]), nothing, nothing[0])


def ridge_by_class(pairings: Mapping[Key, Pairing], heads: Mapping[Key, int]) -> dict[Key, ByClass]:
    """Ridge of every problem and class of rows; problems with the same features are solved together."""
    fits: dict[Key, ByClass] = {}
    for group in alike(pairings, heads):
        together = beside([pairings[key] for key in group])
        classes = [crossfit_ridge(pairing, sum(heads[key] for key in group)) for pairing in together.by_class()]
        fits |= one_each(classes, {key: heads[key] for key in group})
    return {key: fits[key] for key in pairings}


def one_each(classes: Sequence[CrossFit], heads: Mapping[Key, int]) -> dict[Key, ByClass]:
    """The fits, of every class, of problems that were solved side by side in this order."""
    fits, first = {}, 0
    for key, count in heads.items():
        fits[key] = ByClass.of([fit.select(first, count) for fit in classes])
        first += count
    return fits


def penalties_by_class(pairings: Mapping[Key, Pairing], heads: Mapping[Key, int]) -> dict[Key, list[Penalties]]:
    """The penalties of ``ridge_by_class`` without its fits."""
    penalties: dict[Key, list[Penalties]] = {}
    for group in alike(pairings, heads):
        together, first = beside([pairings[key] for key in group]), 0
        classes = [chosen_penalties(pairing, sum(heads[key] for key in group)) for pairing in together.by_class()]
        for key in group:
            own = slice(first, first + heads[key])
            penalties[key] = [Penalties(p.classes, p.penalties[:, own], p.whole_penalties[own]) for p in classes]
            first = own.stop
    return penalties


def alike(pairings: Mapping[Key, Pairing], heads: Mapping[Key, int]) -> list[list[Key]]:
    """Problems with the same features, columns and head width, which one solution serves."""
    groups: dict[tuple, list[Key]] = {}
    for key, pairing in pairings.items():
        width = len(pairing.targets.pilots[1]) // heads[key]
        columns = None if pairing.columns is None else tuple(tuple(c.tolist()) for c in pairing.columns)
        same = id(pairing.features), id(pairing.weighted), width, columns
        groups.setdefault(same, []).append(key)
    return list(groups.values())


def _crossfit(
    pairing: Pairing,
    heads: int,
    fit: Callable[[Centred, int], torch.Tensor],
    penalties: torch.Tensor,
    whole: torch.Tensor,
    apart: tuple[Unseen, torch.Tensor] | None = None,
) -> CrossFit:
    """``apart``: rows that the map predicts in some heads [F, H] only, and the mean in the others."""
    fit_x, fit_y = pairing.fit()
    score_x, score_y = pairing.score()
    all_x, all_y = total(fit_x), total(fit_y)
    weights, means_x, fitted_y, means_y, rss, tss, products, grams = [], [], [], [], [], [], [], []
    for fold in range(pairing.features.folds):
        others = all_y - fit_y[fold]
        train = about_own_mean(all_x - fit_x[fold], others)
        columns = pairing.columns_of(fold)
        w = torch.zeros_like(train.xy)
        w[columns] = fit(train.features(columns), fold)
        weights.append(w if w.device == HOST else w.float().to(HOST))
        means_x.append(train.mean_x + all_x.pilot)
        fitted_y.append(train.mean_y + all_y.pilot_y)
        means_y.append(others.plain_mean() + all_y.pilot_y)
        parts = [(score_x[fold], score_y[fold], w)]
        if apart is not None:
            unseen, told = apart
            new_x, new_y = unseen.score(fold)
            in_heads = told[fold].to(w).repeat_interleave(w.shape[1] // heads)
            parts = [(score_x[fold] - new_x, score_y[fold] - new_y, w), (new_x, new_y, w * in_heads)]
        measured = [_measured(x, y, train, weights, fitted_y[-1], heads) for x, y, weights in parts]
        tss.append(score_y[fold].squares_about(others.plain_mean()))
        for into, values in zip((rss, grams, products), zip(*measured)):
            into.append(sum(values))
    of_all = torch.stack(products).sum(0)
    held_out_variance = torch.stack(tss)
    constant = metrics.per_head(held_out_variance, heads).sum(0) <= CONSTANT * of_all[1]
    held_out_variance[:, constant.repeat_interleave(held_out_variance.shape[1] // heads)] = float("nan")
    return CrossFit(
        heads=heads,
        weights=weights,
        mean_x=means_x,
        fitted_y=fitted_y,
        mean_y=means_y,
        channel_rss=torch.stack(rss),
        channel_tss=held_out_variance,
        products=of_all,
        n=torch.tensor([s.n for s in score_y]),
        penalties=penalties,
        whole_penalties=whole,
        residual_grams=torch.stack(grams),
        classes=pairing.classes,
    )


def _measured(
    x: Inputs, y: Outputs, train: Centred, w: torch.Tensor, mean_y: torch.Tensor, heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return RSS [Q], the sums of r r^T - y y^T [H, D, D] and the uncentred products [3, H] of some scored rows."""
    test = centred(x, y, train.mean_x, train.mean_y)
    predicted = test.xx @ w
    rss, grams = metrics.residual_squares(test, w, predicted), metrics.residual_grams(test, w, heads, predicted)
    return rss, grams, _uncentred_products(test, w, predicted, mean_y, x, y, heads)


def _uncentred_products(test: Centred, w, predicted, mean_y, x: Inputs, y: Outputs, heads: int) -> torch.Tensor:
    """Return per head [3, H] the sums of y.yhat, |y|^2 and |yhat|^2 of the rows themselves, with their means."""
    x_sum, y_sum = x.total - x.n * test.mean_x, y.total - y.n * test.mean_y
    yhat_sum = w.T @ x_sum
    dot = (w * test.xy).sum(0) + mean_y * (y_sum + yhat_sum) + y.n * mean_y**2
    squares_y = test.yy + 2 * mean_y * y_sum + y.n * mean_y**2
    squares_yhat = (w * predicted).sum(0) + 2 * mean_y * yhat_sum + y.n * mean_y**2
    return torch.stack([metrics.per_head(s, heads) for s in (dot, squares_y, squares_yhat)])


def pairs(folds: int) -> list[tuple[int, int]]:
    """Every fold with another one, as few pairs as there can be; of three folds, all pairs."""
    if folds <= 3:
        return list(combinations(range(folds), 2))
    return [(f, (f + 1) % folds) for f in range(0, folds, 2)]


def _choose_penalties(
    pairing: Pairing, heads: int, unseen: Unseen | None = None
) -> tuple[torch.Tensor, torch.Tensor, list[_InnerTest]]:
    """Indices into RELATIVE_PENALTIES: [F, H] of the map for each fold, and [H] of a map fitted on every fold.

    Beside them the tests that chose.

    Fold f's is the best over its ``pairs`` (train without f and g, test on g). Of penalties that are as good, the
    largest. From the middle of the list both ways, until ``PATIENCE`` penalties in a row are better for no head.
    """
    folds, count = pairing.features.folds, len(RELATIVE_PENALTIES)
    fallback = RELATIVE_PENALTIES.index(FALLBACK_PENALTY)
    if folds < 3:
        return torch.full((folds, heads), fallback, dtype=torch.int64), torch.full((heads,), fallback), []
    tests = _inner_tests(pairing, heads, unseen)
    rss = torch.full((folds, count, heads), torch.inf, dtype=torch.float64, device=tests[0].energy.device)
    least = torch.zeros_like(rss[:, :1])
    for test in tests:
        least[test.chosen_for, 0] += LEAST_ERROR * test.energy

    def measure(index: int) -> None:
        rss[:, index] = 0
        for test in tests:
            rss[test.chosen_for, index] += test.rss(RELATIVE_PENALTIES[index])

    def best(errors: torch.Tensor, floor: torch.Tensor, dim: int) -> torch.Tensor:
        below = (floor - errors.amin(dim, keepdim=True)).clamp(min=0)
        found = last_of_the_least(errors + below, dim=dim)
        # A fold whose pairs have no rows of this class has nothing to choose on.
        return found.masked_fill(floor.squeeze(dim) == 0, fallback)

    low = high = RELATIVE_PENALTIES.index(MIDDLE_PENALTY)
    measure(low)
    for step in (-1, 1):
        worse = 0
        while worse < PATIENCE and 0 <= (index := (low if step < 0 else high) + step) < count:
            measure(index)
            low, high = min(low, index), max(high, index)
            better = best(rss[:, low : high + 1], least, 1) + low
            worse = 0 if ((better == index) & (least[:, 0] > 0)).any() else worse + 1
    return best(rss, least, 1), best(rss.sum(0), least.sum(0), 0), tests


@dataclass
class _InnerTest:
    """One training set without two folds, tested on one of them.

    Of many channels, those of a head are seen along ``DIRECTIONS`` random directions, which tells penalties apart.
    """

    chosen_for: int
    heads: int
    energy: torch.Tensor  # [H] of the tested rows about the training mean
    scale: float  # channels of a head for each direction
    sums: Callable[[], tuple[Centred, Centred]]  # of the training and of the tested rows
    single: tuple[Centred, Centred]  # the same in float32
    solved: dict[tuple, torch.Tensor]  # by training set, columns and penalty: two tests share each
    columns: tuple
    new: Callable[[], Centred] | None = None  # the tested rows of unseen tokens, which are in no other sum

    def explained_of_unseen(self, relative: float) -> torch.Tensor:
        """[H]: by how much the map has smaller squares than the mean on rows of unseen tokens."""
        new = self.new()
        w = ridge_path(self.sums()[0], [relative])[0]
        return metrics.per_head(torch.linalg.vecdot(w, 2 * new.xy - new.xx @ w, dim=0), self.heads)

    def rss(self, relative: float) -> torch.Tensor:
        """[H], an estimate."""
        exact = relative < torch.finfo(torch.float32).eps * len(self.single[0].xx)  # below, rounding would choose
        train, test = self.sums() if exact else self.single
        key = self.columns, relative
        if key not in self.solved:
            self.solved[key] = ridge_path(train, [relative])[0]
        w = self.solved[key]
        explained = torch.linalg.vecdot(w, 2 * test.xy - test.xx @ w, dim=0).double()
        return self.energy - self.scale * metrics.per_head(explained, self.heads)


def _inner_tests(pairing: Pairing, heads: int, unseen: Unseen | None = None) -> list[_InnerTest]:
    fit_x, fit_y = pairing.fit()
    all_x, all_y = total(fit_x), total(fit_y)
    width = len(pairing.targets.pilots[1]) // heads
    seen = width if heads * width <= FEW_CHANNELS else min(width, DIRECTIONS)
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0][:, :seen]
    directions = directions.to(all_x.gram)

    def along(sums: Centred) -> Centred:
        xy = (sums.xy.unflatten(1, (heads, width)) @ directions).flatten(1)
        return replace(sums, xy=xy, yy=sums.yy[:0], mean_y=sums.mean_y[:0])

    def test_of(train: Centred, without: int, tested_on: int) -> Centred:
        x, y = fit_x[tested_on], fit_y[tested_on]
        if unseen is not None:
            new_x, new_y = unseen.fit(without, tested_on)
            x, y = x - new_x, y - new_y
        return centred(x, y, train.mean_x, train.mean_y)

    def train_without(f: int, g: int) -> Centred:
        return about_own_mean(all_x - fit_x[f] - fit_x[g], all_y - fit_y[f] - fit_y[g])

    tests = []
    for f, g in pairs(pairing.features.folds):
        train, solved = train_without(f, g), {}
        for chosen_for, tested_on in ((f, g), (g, f)):
            columns = pairing.columns_of(chosen_for)
            test = test_of(train, chosen_for, tested_on)
            single = tuple(along(one.features(columns)).single() for one in (train, test))
            # Large sums are computed anew rather than held for every pair.
            held = (train, test) if test.xx.nbytes <= LARGE_BYTES else None

            def sums(held=held, f=f, g=g, at=(chosen_for, tested_on), columns=columns) -> tuple[Centred, Centred]:
                train = held[0] if held else train_without(f, g)
                test = held[1] if held else test_of(train, *at)
                return along(train.features(columns)), along(test.features(columns))

            def new(train=train, at=(chosen_for, tested_on), columns=columns) -> Centred:
                return along(centred(*unseen.fit(*at), train.mean_x, train.mean_y).features(columns))

            energy = metrics.per_head(test.yy, heads)
            place = tuple(columns.tolist())
            asked = energy, width / seen, sums, single, solved, place
            tests.append(_InnerTest(chosen_for, heads, *asked, new if unseen is not None else None))
    return tests


def scored_apart(fit: ByClass, rows: Sequence[tuple[int, int, torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, int]:
    """RSS / TSS [H] of the maps on rows that are in no fit (fold, class, x [N, P], y [N, Q]), and the number of rows.

    The map that has not seen a fold's documents scores its rows, about that map's training means.
    """
    rss, tss = torch.zeros_like(fit.channel_rss[0]), torch.zeros_like(fit.channel_rss[0])
    for fold, row_class, x, y in rows:
        of_class = fit.of_class(row_class)
        rss += (y - of_class.predict(fold, x)).square().sum(0)
        tss += (y - of_class.mean_y[fold]).square().sum(0)
    return metrics.per_head(rss, fit.heads) / metrics.per_head(tss, fit.heads), sum(len(y) for *_, y in rows)


@dataclass(frozen=True)
class Contributions:
    """Held-out R^2 per student head and teacher head [H, Ht], of refits of the same ridge."""

    without: torch.Tensor  # R^2 lost when the teacher head is left out
    alone: torch.Tensor  # R^2 of the teacher head by itself


def teacher_head_contributions(
    pairings: Sequence[Pairing], heads: int, blocks: list[torch.Tensor], relative_penalties: Sequence[float]
) -> Contributions:
    """Exact refits without (and with only) each block of features, held out by fold, over all classes of rows.

    Leaving block a out of a ridge with inverse A^-1 and solution W gives W - A^-1[:, a] (A^-1[a, a])^-1 W[a].
    ``pairings`` and ``relative_penalties``: of each class. ``blocks``: the columns of each teacher head. Columns that
    a fold may not use contribute nothing to it.
    """
    device = pairings[0].features.pilots[0].device
    left_out, alone = (torch.zeros(len(blocks) + 1, heads, dtype=torch.float64, device=device) for _ in range(2))
    tss = torch.zeros(heads, dtype=torch.float64, device=device)
    for pairing, relative_penalty in zip(pairings, relative_penalties, strict=True):
        fit_x, fit_y = pairing.fit()
        score_x, score_y = pairing.score()
        all_x, all_y = total(fit_x), total(fit_y)
        for fold in range(pairing.features.folds):
            columns = pairing.columns_of(fold)
            others = all_y - fit_y[fold]
            train = about_own_mean(all_x - fit_x[fold], others)
            test = centred(score_x[fold], score_y[fold], train.mean_x, train.mean_y).features(columns)
            train = train.features(columns)
            penalty = absolute_penalty(train, relative_penalty)
            system = train.xx + penalty * torch.eye(len(train.xx)).to(train.xx)
            factor, failed = torch.linalg.cholesky_ex(system)
            inverse = torch.linalg.inv(system) if failed else torch.cholesky_inverse(factor)
            whole = inverse @ train.xy
            slope = test.xx @ whole - test.xy  # half the gradient of RSS
            tss += metrics.per_head(score_y[fold].squares_about(others.plain_mean()), heads)
            of_whole = test.yy + torch.linalg.vecdot(whole, slope - test.xy, dim=0)
            left_out[-1] += metrics.per_head(of_whole, heads)
            for a, block in enumerate(blocks):
                place = torch.isin(columns.cpu(), block).nonzero().flatten()
                if not len(place):
                    left_out[a] += metrics.per_head(of_whole, heads)
                    alone[a] += metrics.per_head(test.yy, heads)
                    continue
                # Without the block W changes by -B M, B = A^-1[:, a]; RSS by M^T B^T XX B M - 2 M^T B^T (XX W - XY).
                columns_a = inverse[:, place]
                m = torch.linalg.solve(columns_a[place], whole[place])
                step = (columns_a.T @ test.xx @ columns_a) @ m - 2 * columns_a.T @ slope
                left_out[a] += metrics.per_head(of_whole + torch.linalg.vecdot(m, step, dim=0), heads)
                only = torch.linalg.solve(system[place][:, place], train.xy[place])
                alone[a] += metrics.per_head(metrics.residual_squares(test.features(place), only), heads)
    lost = (left_out[:-1] - left_out[-1]) / tss
    return Contributions(without=lost.T, alone=(1 - alone[:-1] / tss).T)
