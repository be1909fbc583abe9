"""Choose the teacher layers for each student layer (positions among the layers that keep a cache).

``depth`` looks at the numbers of layers only. ``cka`` takes the most similar layer. ``heldout`` puts layers side by
side, the nearest in depth first, as many as explain held-out documents best: up to all, or to ``MOST_FEATURES``. What
is chosen for scoring a fold is chosen without that fold's documents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch

from kvlab.align import metrics, similarity
from kvlab.align.crossfit import pairs
from kvlab.align.fold_sums import Pairing, total
from kvlab.align.moments import about_own_mean, centred, pilot_of
from kvlab.align.projectors import ridge_path
from kvlab.align.sample import Sample
from kvlab.align.ties import first_of_the_best
from kvlab.request.align import MOST_FEATURES, AlignSettings
from kvlab.shapes import KINDS, Progress, depth, nearest_layers

RULES = ("depth", "cka", "heldout")
BAND = 2  # teacher layers on each side of the proportional depth that ``cka`` and the table of single layers look at
SEARCH_PENALTIES = (1e-4, 1e-2, 1.0)


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

    def among(self, other: Choice) -> Choice:
        """The same layers as a choice among the features of another choice, which holds them all."""
        return replace(self, union=other.union, widths=other.widths)

    def columns(self, layers: Sequence[int]) -> torch.Tensor:
        """Return the positions of the features of some layers of the union."""
        edges = np.cumsum((0, *self.widths)).tolist()
        return torch.cat([torch.arange(edges[i], edges[i + 1]) for i, at in enumerate(self.union) if at in layers])

    def columns_of_folds(self, behind: int = 0) -> list[torch.Tensor] | None:
        """[F] the features that each fold may use, and ``behind`` further ones; None where every fold uses all."""
        if all(layers == self.union for layers in self.of_fold):
            return None
        first = sum(self.widths)
        others = torch.arange(first, first + behind)
        return [torch.cat([self.columns(layers), others]) for layers in self.of_fold]


def taken(choices: Sequence[Choice]) -> tuple[int, ...]:
    """All teacher layers that some student layer may take."""
    return tuple(sorted({layer for choice in choices for layer in choice.union}))


@dataclass
class LayerSearch:
    """The chosen layers, and the matrices behind the choice."""

    rule: str
    choices: dict[str, list[Choice]] = field(default_factory=dict)  # by kind, per student layer
    matrices: dict[str, np.ndarray] = field(default_factory=dict)  # ``similarity.KIND.NAME`` [Ls, Lt]
    rows: int = 0  # of the sample


def nearest(sample: Sample) -> dict[str, list[Choice]]:
    """Return the one teacher layer nearest in depth to each student layer, by kind."""
    by_depth = depth(sample.layers_t, sample.layers_s)
    return {
        kind: [Choice.of((at,), [(at,)] * sample.folds, partial(sample.width, kind)) for at in by_depth]
        for kind in KINDS
    }


def every_layer(sample: Sample, settings: AlignSettings) -> dict[str, list[Choice]] | None:
    """All teacher layers for each student layer, where ``choose`` looks at all at once, on rows that count alike."""
    if settings.layers != "heldout" or sample.folds < 3 or settings.row_weights != "equal":
        return None
    every = tuple(range(sample.layers_t))
    if any(sum(sample.width(kind, at) for at in every) > MOST_FEATURES for kind in KINDS):
        return None
    choices = {kind: Choice.of(every, [every] * sample.folds, partial(sample.width, kind)) for kind in KINDS}
    return {kind: [choice] * sample.layers_s for kind, choice in choices.items()}


def choose(
    sample: Sample, settings: AlignSettings, progress: Progress, together: Callable[[str], Pairing] | None = None
) -> LayerSearch:
    """Layers by the rule of ``settings``, with the CKA of all pairs of layers, its null and the student's own.

    ``together``: the sums of ``every_layer`` against all student layers side by side, by kind, where they are at hand.

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
            of_all = together and together(kind)
            chosen = _best_explaining(sample, kind, by_depth, candidates, search, settings.search, step, of_all)
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
    by_depth: Sequence[int],
    candidates: list[list[int]],
    search: LayerSearch,
    extent: str,
    step: Callable[[int], None],
    of_all: Pairing | None,
) -> list[tuple[tuple, list[tuple]]]:
    """For every student layer, of the sets that grow by the next best layer the one that explains most."""
    singles = np.full((sample.layers_s, sample.layers_t), np.nan)
    widths = [sample.width(kind, at) for at in range(sample.layers_t)]
    everything = sum(widths) <= MOST_FEATURES
    problem = None
    if everything:
        problem = HeldOut.of(sample, kind, range(sample.layers_t), range(sample.layers_s), of_all)
    choices = []
    for layer, allowed in enumerate(candidates):
        step(layer)
        nearest = nearest_layers(sample.layers_t, by_depth[layer])
        if problem is None:
            alone = {at: HeldOut.of(sample, kind, [at], [layer]) for at in allowed}
        else:
            alone = dict.fromkeys(allowed, problem)
        for at in allowed:
            singles[layer, at] = alone[at].r2((at,), layer)

        def order(fold: int | None, layer: int = layer, nearest: list[int] = nearest, alone: dict = alone) -> list[int]:
            if extent != "full":
                return nearest
            return _best_first({at: alone[at].r2((at,), layer, fold) for at in alone})

        orders = {fold: order(fold) for fold in (None, *range(sample.folds))}
        growing = {fold: _growing(of_fold, widths) for fold, of_fold in orders.items()}
        here = problem
        if here is None:
            here = HeldOut.of(sample, kind, sorted({at for sets in growing.values() for at in sets[-1]}), [layer])
        best = {fold: here.best(sets, layer, fold) for fold, sets in growing.items()}
        choices.append((best[None], [best[fold] for fold in range(sample.folds)]))
    search.matrices[f"similarity.{kind}.r2"] = singles
    return choices


def _best_first(scores: Mapping[int, float]) -> list[int]:
    """Layers by falling score; of those that are as good, the first one first."""
    left, order = list(scores), []
    while left:
        of_left = torch.tensor([scores[at] for at in left], dtype=torch.float64)
        order.append(left.pop(int(first_of_the_best(of_left))))
    return order


def _growing(order: Sequence[int], widths: Sequence[int]) -> list[tuple[int, ...]]:
    """The first 1, 2, 4, 8, ... layers of an order, and as many as ``MOST_FEATURES`` allow."""
    features = np.cumsum([widths[at] for at in order])
    most = max(1, int((features <= MOST_FEATURES).sum()))
    sizes = sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)})
    return [tuple(sorted(order[:size])) for size in sizes]


class HeldOut:
    """Ridge on subsets of teacher layers, tested on folds that the map has not seen, over all classes of rows.

    For every pair of folds (f, g) a map is fitted without both and tested on g: what is chosen for f has
    seen nothing of f, neither in the fit nor in the test.
    """

    def __init__(self, pairing: Pairing, features: dict[int, tuple[int, int]], targets: dict[int, tuple[int, int]]):
        """``features`` of each teacher layer and ``targets`` of each student layer: first and last column."""
        self.features, self.targets, self.count = features, targets, pairing.features.folds
        self.pairs = []
        for of_class in pairing.by_class():
            fit_x, fit_y = of_class.fit()
            all_x, all_y = total(fit_x), total(fit_y)
            for f, g in pairs(self.count):
                train = about_own_mean(all_x - fit_x[f] - fit_x[g], all_y - fit_y[f] - fit_y[g])
                tests = [centred(fit_x[at], fit_y[at], train.mean_x, train.mean_y) for at in (g, f)]
                self.pairs.append(((f, g), train.single(), [test.single() for test in tests]))
        self.tss = self._table(lambda train, tests: [self._per_target(test.yy) for test in tests])  # [F, F, Ls]
        self._rss: dict[tuple[int, ...], torch.Tensor] = {}

    @classmethod
    def of(
        cls,
        sample: Sample,
        kind: str,
        layers: Sequence[int],
        targets: Sequence[int],
        pairing: Pairing | None = None,
    ) -> HeldOut:
        """Teacher layers against student layers. ``pairing``: their sums, where they are at hand."""

        def places(widths: Sequence[int], names: Sequence[int]) -> dict[int, tuple[int, int]]:
            return dict(zip(names, pairwise(np.cumsum([0, *widths]).tolist())))

        pairing = pairing or sample.pairing(kind, layers, targets)
        features = places([sample.width(kind, at) for at in layers], layers)
        group = sample.groups[0]
        return cls(pairing, features, places([sample.y(kind, at, group).shape[1] for at in targets], targets))

    def _per_target(self, channels: torch.Tensor) -> torch.Tensor:
        """[..., Q] -> [..., Ls] in float64."""
        return torch.stack([channels[..., a:b].double().sum(-1) for a, b in self.targets.values()], dim=-1)

    def _table(self, measure: Callable) -> torch.Tensor:
        """[F, F, ...]: entry (f, g) is tested on g without f; the diagonal is zero."""
        entries: dict[tuple[int, int], torch.Tensor] = {}
        for (f, g), train, tests in self.pairs:
            for at, value in zip(((f, g), (g, f)), measure(train, tests)):
                entries[at] = entries[at] + value if at in entries else value
        zero = torch.zeros_like(next(iter(entries.values())))
        return torch.stack(
            [torch.stack([entries.get((f, g), zero) for g in range(self.count)]) for f in range(self.count)]
        )

    def rss(self, chosen: tuple[int, ...], targets: tuple[int, ...]) -> torch.Tensor:
        """[F, F, penalties, targets], summed over channels and classes."""
        if (chosen, targets) not in self._rss:
            device = self.tss.device
            columns = torch.cat([torch.arange(*self.features[at]) for at in chosen]).to(device)
            channels = torch.cat([torch.arange(*self.targets[at]) for at in targets]).to(device)
            widths = [self.targets[at][1] - self.targets[at][0] for at in targets]

            def measure(train, tests) -> list[torch.Tensor]:
                some = [sums.features(columns).targets(channels) for sums in (train, *tests)]
                maps = ridge_path(some[0], SEARCH_PENALTIES)
                squares = [metrics.residual_squares(test, maps).double() for test in some[1:]]
                return [torch.stack([s.sum(-1) for s in of_test.split(widths, dim=-1)], dim=-1) for of_test in squares]

            self._rss[chosen, targets] = self._table(measure)
        return self._rss[chosen, targets]

    def r2(self, chosen: tuple[int, ...], target: int, without: int | None = None) -> float:
        """Of a student layer at the best penalty; ``without`` a fold, or over all pairs."""
        of = slice(None) if without is None else slice(without, without + 1)
        # All layers are one set for every student layer; others are the neighbours of one.
        targets = tuple(self.targets) if len(chosen) == len(self.features) else (target,)
        rss = self.rss(chosen, targets)[of, ..., targets.index(target)].sum((0, 1))
        return float(1 - (rss / self.tss[of, :, list(self.targets).index(target)].sum()).min())

    def best(self, sets: Sequence[tuple[int, ...]], target: int, without: int | None) -> tuple[int, ...]:
        """The set that explains a student layer best; of equals the first."""
        scores = torch.tensor([self.r2(chosen, target, without) for chosen in sets], dtype=torch.float64)
        return sets[int(first_of_the_best(scores))]
