"""Fuse several teachers in the student's space: weight their held-out predictions per student head.

Stacked regression (Breiman 1996): the weights are fitted by ridge, pulled towards the plain mean, on predictions of
folds that the maps had not seen, and judged on a fold that neither maps nor weights had seen. Each teacher's maps are
fitted on its own rows, class by class, as when it is alone; predictions meet on the steps that all teachers cover.
Each teacher alone is weighted likewise: otherwise a better scale of the same predictions would pass for a gain from
another teacher. Any further features help a little: the control has random weights in the place of the other teachers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from kvlab.align import metrics
from kvlab.align.align_sums import Source
from kvlab.align.batches import Rows
from kvlab.align.crossfit import CrossFit, Penalties
from kvlab.align.fold_sums import FoldSums, Pairing, Part
from kvlab.align.layers import Choice
from kvlab.align.moments import pilot_of
from kvlab.align.stacking import CommonRows, Stack, Summed
from kvlab.align.ties import first_of_the_best
from kvlab.shapes import KINDS

Fits = Sequence[Penalties | CrossFit]  # of each class of rows


@dataclass
class FusionSums:
    """The features of all teachers side by side against the student, on the steps that all of them cover."""

    choices: list[dict[str, list[Choice]]]  # of each teacher
    folds: int
    pairings: dict[tuple[str, int], Pairing] = field(default_factory=dict)
    in_hand: int | None = None  # the fold whose sums lie on the device; those of the others are on the host

    def add(self, fold: int, part: Part, of_teachers: Sequence[Source], at: Any) -> None:
        """Add the rows of each teacher ``at`` a part or a group, as ``AlignSums.add``; the targets are the same."""
        if fold != self.in_hand:
            self.in_hand = fold
            for sums in self.all().values():
                sums.put_away(but=fold)
        for kind in KINDS:
            for layer in range(len(self.choices[0][kind])):
                unions = [choices[kind][layer].union for choices in self.choices]
                x = torch.cat([rows.side_by_side(kind, u, at) for rows, u in zip(of_teachers, unions)], dim=1)
                targets = of_teachers[0].y(kind, layer, at)
                if (kind, layer) not in self.pairings:
                    pilots = pilot_of(x), pilot_of(targets)
                    self.pairings[kind, layer] = Pairing.begin(*pilots, self.folds)
                self.pairings[kind, layer].add(fold, part, x, targets, of_teachers[0].weights(layer, at))

    def add_batch(self, of_teachers: Sequence[Rows]) -> None:
        """Add the common rows of a batch; a single teacher has none."""
        for part in of_teachers[0].parts if of_teachers else []:
            self.add(of_teachers[0].fold, part, of_teachers, part)

    def widths(self, kind: str, layer: int) -> list[int]:
        """Features of each teacher."""
        return [sum(choices[kind][layer].widths) for choices in self.choices]

    def all(self) -> dict[str, FoldSums]:
        """Return every sum by name."""
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
    best: torch.Tensor  # [H] the best single teacher
    gain: torch.Tensor  # [H] over the best single teacher
    gain_se: torch.Tensor  # [H]
    n: int


def fuse(
    common: Pairing,
    alone: Sequence[Pairing],
    penalties: Sequence[Fits],
    widths: Sequence[int],
    heads: int,
) -> Fused:
    """``common``: the steps that all teachers cover, their features side by side in the order of ``alone``.

    ``alone``: each teacher's own rows, and ``penalties`` those chosen for its ridge there;
    ``widths``: the features of each teacher in ``common``.
    """
    stack = Stack(Summed(common), alone, penalties, widths, heads)
    rss, weights = stack.judged(range(len(alone)))
    rss_alone = torch.stack([stack.judged([a])[0] for a in range(len(alone))])
    r2 = metrics.r_squared(rss.sum(0), stack.tss.sum(0))
    r2_alone = metrics.r_squared(rss_alone.sum(1), stack.tss.sum(0))
    best = first_of_the_best(r2_alone, dim=0)
    rss_best = rss_alone[best, :, torch.arange(heads)].T
    return Fused(
        r2=r2,
        se=stack.jackknife(rss),
        r2_alone=r2_alone,
        weights=weights,
        best=best,
        gain=r2 - r2_alone.gather(0, best[None])[0],
        gain_se=stack.jackknife(rss - rss_best),
        n=sum(stack.n),
    )


@dataclass(frozen=True)
class OverRandom:
    """The gain of a fusion over its control, with random weights for all teachers but one: by that one (A) and per
    student head (H)."""

    gain: torch.Tensor  # [A, H] R^2 of the fusion - R^2 of that control
    gain_se: torch.Tensor  # [A, H]
    n: int


def over_random(
    common: CommonRows,
    alone: Sequence[Pairing],
    penalties: Sequence[Fits],
    widths: Sequence[int],
    heads: int,
) -> OverRandom:
    """As ``fuse``, of the teachers followed by as many of random weights in the same order."""
    stack, teachers = Stack(common, alone, penalties, widths, heads), range(len(alone) // 2)
    rss, _ = stack.judged(teachers)
    instead = [[a if a == real else len(teachers) + a for a in teachers] for real in teachers]
    more = [stack.judged(members)[0] - rss for members in instead]  # [A][F, H]
    return OverRandom(
        gain=torch.stack([rss_more.sum(0) / stack.tss.sum(0) for rss_more in more]),
        gain_se=torch.stack([stack.jackknife(rss_more) for rss_more in more]),
        n=sum(stack.n),
    )
