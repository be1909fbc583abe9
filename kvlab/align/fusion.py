"""Several teachers fused in the student's space: their held-out predictions, weighted per student head.

Stacked regression (Breiman 1996): the weights are fitted by ridge, pulled towards the plain mean, on predictions of
folds that the maps had not seen, and judged on a fold that neither maps nor weights had seen. Each teacher alone is
weighted likewise: otherwise a better scale of the same predictions would pass for a gain from another teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from kvlab.align import metrics
from kvlab.align.crossfit import CrossFit, crossfit_ridge
from kvlab.align.heads import ridge_path
from kvlab.align.layers import Choice
from kvlab.align.statistics import Centred, about_own_mean, centred, pilot_of
from kvlab.align.sums import FoldSums, Pairing, total
from kvlab.types import KINDS

PULL = 1e-3  # towards the mean of the teachers, relative to the variance of a prediction


@dataclass
class FusionSums:
    """The features of all teachers side by side against the student, on the steps that all of them cover."""

    choices: list[dict[str, list[Choice]]]  # of each teacher
    folds: int
    pairings: dict[tuple[str, int], Pairing] = field(default_factory=dict)

    def add(
        self,
        fold: int,
        part: str,
        side_by_side: Sequence[Callable[[str, tuple[int, ...]], torch.Tensor]],
        y: Callable[[str, int], torch.Tensor],
    ) -> None:
        for kind in KINDS:
            for layer in range(len(self.choices[0][kind])):
                x = torch.cat([of(kind, c[kind][layer].union) for of, c in zip(side_by_side, self.choices)], dim=1)
                targets = y(kind, layer)
                if (kind, layer) not in self.pairings:
                    pilots = pilot_of(x), pilot_of(targets)
                    self.pairings[kind, layer] = Pairing.begin(*pilots, self.folds)
                self.pairings[kind, layer].add(fold, part, x, targets)

    def of_teacher(self, kind: str, layer: int) -> list[Pairing]:
        """The same sums with the features of one teacher only, for each."""
        whole, first, pairings = self.pairings[kind, layer], 0, []
        for choices in self.choices:
            choice = choices[kind][layer]
            columns = [first + choice.columns(layers) for layers in choice.of_fold]
            pairings.append(Pairing(whole.features, whole.targets, columns))
            first += sum(choice.widths)
        return pairings

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


def fuse(of_teacher: Sequence[Pairing], heads: int) -> Fused:
    """``of_teacher``: the same rows with the features that each teacher may use."""
    fits = [crossfit_ridge(pairing, heads) for pairing in of_teacher]
    tss, rss_alone = fits[0].tss, torch.stack([_stacked([p], [f], heads)[0] for p, f in zip(of_teacher, fits)])
    rss, weights = _stacked(of_teacher, fits, heads)
    r2_alone = metrics.r_squared(rss_alone.sum(1), tss.sum(0))
    best = r2_alone.nan_to_num(nan=-torch.inf).argmax(0)
    rss_best = rss_alone[best, :, torch.arange(heads)].T
    r2 = metrics.r_squared(rss.sum(0), tss.sum(0))
    return Fused(
        r2=r2,
        se=metrics.jackknife(rss, tss),
        r2_alone=r2_alone,
        weights=weights,
        gain=r2 - r2_alone.gather(0, best[None])[0],
        gain_se=metrics.jackknife(rss - rss_best, tss),
        n=int(fits[0].n.sum()),
    )


def _stacked(of_teacher: Sequence[Pairing], fits: Sequence[CrossFit], heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """RSS [F, H] of the weighted predictions, and the weights [A, H], mean over folds."""
    features, targets = of_teacher[0].features, of_teacher[0].targets
    fit_x, fit_y, score_x, score_y = features.fit(), targets.fit(), features.score(), targets.score()
    all_x, all_y = total(fit_x), total(fit_y)
    rss, weights = [], []
    for fold in range(features.folds):
        w = _stacking_weights(of_teacher, fits, fold, heads)  # [A, H]
        train = about_own_mean(all_x - fit_x[fold], all_y - fit_y[fold])
        test = centred(score_x[fold], score_y[fold], train.mean_x, train.mean_y)
        width = test.xy.shape[1] // heads
        fused = sum(fit.weights[fold] * share.repeat_interleave(width) for fit, share in zip(fits, w))
        rss.append(metrics.per_head(metrics.residual_squares(test, fused), heads))
        weights.append(w)
    return torch.stack(rss), torch.stack(weights).mean(0)


def _stacking_weights(of_teacher: Sequence[Pairing], fits: Sequence[CrossFit], fold: int, heads: int) -> torch.Tensor:
    """[A, H]: from predictions of every other fold g by maps fitted without ``fold`` and g."""
    features, targets = of_teacher[0].features, of_teacher[0].targets
    fit_x, fit_y = features.fit(), targets.fit()
    all_x, all_y = total(fit_x), total(fit_y)
    teachers = len(of_teacher)
    equal = torch.full((teachers, heads), 1 / teachers, dtype=torch.float64, device=all_y.total.device)
    if features.folds < 3:
        return equal
    gram = torch.zeros(heads, teachers, teachers).to(equal)
    cross = torch.zeros(heads, teachers).to(equal)
    for g in range(features.folds):
        if g == fold:
            continue
        train = about_own_mean(all_x - fit_x[fold] - fit_x[g], all_y - fit_y[fold] - fit_y[g])
        test = centred(fit_x[g], fit_y[g], train.mean_x, train.mean_y)
        maps = [
            _map(train, pairing.columns_of(fold), fit.penalties[fold], heads) for pairing, fit in zip(of_teacher, fits)
        ]
        for a in range(teachers):
            cross[:, a] += metrics.per_head((maps[a] * test.xy).sum(0), heads)
            predicted = test.xx @ maps[a]
            for b in range(teachers):
                gram[:, a, b] += metrics.per_head((maps[b] * predicted).sum(0), heads)
    pull = PULL * gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(gram.dtype).tiny)
    system = gram + pull[:, None, None] * torch.eye(teachers).to(gram)
    return torch.linalg.solve(system, cross + pull[:, None] / teachers).T


def _map(train: Centred, columns: torch.Tensor, penalties: torch.Tensor, heads: int) -> torch.Tensor:
    """W [P, Q] with the penalty of each head, zero outside ``columns``."""
    used = penalties.unique()
    solutions = dict(zip(used.tolist(), ridge_path(train.features(columns), used.tolist())))
    width = train.xy.shape[1] // heads
    w = torch.zeros_like(train.xy)
    w[columns] = torch.cat(
        [solutions[float(p)][:, h * width : (h + 1) * width] for h, p in enumerate(penalties)], dim=1
    )
    return w
