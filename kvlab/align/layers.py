"""Choose the teacher layers for each student layer (positions among the layers that keep a cache).

``depth`` uses the numbers of layers only. ``cka`` takes the most similar layer. ``heldout`` takes the layers, up to
four side by side, whose ridge explains held-out documents best. The choice for scoring a fold never uses that fold's
documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import torch

from kvlab.align import metrics, similarity
from kvlab.align.crossfit import neighbours
from kvlab.align.fold_sums import Pairing, total
from kvlab.align.moments import about_own_mean, centred, pilot_of
from kvlab.align.projectors import ridge_path
from kvlab.align.sample import Sample
from kvlab.align.ties import first_of_the_best
from kvlab.request.align import AlignSettings
from kvlab.shapes import KINDS, Progress

RULES = ("depth", "cka", "heldout")
BAND = 2  # teacher layers searched on each side of the proportional depth
MOST_LAYERS = 4  # side by side
PARTNERS = 5  # best single layers that may be put side by side
LEAST_GAIN = 0.005  # of R^2, for which another layer is worth its features
ROWS_PER_FEATURE = 20  # fitted rows; a layer that would leave fewer is not added
SEARCH_PENALTIES = (1e-4, 1e-2)


@dataclass(frozen=True)
class Choice:
    """The teacher layers of one student layer and kind. Invariant: every chosen layer is in ``union``."""

    union: tuple[int, ...]  # ascending; side by side they are the features
    widths: tuple[int, ...]  # features of each layer of the union
    overall: tuple[int, ...]  # chosen on all folds
    of_fold: tuple[tuple[int, ...], ...]  # [F] chosen without that fold

    @classmethod
    def of(cls, overall: Sequence[int], of_fold: Sequence[Sequence[int]], width_of: Callable[[int], int]) -> Choice:
        union = tuple(sorted(set(overall).union(*of_fold)))
        widths = tuple(width_of(layer) for layer in union)
        return cls(union, widths, tuple(sorted(overall)), tuple(tuple(sorted(layers)) for layers in of_fold))

    def columns(self, layers: Sequence[int]) -> torch.Tensor:
        """Return the positions of the features of some layers of the union."""
        edges = np.cumsum((0, *self.widths)).tolist()
        return torch.cat([torch.arange(edges[i], edges[i + 1]) for i, at in enumerate(self.union) if at in layers])

    def columns_of_folds(self) -> list[torch.Tensor] | None:
        """Return the features [F] that each fold may use; None where every fold uses all."""
        if all(layers == self.union for layers in self.of_fold):
            return None
        return [self.columns(layers) for layers in self.of_fold]


@dataclass
class LayerSearch:
    """The chosen layers, and the matrices behind the choice."""

    rule: str
    choices: dict[str, list[Choice]] = field(default_factory=dict)  # by kind, per student layer
    matrices: dict[str, np.ndarray] = field(default_factory=dict)  # ``similarity.KIND.NAME`` [Ls, Lt]
    rows: int = 0  # of the sample


def depth(teacher_layers: int, student_layers: int) -> list[int]:
    """Return layers at proportional depth: first to first, last to last, ties to the deeper teacher layer."""
    if student_layers == 1:
        return [teacher_layers - 1]
    span = student_layers - 1
    return [(2 * layer * (teacher_layers - 1) + span) // (2 * span) for layer in range(student_layers)]


def choose(sample: Sample, share: float, settings: AlignSettings, progress: Progress) -> LayerSearch:
    """Choose layers by the rule of ``settings``; also compute the CKA of all pairs, its null and the student's own.

    ``share``: the sample's share of all documents, from which follows how many rows there will be to fit on.
    matrices: ``similarity.KIND.cka`` and ``.cka_shuffled`` [Ls, Lt], ``.own`` [Ls, Ls] (the student with itself: how
    alike neighbouring layers are). ``heldout`` adds ``.r2`` [Ls, Lt] of each layer alone, NaN where it did not search.
    """
    search = LayerSearch(settings.layers, rows=sum(sample.count(group) for group in sample.fit_groups))
    by_depth = depth(sample.layers_t, sample.layers_s)
    for number, kind in enumerate(KINDS):

        def step(layer: int, number: int = number) -> None:
            progress("comparing layers", number * sample.layers_s + layer, len(KINDS) * sample.layers_s)

        of_fold = _similarities(sample, kind, search)
        candidates = [_candidates(at, sample.layers_t, settings.search) for at in by_depth]
        if settings.layers == "depth" or (settings.layers == "heldout" and sample.folds < 3):
            chosen = [((at,), [(at,)] * sample.folds) for at in by_depth]
        elif settings.layers == "cka":
            chosen = _most_similar(of_fold, candidates)
        else:
            chosen = _best_explaining(sample, kind, candidates, search, share, step)
        search.choices[kind] = [Choice.of(*layers, partial(sample.width, kind)) for layers in chosen]
    return search


def _candidates(at: int, layers_t: int, extent: str) -> list[int]:
    if extent == "full":
        return list(range(layers_t))
    first = min(max(at - BAND, 0), max(layers_t - 2 * BAND - 1, 0))
    return list(range(first, min(first + 2 * BAND + 1, layers_t)))


def _similarities(sample: Sample, kind: str, search: LayerSearch) -> list[torch.Tensor]:
    """Store the CKA of all rows in ``search``, and return the CKA [Ls, Lt] without each fold as a list [F]."""
    layers_t, layers_s, folds = range(sample.layers_t), range(sample.layers_s), range(sample.folds)
    pilots_x = [pilot_of(sample.x(kind, layer, sample.fit_groups[0])) for layer in layers_t]
    pilots_y = [pilot_of(sample.y(kind, layer, sample.fit_groups[0])) for layer in layers_s]
    by_fold: dict[int, dict[str, similarity.CrossMoments]] = {}
    for group in sample.fit_groups:
        x = [sample.x(kind, layer, group) - pilots_x[layer].float() for layer in layers_t]
        y = [sample.y(kind, layer, group) - pilots_y[layer].float() for layer in layers_s]
        shuffled = [sample.y(kind, layer, group, shuffled=True) - pilots_y[layer].float() for layer in layers_s]
        moments = {
            "between": similarity.CrossMoments.of(y, x),
            "null": similarity.CrossMoments.of(shuffled, x),
            "student": similarity.CrossMoments.of(y, y),
        }
        moments |= {f"teacher {at}": similarity.CrossMoments.of([x[at]], [x[at]]) for at in layers_t}
        fold = group[0] if search.rule == "cka" else 0  # the other rules do not ask for folds
        before = by_fold.get(fold)
        by_fold[fold] = {name: before[name] + m for name, m in moments.items()} if before else moments
    names = next(iter(by_fold.values()))
    whole = {name: total([fold_moments[name] for fold_moments in by_fold.values()]) for name in names}

    def tables(moments: dict[str, similarity.CrossMoments]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hsic_s = similarity.hsic(moments["student"]).diagonal()
        hsic_t = torch.stack([similarity.hsic(moments[f"teacher {at}"])[0, 0] for at in layers_t])
        return (
            similarity.cka(moments["between"], hsic_s, hsic_t),
            similarity.cka(moments["null"], hsic_s, hsic_t),
            similarity.cka(moments["student"], hsic_s, hsic_s),
        )

    for name, matrix in zip(("cka", "cka_shuffled", "own"), tables(whole)):
        search.matrices[f"similarity.{kind}.{name}"] = matrix.cpu().numpy()
    if search.rule != "cka":
        return []
    without = [{name: m - by_fold[f][name] for name, m in whole.items()} if f in by_fold else whole for f in folds]
    return [tables(moments)[0] for moments in without]


def _most_similar(of_fold: list[torch.Tensor], candidates: list[list[int]]) -> list[tuple[tuple, list[tuple]]]:
    together = torch.stack(of_fold).nan_to_num(nan=-1.0)  # [F, Ls, Lt]; their mean stands for the CKA of all rows
    choices = []
    for layer, allowed in enumerate(candidates):
        scores = together[:, layer, allowed]
        picked = [(allowed[best],) for best in first_of_the_best(scores).tolist()]
        choices.append(((allowed[int(first_of_the_best(scores.mean(0)))],), picked))
    return choices


def _best_explaining(
    sample: Sample,
    kind: str,
    candidates: list[list[int]],
    search: LayerSearch,
    share: float,
    step: Callable[[int], None],
) -> list[tuple[tuple, list[tuple]]]:
    singles = np.full((sample.layers_s, sample.layers_t), np.nan)
    choices = []
    fitted = search.rows * (sample.folds - 1) / sample.folds / share
    for layer, allowed in enumerate(candidates):
        step(layer)
        most = max(1, min(MOST_LAYERS, int(fitted / ROWS_PER_FEATURE / max(sample.width(kind, at) for at in allowed))))
        partners = _partners(sample, kind, layer, allowed, singles[layer])
        pool = sorted(set().union(*partners.values()))
        problem = HeldOut.of(sample, kind, pool, layer)
        for i, at in enumerate(pool):
            singles[layer, at] = problem.r2((i,))
        chosen = {
            fold: tuple(pool[i] for i in problem.greedy(most, fold, [pool.index(at) for at in of_fold]))
            for fold, of_fold in partners.items()
        }
        choices.append((chosen[None], [chosen[fold] for fold in range(sample.folds)]))
    search.matrices[f"similarity.{kind}.r2"] = singles
    return choices


def _partners(
    sample: Sample, kind: str, layer: int, allowed: list[int], singles: np.ndarray
) -> dict[int | None, list[int]]:
    """Return for every fold the layers that are best alone without it, to be put side by side; None: over all folds."""
    everyone: list[int | None] = [None, *range(sample.folds)]
    if len(allowed) <= PARTNERS:
        return dict.fromkeys(everyone, allowed)
    alone = {at: HeldOut.of(sample, kind, [at], layer) for at in allowed}
    singles[allowed] = [problem.r2((0,)) for problem in alone.values()]

    def best(fold: int | None) -> list[int]:
        by_score = sorted(allowed, key=lambda at: -np.nan_to_num(alone[at].r2((0,), fold), nan=-np.inf))
        return sorted(by_score[:PARTNERS])  # in the order of layers, so that the first of equals wins

    return {fold: best(fold) for fold in everyone}


class HeldOut:
    """Ridge on subsets of blocks of features, tested on folds that the map has not seen.

    For every pair of neighbouring folds (f, g), fit a map without both and test it on g. The choice for f then sees
    nothing of f, neither in the fit nor in the test.
    """

    def __init__(self, pairing: Pairing, blocks: list[tuple[int, int]]):
        fit_x, fit_y = pairing.features.fit(), pairing.targets.fit()
        all_x, all_y = total(fit_x), total(fit_y)
        self.blocks, self.count = blocks, len(fit_x)
        self.pairs = []
        for f, g in neighbours(self.count):
            train = about_own_mean(all_x - fit_x[f] - fit_x[g], all_y - fit_y[f] - fit_y[g])
            tests = [centred(fit_x[at], fit_y[at], train.mean_x, train.mean_y) for at in (g, f)]
            self.pairs.append(((f, g), train.single(), [test.single() for test in tests]))
        self.tss = self._table(lambda train, tests: [test.yy.double().sum() for test in tests])  # [F, F]
        self._rss: dict[tuple[int, ...], torch.Tensor] = {}

    @classmethod
    def of(cls, sample: Sample, kind: str, layers: Sequence[int], layer_s: int) -> HeldOut:
        """Set up teacher layers as blocks against one student layer."""
        edges = np.cumsum([0] + [sample.width(kind, at) for at in layers]).tolist()
        return cls(sample.pairing(kind, layers, layer_s), list(pairwise(edges)))

    def _table(self, measure: Callable) -> torch.Tensor:
        """Return [F, F, ...]: entry (f, g) is tested on g without f; the diagonal is zero."""
        entries = {}
        for (f, g), train, tests in self.pairs:
            entries[f, g], entries[g, f] = measure(train, tests)
        zero = torch.zeros_like(next(iter(entries.values())))
        return torch.stack(
            [torch.stack([entries.get((f, g), zero) for g in range(self.count)]) for f in range(self.count)]
        )

    def rss(self, chosen: tuple[int, ...]) -> torch.Tensor:
        """Return the RSS [F, F, penalties], summed over channels."""
        if chosen not in self._rss:
            columns = torch.cat([torch.arange(*self.blocks[i]) for i in chosen]).to(self.tss.device)

            def measure(train, tests) -> list[torch.Tensor]:
                maps = ridge_path(train.features(columns), SEARCH_PENALTIES)
                return [metrics.residual_squares(test.features(columns), maps).double().sum(-1) for test in tests]

            self._rss[chosen] = self._table(measure)
        return self._rss[chosen]

    def r2(self, chosen: tuple[int, ...], without: int | None = None) -> float:
        """Return R^2 at the better penalty; ``without`` a fold, or over all pairs."""
        folds = slice(None) if without is None else slice(without, without + 1)
        return float(1 - (self.rss(chosen)[folds].sum((0, 1)) / self.tss[folds].sum()).min())

    def greedy(self, most: int, without: int | None, allowed: Sequence[int]) -> tuple[int, ...]:
        """Add blocks one by one up to ``most``, the best first, while each gains ``LEAST_GAIN``."""
        chosen: tuple[int, ...] = ()
        reached = -np.inf
        while len(chosen) < min(most, len(allowed)):
            options = [tuple(sorted((*chosen, i))) for i in allowed if i not in chosen]
            scores = torch.tensor([self.r2(option, without) for option in options], dtype=torch.float64)
            best = options[int(first_of_the_best(scores))]
            gained = self.r2(best, without) - reached
            if chosen and not gained >= LEAST_GAIN:
                break
            chosen, reached = best, self.r2(best, without)
        return chosen
