"""Several teachers fused in the student's space: their held-out predictions, weighted per student head.

Stacked regression (Breiman 1996): the weights are fitted by ridge, pulled towards the plain mean, on predictions of
folds that the maps had not seen, and judged on a fold that neither maps nor weights had seen. Each teacher's map is
fitted on its own exact rows, as when it is alone; predictions meet on the steps that all teachers cover, and
weights are fitted where all are exact. Each teacher alone is weighted likewise: otherwise a better scale of the same
predictions would pass for a gain from another teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from kvlab.align import metrics
from kvlab.align.accumulate import Source
from kvlab.align.crossfit import CrossFit
from kvlab.align.heads import ridge_per_head
from kvlab.align.layers import Choice
from kvlab.align.statistics import Inputs, Outputs, about_own_mean, pilot_of
from kvlab.align.sums import FoldSums, Pairing, total
from kvlab.types import KINDS

PULL = 1e-3  # towards the mean of the teachers, relative to the variance of a prediction


@dataclass
class FusionSums:
    """The features of all teachers side by side against the student, on the steps that all of them cover."""

    choices: list[dict[str, list[Choice]]]  # of each teacher
    folds: int
    pairings: dict[tuple[str, int], Pairing] = field(default_factory=dict)

    def add(self, fold: int, part: str, of_teachers: Sequence[Source], at: Any) -> None:
        """Add the rows of each teacher ``at`` a part or a group, as ``AlignSums.add``; the targets are the same."""
        for kind in KINDS:
            for layer in range(len(self.choices[0][kind])):
                unions = [choices[kind][layer].union for choices in self.choices]
                x = torch.cat([rows.side_by_side(kind, u, at) for rows, u in zip(of_teachers, unions)], dim=1)
                targets = of_teachers[0].y(kind, layer, at)
                if (kind, layer) not in self.pairings:
                    pilots = pilot_of(x), pilot_of(targets)
                    self.pairings[kind, layer] = Pairing.begin(*pilots, self.folds)
                self.pairings[kind, layer].add(fold, part, x, targets)

    def all(self) -> dict[str, FoldSums]:
        """Every sum by name."""
        named = {}
        for (kind, layer), pairing in self.pairings.items():
            unions = [choices[kind][layer].union for choices in self.choices]
            named[f"features {kind} {layer} {unions}"] = pairing.features
            named[f"targets {kind} {layer}"] = pairing.targets
        return named


@dataclass(frozen=True)
class Fused:
    """Per student head (H) and teacher (A), on the steps that all teachers cover."""

    r2: torch.Tensor  # [H]
    se: torch.Tensor  # [H]
    r2_alone: torch.Tensor  # [A, H] of each teacher, weighted likewise
    weights: torch.Tensor  # [A, H], mean over folds
    gain: torch.Tensor  # [H] over the best single teacher
    gain_se: torch.Tensor  # [H]
    n: int


def fuse(common: Pairing, own: Sequence[Pairing], fits: Sequence[CrossFit], heads: int) -> Fused:
    """``common``: the steps that all teachers cover, their features side by side in the order of ``own``.

    ``own``: each teacher's rows, as it is fitted alone, and ``fits`` its ridge with the penalties chosen there.
    """
    stack = _Stack(common, own, fits, heads)
    rss, weights = stack.judged(range(len(own)))
    rss_alone = torch.stack([stack.judged([a])[0] for a in range(len(own))])
    r2, r2_alone = (
        metrics.r_squared(rss.sum(0), stack.tss.sum(0)),
        metrics.r_squared(rss_alone.sum(1), stack.tss.sum(0)),
    )
    best = r2_alone.nan_to_num(nan=-torch.inf).argmax(0)
    rss_best = rss_alone[best, :, torch.arange(heads)].T
    held = torch.tensor([n > 0 for n in stack.n])  # a fold may hold calibration documents only
    return Fused(
        r2=r2,
        se=metrics.jackknife(rss[held], stack.tss[held]),
        r2_alone=r2_alone,
        weights=weights,
        gain=r2 - r2_alone.gather(0, best[None])[0],
        gain_se=metrics.jackknife((rss - rss_best)[held], stack.tss[held]),
        n=sum(stack.n),
    )


@dataclass(frozen=True)
class _Moments:
    """Uncentred sums of [x, 1] and y about the pilots, y less a mean: products of affine predictions follow."""

    gram: torch.Tensor  # [P + 1, P + 1]
    cross: torch.Tensor  # [P + 1, Q]
    squares: torch.Tensor  # [Q]

    @classmethod
    def of(cls, x: Inputs, y: Outputs, mean_y: torch.Tensor) -> _Moments:
        sums = torch.cat([x.total, x.total.new_tensor([x.n])])
        gram = torch.cat([torch.cat([x.gram, x.total[:, None]], dim=1), sums[None]])
        cross = torch.cat([y.cross, y.total[None]]) - torch.outer(sums, mean_y)
        return cls(gram, cross, y.squares_about(mean_y))


class _Stack:
    """The predictions of every teacher, with and without a second fold, as affine maps [P + 1, Q] of all features."""

    def __init__(self, common: Pairing, own: Sequence[Pairing], fits: Sequence[CrossFit], heads: int):
        self.own, self.fits, self.heads, self.folds = own, fits, heads, common.features.folds
        self.pilot_x, self.pilot_y = common.targets.pilots
        fit_x, fit_y = common.features.fit(), common.targets.fit()
        score_x, score_y = common.features.score(), common.targets.score()
        self.n = [fold.n for fold in score_y]
        self.mean_y = [(total(fit_y) - fold).mean() for fold in fit_y]  # [F][Q] of the other folds
        self.test = [_Moments.of(x, y, mean) for x, y, mean in zip(score_x, score_y, self.mean_y)]
        self.tss = torch.stack([metrics.per_head(test.squares, heads) for test in self.test])  # [F, H]
        self.inner = {
            (f, g): _Moments.of(fit_x[g], fit_y[g], self.mean_y[f])
            for f in range(self.folds)
            for g in range(self.folds)
            if f != g and self.folds > 2
        }
        self.maps = {f: self._maps(f) for f in range(self.folds)}
        self.inner_maps = {(f, g): self._maps(f, g) for f, g in self.inner}

    def judged(self, teachers: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """RSS [F, H] of the weighted predictions of some teachers, and their weights [A, H], mean over folds."""
        rss, weights = [], []
        for f in range(self.folds):
            w = self._weights(f, teachers)
            width = len(self.pilot_y) // self.heads
            fused = sum(self.maps[f][a] * share.repeat_interleave(width) for a, share in zip(teachers, w))
            test = self.test[f]
            squares = test.squares - 2 * (fused * test.cross).sum(0) + (fused * (test.gram @ fused)).sum(0)
            rss.append(metrics.per_head(squares, self.heads))
            weights.append(w)
        return torch.stack(rss), torch.stack(weights).mean(0)

    def _weights(self, f: int, teachers: Sequence[int]) -> torch.Tensor:
        """[A, H]: from predictions of every other fold g by maps fitted without f and g."""
        count = len(teachers)
        gram = self.tss.new_zeros(self.heads, count, count)
        cross = self.tss.new_zeros(self.heads, count)
        for (of, g), moments in self.inner.items():
            if of != f:
                continue
            maps = [self.inner_maps[f, g][a] for a in teachers]
            for a in range(count):
                cross[:, a] += metrics.per_head((maps[a] * moments.cross).sum(0), self.heads)
                predicted = moments.gram @ maps[a]
                for b in range(count):
                    gram[:, a, b] += metrics.per_head((maps[b] * predicted).sum(0), self.heads)
        pull = PULL * gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(gram.dtype).tiny)
        system = gram + pull[:, None, None] * torch.eye(count).to(gram)
        return torch.linalg.solve(system, cross + pull[:, None] / count).T

    def _maps(self, *without: int) -> list[torch.Tensor]:
        """Of each teacher, fitted on its own rows without these folds, with what was chosen for the first of them."""
        maps, first = [], 0
        for pairing, fit in zip(self.own, self.fits):
            w, intercept = _map(pairing, without, fit.penalties[without[0]])
            # As an affine map of features about the common pilot to targets about the mean that fold is judged by.
            own_pilot = self.pilot_x[first : first + len(w)]
            constant = intercept + w.T @ own_pilot - self.pilot_y - self.mean_y[without[0]]
            whole = w.new_zeros(len(self.pilot_x) + 1, w.shape[1])
            whole[first : first + len(w)] = w
            whole[-1] = constant
            maps.append(whole)
            first += len(w)
        return maps


def _map(pairing: Pairing, without: Sequence[int], penalties: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """W [P, Q], zero outside the columns of the first fold, and the intercept [Q], with the penalty of each head."""
    fit_x, fit_y = pairing.features.fit(), pairing.targets.fit()
    x, y = total(fit_x), total(fit_y)
    for fold in without:
        x, y = x - fit_x[fold], y - fit_y[fold]
    train, columns = about_own_mean(x, y), pairing.columns_of(without[0])
    w = torch.zeros_like(train.xy)
    w[columns] = ridge_per_head(train.features(columns), penalties)
    return w, train.mean_y + y.pilot_y - w.T @ (train.mean_x + x.pilot)
