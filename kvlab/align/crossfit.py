"""Fit on some documents, score on the others: k-fold cross-validation by document, from sums alone.

A map that has not seen a fold scores it. The ridge penalty of that map is chosen among the remaining folds only
(nested), so nothing about the scored documents enters the fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch

from kvlab.align import metrics
from kvlab.align.fold_sums import Pairing, total
from kvlab.align.moments import Centred, Inputs, Outputs, about_own_mean, centred
from kvlab.align.projectors import absolute_penalty, ridge_path, ridge_per_head
from kvlab.align.ties import last_of_the_least

RELATIVE_PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 100.0)  # ascending
FALLBACK_PENALTY = 1.0  # of two folds, none is left to choose a penalty on: a cautious one
CONSTANT = 1e-12  # share of a head's energy below which its variance is rounding


@dataclass(frozen=True)
class CrossFit:
    """Held-out results per fold (F), output channel (Q) and student head (H), and the maps that gave them."""

    heads: int
    weights: list[torch.Tensor]  # [F][P, Q]
    mean_x: list[torch.Tensor]  # [F][P], of the training rows
    mean_y: list[torch.Tensor]  # [F][Q]
    channel_rss: torch.Tensor  # [F, Q]
    channel_tss: torch.Tensor  # [F, Q]; NaN for a head that does not vary
    cosine: torch.Tensor  # [H]
    n: torch.Tensor  # [F] rows scored
    penalties: torch.Tensor  # [F, H], relative; NaN for maps without one
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

    def with_error(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return R^2 [H] and its standard error, over the scored folds (others hold calibration documents only)."""
        held = self.n > 0
        return self.r2, metrics.jackknife(self.rss[held], self.tss[held])

    def select(self, first: int, count: int) -> CrossFit:
        """Return the results and maps of ``count`` heads from ``first`` on."""
        width = self.channel_rss.shape[1] // self.heads
        heads, channels = slice(first, first + count), slice(first * width, (first + count) * width)
        return replace(
            self,
            heads=count,
            weights=[w[:, channels] for w in self.weights],
            mean_y=[mean[channels] for mean in self.mean_y],
            channel_rss=self.channel_rss[:, channels],
            channel_tss=self.channel_tss[:, channels],
            cosine=self.cosine[heads],
            penalties=self.penalties[:, heads],
            residual_grams=self.residual_grams[:, heads],
        )

    def predict(self, fold: int, x: torch.Tensor) -> torch.Tensor:
        """Predict [N, P] -> [N, Q] with the map that has not seen ``fold``."""
        return (x.double() - self.mean_x[fold]) @ self.weights[fold] + self.mean_y[fold]


def crossfit_ridge(pairing: Pairing, heads: int, quick: bool = False) -> CrossFit:
    """Fit ridge with a penalty per head, chosen on held-out folds within each training set.

    ``quick``, for controls: choose on the two neighbouring folds alone, and in float32 where that is enough.
    """
    chosen = _choose_penalties(pairing, heads, quick)
    relative = torch.tensor(RELATIVE_PENALTIES, dtype=torch.float64)[chosen.cpu()]
    return _crossfit(pairing, heads, lambda train, fold: ridge_per_head(train, relative[fold]), relative)


def crossfit_fixed(
    pairing: Pairing,
    layers: Sequence[Sequence[int]],
    heads: int,
    solve: Callable[[Centred, Sequence[int]], torch.Tensor],
) -> CrossFit:
    """Fit any map that follows from the training sums and the ``layers`` [F] of a fold, without choosing a penalty."""
    nothing = torch.full((pairing.features.folds, heads), float("nan"))
    return _crossfit(pairing, heads, lambda train, fold: solve(train, layers[fold]), nothing)


def _crossfit(pairing: Pairing, heads: int, fit, penalties: torch.Tensor) -> CrossFit:
    fit_x, fit_y = pairing.features.fit(), pairing.targets.fit()
    score_x, score_y = pairing.features.score(), pairing.targets.score()
    all_x, all_y = total(fit_x), total(fit_y)
    weights, means_x, means_y, rss, tss, dots, grams = [], [], [], [], [], [], []
    for fold in range(pairing.features.folds):
        train = about_own_mean(all_x - fit_x[fold], all_y - fit_y[fold])
        test = centred(score_x[fold], score_y[fold], train.mean_x, train.mean_y)
        columns = pairing.columns_of(fold)
        w = torch.zeros_like(train.xy)
        w[columns] = fit(train.features(columns), fold)
        weights.append(w)
        means_x.append(train.mean_x + all_x.pilot)
        means_y.append(train.mean_y + all_y.pilot_y)
        rss.append(metrics.residual_squares(test, w))
        tss.append(test.yy)
        grams.append(metrics.residual_grams(test, w, heads))
        dots.append(_uncentred_products(test, w, means_y[-1], score_x[fold], score_y[fold], heads))
    dot, squares_a, squares_b = torch.stack(dots).sum(0)
    held_out_variance = torch.stack(tss)
    constant = metrics.per_head(held_out_variance, heads).sum(0) <= CONSTANT * squares_a
    held_out_variance[:, constant.repeat_interleave(held_out_variance.shape[1] // heads)] = float("nan")
    return CrossFit(
        heads=heads,
        weights=weights,
        mean_x=means_x,
        mean_y=means_y,
        channel_rss=torch.stack(rss),
        channel_tss=held_out_variance,
        cosine=metrics.pooled_cosine(dot, squares_a, squares_b),
        n=torch.tensor([s.n for s in score_y]),
        penalties=penalties,
        residual_grams=torch.stack(grams),
    )


def _uncentred_products(test: Centred, w, mean_y, x: Inputs, y: Outputs, heads: int) -> torch.Tensor:
    """Return per head [3, H] the sums of y.yhat, |y|^2 and |yhat|^2 of the rows themselves, with their means."""
    x_sum, y_sum = x.total - x.n * test.mean_x, y.total - y.n * test.mean_y
    yhat_sum = w.T @ x_sum
    dot = (w * test.xy).sum(0) + mean_y * (y_sum + yhat_sum) + y.n * mean_y**2
    squares_y = test.yy + 2 * mean_y * y_sum + y.n * mean_y**2
    squares_yhat = (w * (test.xx @ w)).sum(0) + 2 * mean_y * yhat_sum + y.n * mean_y**2
    return torch.stack([metrics.per_head(s, heads) for s in (dot, squares_y, squares_yhat)])


def neighbours(folds: int) -> list[tuple[int, int]]:
    """Pair each fold with the next, cyclically, so that every fold is in two pairs; up to three folds, all pairs."""
    return [(f, (f + 1) % folds) for f in range(folds)] if folds > 2 else list(combinations(range(folds), 2))


def _choose_penalties(pairing: Pairing, heads: int, quick: bool) -> torch.Tensor:
    """Return [F, H] indices into RELATIVE_PENALTIES: the best for fold f over pairs (train without f and g, test on g).

    The largest of equally good penalties wins.
    """
    fit_x, fit_y = pairing.features.fit(), pairing.targets.fit()
    folds = len(fit_x)
    if folds < 3:
        fallback = RELATIVE_PENALTIES.index(FALLBACK_PENALTY)
        return torch.full((folds, heads), fallback, dtype=torch.int64)
    all_x, all_y = total(fit_x), total(fit_y)
    rss = torch.zeros(folds, len(RELATIVE_PENALTIES), heads, dtype=torch.float64, device=all_x.gram.device)
    for f, g in neighbours(folds) if quick else combinations(range(folds), 2):
        train = about_own_mean(all_x - fit_x[f] - fit_x[g], all_y - fit_y[f] - fit_y[g])
        solutions: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]] = {}
        for chosen_for, tested_on in ((f, g), (g, f)):
            columns = pairing.columns_of(chosen_for)
            key = tuple(columns.tolist())
            if key not in solutions:
                solutions[key] = _paths(train.features(columns), quick)
            test = centred(fit_x[tested_on], fit_y[tested_on], train.mean_x, train.mean_y).features(columns)
            exact, rounded = solutions[key]
            squares = [metrics.residual_squares(test, exact), metrics.residual_squares(test.single(), rounded).double()]
            rss[chosen_for] += metrics.per_head(torch.cat(squares), heads)
    return last_of_the_least(rss, dim=1)


def _paths(train: Centred, quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve maps [penalties, P, Q] in float64; where ``quick``, those of the larger penalties in float32.

    Float32 serves only penalties above the rounding of its own sums, eps * trace. Below, rounding would choose.
    """
    rounding = torch.finfo(torch.float32).eps * len(train.xx)
    count = sum(penalty < rounding for penalty in RELATIVE_PENALTIES) if quick else len(RELATIVE_PENALTIES)
    exact, rounded = RELATIVE_PENALTIES[:count], RELATIVE_PENALTIES[count:]
    return ridge_path(train, exact), ridge_path(train.single(), rounded)


def scored_apart(fit: CrossFit, rows: Sequence[tuple[int, torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, int]:
    """Return RSS / TSS [H] of the maps on rows that are in no fit (fold, x [N, P], y [N, Q]), and the row count.

    The map that has not seen a fold's documents scores its rows, about that map's training means.
    """
    rss, tss = torch.zeros_like(fit.channel_rss[0]), torch.zeros_like(fit.channel_rss[0])
    for fold, x, y in rows:
        rss += (y - fit.predict(fold, x)).square().sum(0)
        tss += (y - fit.mean_y[fold]).square().sum(0)
    return metrics.per_head(rss, fit.heads) / metrics.per_head(tss, fit.heads), sum(len(y) for _, _, y in rows)


@dataclass(frozen=True)
class Contributions:
    """Held-out R^2 per student head and teacher head [H, Ht], of refits of the same ridge."""

    without: torch.Tensor  # R^2 lost when the teacher head is left out
    alone: torch.Tensor  # R^2 of the teacher head by itself


def teacher_head_contributions(
    pairing: Pairing, heads: int, blocks: list[torch.Tensor], relative_penalty: float
) -> Contributions:
    """Refit exactly without (and with only) each block of features, held out by fold.

    Leaving block a out of a ridge with inverse A^-1 and solution W gives W - A^-1[:, a] (A^-1[a, a])^-1 W[a].
    ``blocks``: the columns of each teacher head. Columns that a fold may not use contribute nothing to it.
    """
    fit_x, fit_y = pairing.features.fit(), pairing.targets.fit()
    score_x, score_y = pairing.features.score(), pairing.targets.score()
    all_x, all_y = total(fit_x), total(fit_y)
    shape = (pairing.features.folds, len(blocks) + 1, heads)
    left_out = torch.zeros(shape, dtype=torch.float64, device=all_x.gram.device)
    alone = torch.zeros_like(left_out)
    tss = torch.zeros(shape[0], heads, dtype=torch.float64, device=all_x.gram.device)
    for fold in range(shape[0]):
        columns = pairing.columns_of(fold)
        train = about_own_mean(all_x - fit_x[fold], all_y - fit_y[fold])
        test = centred(score_x[fold], score_y[fold], train.mean_x, train.mean_y).features(columns)
        train = train.features(columns)
        penalty = absolute_penalty(train, relative_penalty)
        system = train.xx + penalty * torch.eye(len(train.xx)).to(train.xx)
        inverse = torch.linalg.inv(system)
        whole = inverse @ train.xy
        tss[fold] = metrics.per_head(test.yy, heads)
        left_out[fold, -1] = metrics.per_head(metrics.residual_squares(test, whole), heads)
        for a, block in enumerate(blocks):
            places = torch.isin(columns.cpu(), block).nonzero().flatten()
            refit, only = whole, torch.zeros_like(whole)
            if len(places):
                refit = whole - inverse[:, places] @ torch.linalg.solve(inverse[places][:, places], whole[places])
                only[places] = torch.linalg.solve(system[places][:, places], train.xy[places])
            left_out[fold, a] = metrics.per_head(metrics.residual_squares(test, refit), heads)
            alone[fold, a] = metrics.per_head(metrics.residual_squares(test, only), heads)
    variance = tss.sum(0)
    lost = (left_out[:, :-1].sum(0) - left_out[:, -1].sum(0)) / variance
    return Contributions(without=lost.T, alone=(1 - alone[:, :-1].sum(0) / variance).T)
