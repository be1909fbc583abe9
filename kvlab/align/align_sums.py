"""Add the rows of every batch to the sums from which every score follows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from kvlab.align.batches import Rows
from kvlab.align.fold_sums import APART, FIT_ONLY, FoldSums, Pairing
from kvlab.align.layers import Choice
from kvlab.align.moments import HeadGrams, pilot_of
from kvlab.shapes import KINDS

Target = tuple[str, int]  # kind, student layer


class Source(Protocol):
    """Rows of a batch (``at`` a part) or of a sample (``at`` a group)."""

    def side_by_side(self, kind: str, layers: Sequence[int], at: Any) -> torch.Tensor: ...  # [N, sum of P]

    def y(self, kind: str, layer: int, at: Any) -> torch.Tensor: ...  # [N, Q]

    def e(self, at: Any) -> torch.Tensor: ...  # [N, E]


@dataclass
class AlignSums:
    """The sums of one set of features against the student: per kind and student layer, and of the token identity.

    Student layers with the same teacher layers share the sums of the features. Student layers with heads of one width
    share the problem of the token identity and the spread of each head. Rows are shifted by their pilots once, however
    many sums they enter.
    """

    choices: dict[str, list[Choice]]
    folds: int
    identity_layers: dict[int, list[Target]] = field(default_factory=dict)  # head width -> targets side by side
    features: dict[tuple[str, tuple[int, ...]], FoldSums] = field(default_factory=dict)
    targets: dict[Target, FoldSums] = field(default_factory=dict)
    identity_features: FoldSums | None = None
    identity_targets: dict[int, FoldSums] = field(default_factory=dict)
    spreads: dict[int, FoldSums] = field(default_factory=dict)  # HeadGrams of the scored rows, by width likewise

    def add(self, fold: int, part: str, rows: Source, at: Any) -> None:
        """Add the rows ``at`` a part of a batch or a group of a sample; all are of one fold and use."""
        targets: dict[Target, torch.Tensor] = {}
        for kind in KINDS:
            for union in dict.fromkeys(choice.union for choice in self.choices[kind]):
                x = rows.side_by_side(kind, union, at)
                if (kind, union) not in self.features:
                    self.features[kind, union] = FoldSums((pilot_of(x),), self.folds)
                features = self.features[kind, union]
                x = features.shift(x)
                features.add_shifted(fold, part, x)
                for layer, choice in enumerate(self.choices[kind]):
                    if choice.union == union:
                        y = rows.y(kind, layer, at)
                        if (kind, layer) not in self.targets:
                            self.targets[kind, layer] = FoldSums((features.pilots[0], pilot_of(y)), self.folds)
                        targets[kind, layer] = self.targets[kind, layer].shift(y)
                        self.targets[kind, layer].add_shifted(fold, part, x, targets[kind, layer])
        if self.identity_layers:
            self._add_identity(fold, part, rows.e(at), targets)

    def add_batch(self, rows: Rows) -> None:
        """Add the rows of a batch except those that are scored separately."""
        for part in rows.parts:
            if part not in APART:
                self.add(rows.fold, part, rows, part)

    def _add_identity(self, fold: int, part: str, embedded: torch.Tensor, targets: dict[Target, torch.Tensor]) -> None:
        if self.identity_features is None:
            self.identity_features = FoldSums((pilot_of(embedded),), self.folds)
        x = self.identity_features.shift(embedded)
        self.identity_features.add_shifted(fold, part, x)
        for width, layers in self.identity_layers.items():
            if width not in self.identity_targets:
                pilot = torch.cat([self.targets[target].pilots[1] for target in layers])
                self.identity_targets[width] = FoldSums((self.identity_features.pilots[0], pilot), self.folds)
            y = torch.cat([targets[target] for target in layers], dim=1)
            self.identity_targets[width].add_shifted(fold, part, x, y)
            if part != FIT_ONLY:
                if width not in self.spreads:
                    pilot = self.identity_targets[width].pilots[1]
                    self.spreads[width] = FoldSums((pilot,), self.folds, heads=y.shape[1] // width)
                self.spreads[width].add_shifted(fold, part, y)

    def pairing(self, kind: str, layer: int) -> Pairing:
        choice = self.choices[kind][layer]
        features = self.features[kind, choice.union]
        return Pairing(features, self.targets[kind, layer], choice.columns_of_folds())

    def identity(self, width: int) -> Pairing:
        """Pair the token embedding with ``identity_layers[width]`` side by side."""
        return Pairing(self.identity_features, self.identity_targets[width])

    def spread(self, kind: str, layer: int) -> list[HeadGrams]:
        """Return [F] the sums of the heads of one target, over the scored rows of each fold."""
        width = next(width for width, targets in self.identity_layers.items() if (kind, layer) in targets)
        before = self.identity_layers[width][: self.identity_layers[width].index((kind, layer))]
        first = sum(self._heads(target, width) for target in before)
        count = self._heads((kind, layer), width)
        return [fold.select(first, count) for fold in self.spreads[width].score()]

    def _heads(self, target: Target, width: int) -> int:
        return len(self.targets[target].pilots[1]) // width

    def all(self) -> dict[str, FoldSums]:
        """Return every sum by a name that includes its layers."""
        named = {f"features {kind} {union}": sums for (kind, union), sums in self.features.items()}
        named |= {f"targets {kind} {layer}": sums for (kind, layer), sums in self.targets.items()}
        named |= {f"identity {width}": sums for width, sums in self.identity_targets.items()}
        named |= {f"spread {width}": sums for width, sums in self.spreads.items()}
        return named | {"identity": self.identity_features}
