"""Add the rows of every batch to the sums from which every score follows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Protocol

import torch

from kvlab.align.batches import Rows
from kvlab.align.blocks import FeatureName, Layout
from kvlab.align.fold_sums import APART, SCORED, Classes, FoldSums, Pairing, Part, add_targets, add_unweighted, beside
from kvlab.align.layer_sums import Gathered, SomeSources
from kvlab.align.layers import Choice, taken
from kvlab.align.moments import HOST, HeadGrams, pilot_of
from kvlab.align.own_tokens import own_token_width
from kvlab.align.shapes import target_shape
from kvlab.shapes import KINDS, Geometry

Target = tuple[str, int]  # kind, student layer
TEACHER_TOKEN, OWN_TOKENS = "teacher's token", "own tokens"  # what is known without any cache of the teacher


class Source(Protocol):
    """Rows of a batch (``at`` a part) or of a sample (``at`` a group)."""

    def side_by_side(self, kind: str, layers: Sequence[int], at: Any) -> torch.Tensor: ...  # [N, sum of P]

    def y(self, kind: str, layer: int, at: Any) -> torch.Tensor: ...  # [N, Q]

    def e(self, at: Any) -> torch.Tensor: ...  # [N, E] the teacher's token

    def own(self, at: Any) -> torch.Tensor: ...  # [N, 3 Es] the student's token and the two before it

    def weights(self, layer: int, at: Any) -> torch.Tensor | None: ...  # [N] in the fit of a student layer; None: 1


# Targets whose problem of a token control is one, by head width and, where rows have weights, by student layer.
Beside = tuple[int, int | None]


def side_by_side(student: Geometry, weighted: bool) -> dict[Beside, list[Target]]:
    """The targets of a student by what they can share; ``weighted``: rows have other weights in every layer."""
    groups: dict[Beside, list[Target]] = {}
    for kind, layer in product(KINDS, range(len(student.kv_layers))):
        width = target_shape(student, kind, layer)[1]
        groups.setdefault((width, layer if weighted else None), []).append((kind, layer))
    return groups


@dataclass
class TokenSums:
    """One set of token features against every target."""

    features: FoldSums | None = None
    targets: dict[Beside, FoldSums] = field(default_factory=dict)
    weighted: dict[Beside, FoldSums] = field(default_factory=dict)  # features of the fitted rows, if they have weights


@dataclass
class AlignSums:
    """The sums of one set of features against the student: per kind and student layer, and of the tokens alone.

    All student layers share the sums of the features, behind which the features of the student's own token stand;
    those with heads of one width share the problem of each token control. Of the same targets the spread of each head
    is kept. Rows are shifted by their pilots once, however many sums they enter. Where fitted rows have weights, which
    differ by student layer, layers share only the sums of the scored rows.
    """

    choices: dict[str, list[Choice]]
    folds: int
    token_layers: dict[Beside, list[Target]] = field(default_factory=dict)  # targets side by side
    features: dict[str, FoldSums] = field(default_factory=dict)  # of all layers that some student layer takes, by kind
    targets: dict[Target, FoldSums] = field(default_factory=dict)
    weighted: dict[Target, FoldSums] = field(default_factory=dict)  # features of the fitted rows, if they have weights
    tokens: dict[str, TokenSums] = field(default_factory=dict)  # TEACHER_TOKEN, OWN_TOKENS
    spreads: dict[Beside, FoldSums] = field(default_factory=dict)  # HeadGrams of the scored rows, likewise
    own_width: int = 0  # features of the student's own token; 0 where tokens are not asked for
    in_hand: int | None = None  # the fold whose sums lie on the device; those of the others are on the host
    gathered: Gathered = field(default_factory=Gathered)
    problems: dict[tuple[str, tuple[int, ...]], SomeSources] = field(default_factory=dict)  # by kind and teacher layers

    def add(self, fold: int, part: Part, rows: Source, at: Any) -> None:
        """Add the rows ``at`` a part of a batch or a group of a sample, which are of one fold and use."""
        if fold != self.in_hand:
            self.put_away(fold)
        own = rows.own(at) if self.token_layers else None
        self.gathered.clear()
        targets: dict[Target, torch.Tensor] = {}
        for kind in KINDS:
            every = self.x(kind, taken(self.choices[kind]), rows, at)
            if kind not in self.features:
                self._begin(kind, every)
            every = self.features[kind].shift(every)
            add_unweighted(self.features[kind], fold, part, every, rows.weights(0, at))
            for layer, choice in enumerate(self.choices[kind]):
                features = self.problems[kind, choice.union]
                x, y, weights = features.of(every), rows.y(kind, layer, at), rows.weights(layer, at)
                if (kind, layer) not in self.targets:
                    self.targets[kind, layer] = FoldSums((features.pilots[0], pilot_of(y)), self.folds)
                targets[kind, layer] = self.targets[kind, layer].shift(y)
                if weights is not None:
                    self.weighted.setdefault((kind, layer), FoldSums(features.pilots, self.folds))
                of_layer = self.targets[kind, layer], self.weighted.get((kind, layer))
                add_targets(*of_layer, fold, part, x, targets[kind, layer], weights)
        if own is not None:
            weights = {layer: rows.weights(layer, at) for layer in range(len(self.choices[KINDS[0]]))}
            self._add_tokens(OWN_TOKENS, fold, part, own, targets, weights)
            self._add_tokens(TEACHER_TOKEN, fold, part, rows.e(at), targets, weights)
            self._add_spreads(fold, part, targets)

    def _begin(self, kind: str, every: torch.Tensor) -> None:
        """``every`` [N, P]: the first rows of the features of all layers, and of the own token behind them."""
        widths: dict[FeatureName, int] = {}
        for choice in self.choices[kind]:
            widths |= dict(zip(choice.union, choice.widths))
        own = (OWN_TOKENS,) if self.own_width else ()
        widths = {layer: widths[layer] for layer in taken(self.choices[kind])} | dict.fromkeys(own, self.own_width)
        unions = dict.fromkeys(choice.union for choice in self.choices[kind])
        layout = Layout.of(widths, [(*union, *own) for union in unions])
        self.features[kind] = FoldSums((pilot_of(every),), self.folds, layout=layout)
        for union in unions:
            self.problems[kind, union] = SomeSources(self.features[kind], (*union, *own), self.gathered)

    def put_away(self, but: int | None = None) -> None:
        """Move the sums of all folds ``but`` one to the host."""
        self.in_hand = but
        if any(sums.device != HOST for sums in self.features.values()):
            for sums in self.all().values():
                sums.put_away(but)

    def x(self, kind: str, union: Sequence[int], rows: Source, at: Any) -> torch.Tensor:
        """[N, P]: the features of some teacher layers and, where tokens are asked for, of the student's own token."""
        x = rows.side_by_side(kind, union, at)
        if not self.token_layers:
            return x
        own = rows.own(at)
        self.own_width = own_token_width(own.shape[1])
        return torch.cat([x, own[:, : self.own_width].to(x.dtype)], dim=1)

    def add_batch(self, rows: Rows) -> None:
        """Add the rows of a batch except those that are scored separately."""
        for part in rows.parts:
            if part.use not in APART:
                self.add(rows.fold, part, rows, part)

    def _add_tokens(
        self,
        name: str,
        fold: int,
        part: Part,
        embedded: torch.Tensor,
        targets: dict[Target, torch.Tensor],
        weights: dict[int, torch.Tensor | None],
    ) -> None:
        sums = self.tokens.setdefault(name, TokenSums())
        if sums.features is None:
            sums.features = FoldSums((pilot_of(embedded),), self.folds)
        x = sums.features.shift(embedded)
        add_unweighted(sums.features, fold, part, x, weights[0])
        for group, members in self.token_layers.items():
            row_weights = weights[members[0][1]]
            if group not in sums.targets:
                pilot = torch.cat([self.targets[target].pilots[1] for target in members])
                sums.targets[group] = FoldSums((sums.features.pilots[0], pilot), self.folds)
                if row_weights is not None:
                    sums.weighted[group] = FoldSums(sums.features.pilots, self.folds)
            y = torch.cat([targets[target] for target in members], dim=1)
            add_targets(sums.targets[group], sums.weighted.get(group), fold, part, x, y, row_weights)

    def _add_spreads(self, fold: int, part: Part, targets: dict[Target, torch.Tensor]) -> None:
        if part.use not in SCORED:
            return
        for group, members in self.token_layers.items():
            y = torch.cat([targets[target] for target in members], dim=1)
            if group not in self.spreads:
                pilot = torch.cat([self.targets[target].pilots[1] for target in members])
                self.spreads[group] = FoldSums((pilot,), self.folds, heads=y.shape[1] // group[0])
            self.spreads[group].add_shifted(fold, part, y)

    def pairing(self, kind: str, layer: int, with_own_token: bool = False) -> Pairing:
        """Teacher layers, and where asked for the student's own token beside them, against one student layer."""
        choice = self.choices[kind][layer]
        own_width = self.own_width if with_own_token else 0
        columns = choice.columns_of_folds(own_width)
        if columns is None and self.own_width and not with_own_token:
            columns = [choice.columns(choice.union)] * self.folds
        sums = self.problems[kind, choice.union], self.targets[kind, layer]
        return Pairing(*sums, columns, weighted=self.weighted.get((kind, layer)))

    def together(self, kind: str) -> Pairing:
        """All student layers side by side, which take the same teacher layers."""
        return beside([self.pairing(kind, layer) for layer in range(len(self.choices[kind]))])

    def columns(self, kind: str, layer: int, with_own_token: bool = False) -> torch.Tensor:
        """The features of a map fitted on every fold."""
        choice = self.choices[kind][layer]
        first = sum(choice.widths)
        own = torch.arange(first, first + (self.own_width if with_own_token else 0))
        return torch.cat([choice.columns(choice.overall), own])

    def token_pairing(self, name: str, beside: Beside) -> Pairing:
        """A set of token features against ``token_layers[beside]`` side by side."""
        sums = self.tokens[name]
        return Pairing(sums.features, sums.targets[beside], weighted=sums.weighted.get(beside))

    def spread(self, kind: str, layer: int, classes: Classes) -> list[HeadGrams]:
        """[F] of the heads of one target, over the rows that each fold is scored on."""
        group = next(group for group, targets in self.token_layers.items() if (kind, layer) in targets)
        before = self.token_layers[group][: self.token_layers[group].index((kind, layer))]
        first, count = (sum(self._heads(t, group[0]) for t in targets) for targets in (before, [(kind, layer)]))
        return [fold.select(first, count) for fold in self.spreads[group].score(classes)]

    def _heads(self, target: Target, width: int) -> int:
        return len(self.targets[target].pilots[1]) // width

    def all(self) -> dict[str, FoldSums]:
        """Return every sum by a name that includes its layers."""
        named = {f"features {kind} {sums.layout}": sums for kind, sums in self.features.items()}
        named |= {f"targets {kind} {layer}": sums for (kind, layer), sums in self.targets.items()}
        named |= {f"weighted {kind} {layer}": sums for (kind, layer), sums in self.weighted.items()}
        for name, sums in self.tokens.items():
            named[name] = sums.features
            named |= {f"{name} {beside}": of_targets for beside, of_targets in sums.targets.items()}
            named |= {f"{name} weighted {beside}": features for beside, features in sums.weighted.items()}
        return named | {f"spread {beside}": sums for beside, sums in self.spreads.items()}
