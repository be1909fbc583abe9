"""Fit on some documents, score on the others: k-fold cross-validation by document, from sums alone.

Every fold is scored with a map that has not seen it, and the ridge penalty of that map is chosen among the
remaining folds only (nested), so nothing about the scored documents enters the fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import combinations

import torch

from kvlab.align import metrics
from kvlab.align.heads import absolute_penalty, ridge
from kvlab.align.statistics import Centred, Inputs, Outputs, about_own_mean, centred

RELATIVE_PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
FALLBACK_PENALTY = 1.0  # of two folds, none is left to choose a penalty on: a cautious one
CONSTANT = 1e-12  # share of a head's energy below which its variance is rounding

FIT_AND_SCORE = "fit and score"  # both models have read the same bytes
SCORE_ONLY = "score only"  # the rule gives a teacher step, but not at the same byte
FIT_ONLY = "fit only"  # calibration documents
PARTS = (FIT_AND_SCORE, SCORE_ONLY, FIT_ONLY)


@dataclass
class FoldSums:
    """Inputs or Outputs of each fold, by what their rows are for."""

    make: Callable[[], Inputs | Outputs]
    folds: int
    parts: dict[str, list] = field(init=False)

    def __post_init__(self) -> None:
        self.parts = {part: [self.make() for _ in range(self.folds)] for part in PARTS}

    def add(self, fold: int, part: str, *rows: torch.Tensor) -> None:
        if len(rows[0]):
            self.parts[part][fold].add(*rows)

    def fit(self) -> list:
        return [a + c for a, c in zip(self.parts[FIT_AND_SCORE], self.parts[FIT_ONLY], strict=True)]

    def score(self) -> list:
        return [a + b for a, b in zip(self.parts[FIT_AND_SCORE], self.parts[SCORE_ONLY], strict=True)]


@dataclass(frozen=True)
class CrossFit:
    """Held-out results per fold (F) and student head (H), and the maps that gave them."""

    weights: list[torch.Tensor]  # [F][P, Q]
    mean_x: list[torch.Tensor]  # [F][P], of the training rows
    mean_y: list[torch.Tensor]  # [F][Q]
    rss: torch.Tensor  # [F, H]
    tss: torch.Tensor  # [F, H]; not a number for a head that does not vary
    cosine: torch.Tensor  # [H]
    n: torch.Tensor  # [F] rows scored
    penalties: torch.Tensor  # [F, H], relative; not a number for maps without one

    @property
    def r2(self) -> torch.Tensor:
        """[H], pooled over folds."""
        return metrics.r_squared(self.rss.sum(0), self.tss.sum(0))

    def heads(self, first: int, count: int) -> CrossFit:
        """The results of ``count`` heads from ``first`` on; the maps stay those of all heads."""
        chosen = slice(first, first + count)
        return replace(
            self,
            rss=self.rss[:, chosen],
            tss=self.tss[:, chosen],
            cosine=self.cosine[chosen],
            penalties=self.penalties[:, chosen],
        )

    def predict(self, fold: int, x: torch.Tensor) -> torch.Tensor:
        """[N, P] -> [N, Q] with the map that has not seen ``fold``."""
        return (x.double() - self.mean_x[fold]) @ self.weights[fold] + self.mean_y[fold]


def crossfit_ridge(inputs: FoldSums, outputs: FoldSums, heads: int) -> CrossFit:
    """Ridge with a penalty per head, chosen on held-out folds within each training set."""
    fit_x, fit_y = inputs.fit(), outputs.fit()
    chosen = _choose_penalties(fit_x, fit_y, heads)

    def fit(train: Centred, fold: int) -> torch.Tensor:
        path = RidgePath(train.xx, train.xy)
        by_choice = {int(c): path.weights(RELATIVE_PENALTIES[int(c)]) for c in chosen[fold].unique()}
        width = train.xy.shape[1] // heads
        columns = [by_choice[int(c)][:, h * width : (h + 1) * width] for h, c in enumerate(chosen[fold])]
        return torch.cat(columns, dim=1)

    relative = torch.tensor(RELATIVE_PENALTIES, dtype=torch.float64)[chosen.cpu()]
    return _crossfit(inputs, outputs, heads, fit, relative)


def crossfit_fixed(
    inputs: FoldSums, outputs: FoldSums, heads: int, solve: Callable[[Centred], torch.Tensor]
) -> CrossFit:
    """Any map that follows from the training sums without a penalty to choose."""
    nothing = torch.full((inputs.folds, heads), float("nan"))
    return _crossfit(inputs, outputs, heads, lambda train, fold: solve(train), nothing)


def _crossfit(inputs, outputs, heads: int, fit, penalties: torch.Tensor) -> CrossFit:
    fit_x, fit_y, score_x, score_y = inputs.fit(), outputs.fit(), inputs.score(), outputs.score()
    all_x, all_y = sum(fit_x[1:], fit_x[0]), sum(fit_y[1:], fit_y[0])
    weights, means_x, means_y, rss, tss, dots = [], [], [], [], [], []
    for fold in range(inputs.folds):
        train = about_own_mean(all_x - fit_x[fold], all_y - fit_y[fold])
        test = centred(score_x[fold], score_y[fold], train.mean_x, train.mean_y)
        w = fit(train, fold)
        weights.append(w)
        means_x.append(train.mean_x + all_x.pilot)
        means_y.append(train.mean_y + all_y.pilot_y)
        rss.append(metrics.per_head(metrics.residual_squares(test, w), heads))
        tss.append(metrics.per_head(test.yy, heads))
        dots.append(_uncentred_products(test, w, means_y[-1], score_x[fold], score_y[fold], heads))
    dot, squares_a, squares_b = torch.stack(dots).sum(0)
    held_out_variance = torch.stack(tss)
    held_out_variance[:, held_out_variance.sum(0) <= CONSTANT * squares_a] = float("nan")
    return CrossFit(
        weights=weights,
        mean_x=means_x,
        mean_y=means_y,
        rss=torch.stack(rss),
        tss=held_out_variance,
        cosine=metrics.pooled_cosine(dot, squares_a, squares_b),
        n=torch.tensor([s.n for s in score_y]),
        penalties=penalties,
    )


def _uncentred_products(test: Centred, w, mean_y, x: Inputs, y: Outputs, heads: int) -> torch.Tensor:
    """Per head [3, H]: sum of y.yhat, |y|^2 and |yhat|^2 of the rows themselves, their means put back."""
    x_sum, y_sum = x.total - x.n * test.mean_x, y.total - y.n * test.mean_y
    yhat_sum = w.T @ x_sum
    dot = (w * test.xy).sum(0) + mean_y * (y_sum + yhat_sum) + y.n * mean_y**2
    squares_y = test.yy + 2 * mean_y * y_sum + y.n * mean_y**2
    squares_yhat = (w * (test.xx @ w)).sum(0) + 2 * mean_y * yhat_sum + y.n * mean_y**2
    return torch.stack([metrics.per_head(s, heads) for s in (dot, squares_y, squares_yhat)])


class RidgePath:
    """All ridge solutions of one training set from one eigendecomposition; penalties relative to mean variance."""

    def __init__(self, xx: torch.Tensor, xy: torch.Tensor):
        values, self.basis = torch.linalg.eigh(xx)
        self.values = values.clamp(min=0)
        self.scale = self.values.mean().clamp(min=torch.finfo(xx.dtype).tiny)
        self.rotated_xy = self.basis.T @ xy

    def in_basis(self, relative: float) -> torch.Tensor:
        return self.rotated_xy / (self.values + relative * self.scale)[:, None]

    def weights(self, relative: float) -> torch.Tensor:
        return self.basis @ self.in_basis(relative)

    def rss(self, test: Centred) -> torch.Tensor:
        """[penalties, Q] on held-out sums."""
        gram, cross = self.basis.T @ test.xx @ self.basis, self.basis.T @ test.xy
        solutions = torch.stack([self.in_basis(r) for r in RELATIVE_PENALTIES])
        return test.yy - 2 * (solutions * cross).sum(1) + (solutions * (gram @ solutions)).sum(1)


def _choose_penalties(fit_x: list[Inputs], fit_y: list[Outputs], heads: int) -> torch.Tensor:
    """[F, H] index into RELATIVE_PENALTIES; fold f's is the best over pairs (train without f and g, test on g)."""
    folds = len(fit_x)
    if folds < 3:
        fallback = RELATIVE_PENALTIES.index(FALLBACK_PENALTY)
        return torch.full((folds, heads), fallback, dtype=torch.int64)
    all_x, all_y = sum(fit_x[1:], fit_x[0]), sum(fit_y[1:], fit_y[0])
    rss = torch.zeros(folds, len(RELATIVE_PENALTIES), heads, dtype=torch.float64, device=all_x.gram.device)
    for f, g in combinations(range(folds), 2):
        train = about_own_mean(all_x - fit_x[f] - fit_x[g], all_y - fit_y[f] - fit_y[g])
        path = RidgePath(train.xx, train.xy)
        for chosen_for, tested_on in ((f, g), (g, f)):
            test = centred(fit_x[tested_on], fit_y[tested_on], train.mean_x, train.mean_y)
            rss[chosen_for] += metrics.per_head(path.rss(test), heads)
    return rss.argmin(1)


# --- which teacher heads a student head is built from -------------------------------------------------------


@dataclass(frozen=True)
class Contributions:
    """Held-out R^2 per student head and teacher head [H, Ht], of refits of the same ridge."""

    without: torch.Tensor  # R^2 lost when the teacher head is left out
    alone: torch.Tensor  # R^2 of the teacher head by itself


def teacher_head_contributions(
    inputs: FoldSums, outputs: FoldSums, heads: int, heads_t: int, relative_penalty: float
) -> Contributions:
    """Exact refits without (and with only) each teacher head, held out by fold.

    Leaving block a out of a ridge with inverse A^-1 and solution W gives W - A^-1[:, a] (A^-1[a, a])^-1 W[a].
    """
    fit_x, fit_y, score_x, score_y = inputs.fit(), outputs.fit(), inputs.score(), outputs.score()
    all_x, all_y = sum(fit_x[1:], fit_x[0]), sum(fit_y[1:], fit_y[0])
    size = len(all_x.pilot) // heads_t
    blocks = [slice(a * size, (a + 1) * size) for a in range(heads_t)]
    shape = (inputs.folds, heads_t + 1, heads)
    left_out, alone = (torch.zeros(shape, dtype=torch.float64, device=all_x.gram.device) for _ in "ab")
    tss = torch.zeros(inputs.folds, heads, dtype=torch.float64, device=all_x.gram.device)
    for fold in range(inputs.folds):
        train = about_own_mean(all_x - fit_x[fold], all_y - fit_y[fold])
        test = centred(score_x[fold], score_y[fold], train.mean_x, train.mean_y)
        penalty = absolute_penalty(train, relative_penalty)
        system = train.xx + penalty * torch.eye(len(train.xx)).to(train.xx)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(system))
        whole = ridge(train, penalty)
        tss[fold] = metrics.per_head(test.yy, heads)
        left_out[fold, heads_t] = metrics.per_head(metrics.residual_squares(test, whole), heads)
        for a, block in enumerate(blocks):
            refit = whole - inverse[:, block] @ torch.linalg.solve(inverse[block, block], whole[block])
            left_out[fold, a] = metrics.per_head(metrics.residual_squares(test, refit), heads)
            only = torch.zeros_like(whole)
            only[block] = torch.linalg.solve(system[block, block], train.xy[block])
            alone[fold, a] = metrics.per_head(metrics.residual_squares(test, only), heads)
    variance = tss.sum(0)
    lost = (left_out[:, :heads_t].sum(0) - left_out[:, heads_t].sum(0)) / variance
    return Contributions(without=lost.T, alone=(1 - alone[:, :heads_t].sum(0) / variance).T)
