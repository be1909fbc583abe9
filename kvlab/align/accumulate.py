"""Rows of every batch -> the sums from which every score follows, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from kvlab.align.layers import Choice
from kvlab.align.statistics import pilot_of
from kvlab.align.sums import FoldSums, Pairing
from kvlab.types import KINDS


class Source(Protocol):
    """Rows of a batch (``at`` a part) or of a sample (``at`` a group)."""

    def side_by_side(self, kind: str, layers: Sequence[int], at: Any) -> torch.Tensor: ...  # [N, sum of P]

    def y(self, kind: str, layer: int, at: Any) -> torch.Tensor: ...  # [N, Q]

    def e(self, at: Any) -> torch.Tensor: ...  # [N, E]


@dataclass
class AlignSums:
    """The sums of one set of features against the student: per kind and student layer, and of the token identity.

    Student layers with the same teacher layers share the sums of the features.
    """

    choices: dict[str, list[Choice]]
    folds: int
    identity_layers: dict[tuple[str, int], list[int]] = field(default_factory=dict)  # kind, head width -> layers
    features: dict[tuple[str, tuple[int, ...]], FoldSums] = field(default_factory=dict)
    targets: dict[tuple[str, int], FoldSums] = field(default_factory=dict)
    identity_features: FoldSums | None = None
    identity_targets: dict[tuple[str, int], FoldSums] = field(default_factory=dict)  # columns of all its layers

    def add(self, fold: int, part: str, rows: Source, at: Any) -> None:
        """Add the rows ``at`` a part of a batch or a group of a sample, which are of one fold and use."""
        for kind in KINDS:
            targets = [rows.y(kind, layer, at) for layer in range(len(self.choices[kind]))]
            for union in dict.fromkeys(choice.union for choice in self.choices[kind]):
                x = rows.side_by_side(kind, union, at)
                if (kind, union) not in self.features:
                    self.features[kind, union] = FoldSums((pilot_of(x),), self.folds)
                features = self.features[kind, union]
                features.add(fold, part, x)
                for layer, choice in enumerate(self.choices[kind]):
                    if choice.union == union:
                        self._targets(kind, layer, features, targets[layer]).add(fold, part, x, targets[layer])
            if self.identity_layers:
                self._add_identity(fold, part, kind, rows.e(at), targets)

    def _targets(self, kind: str, layer: int, features: FoldSums, y: torch.Tensor) -> FoldSums:
        if (kind, layer) not in self.targets:
            self.targets[kind, layer] = FoldSums((features.pilots[0], pilot_of(y)), self.folds)
        return self.targets[kind, layer]

    def _add_identity(self, fold: int, part: str, kind: str, embedded: torch.Tensor, targets: list) -> None:
        if self.identity_features is None:
            self.identity_features = FoldSums((pilot_of(embedded),), self.folds)
        if kind == KINDS[0]:
            self.identity_features.add(fold, part, embedded)
        for (of_kind, width), layers in self.identity_layers.items():
            if of_kind != kind:
                continue
            y = torch.cat([targets[layer] for layer in layers], dim=1)
            if (kind, width) not in self.identity_targets:
                self.identity_targets[kind, width] = FoldSums(
                    (self.identity_features.pilots[0], pilot_of(y)), self.folds
                )
            self.identity_targets[kind, width].add(fold, part, embedded, y)

    def pairing(self, kind: str, layer: int) -> Pairing:
        choice = self.choices[kind][layer]
        features = self.features[kind, choice.union]
        return Pairing(features, self.targets[kind, layer], choice.columns_of_folds())

    def identity(self, kind: str, width: int) -> Pairing:
        return Pairing(self.identity_features, self.identity_targets[kind, width])

    def all(self) -> dict[str, FoldSums]:
        """Every sum by a name that also says which layers it is of."""
        named = {f"features {kind} {union}": sums for (kind, union), sums in self.features.items()}
        named |= {f"targets {kind} {layer}": sums for (kind, layer), sums in self.targets.items()}
        named |= {f"identity {kind} {width}": sums for (kind, width), sums in self.identity_targets.items()}
        return named | {"identity": self.identity_features}
