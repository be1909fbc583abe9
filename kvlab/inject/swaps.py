"""Replace keys or values of the prefix in one layer, then in one head, and nothing else; measure the damage of each."""

from __future__ import annotations

import time as clock
from collections.abc import Sequence
from dataclasses import dataclass

from kvlab.inject.continuation import Variant, continued
from kvlab.inject.heads import PARTS
from kvlab.inject.prefix import Models, Prefix, Reading
from kvlab.inject.scores import PerDocument, damage
from kvlab.results.function.data import Swap
from kvlab.shapes import KINDS, Geometry

SOURCES = ("projected", "mean")  # the mean is the control: the part is there but carries no information
Place = tuple[str, int, int | None]  # "key" | "value" | "both", position of the layer, head or None for all


@dataclass
class Budget:
    """The limits of all swaps; None: no limit."""

    seconds: float | None
    forwards: int | None
    spent: float = 0.0  # seconds of swaps
    used: int = 0  # forwards

    def over(self, share: float = 1.0) -> bool:
        """Return whether ``share`` of it is used up; whole layers get a half and leave the rest to single heads."""
        late = self.seconds is not None and self.spent >= share * self.seconds
        return late or (self.forwards is not None and self.used >= share * self.forwards)


def layer_places(student: Geometry) -> list[Place]:
    return [(kind, position, None) for position in range(len(student.kv_layers)) for kind in PARTS]


def head_places(student: Geometry, layers: Sequence[int]) -> list[Place]:
    return [
        (kind, position, head)
        for position in layers
        for head in range(student.layer_shapes[position][0])
        for kind in PARTS
    ]


def worst_layers(harmed: dict[tuple[str, Place], PerDocument], student: Geometry, most: int) -> list[int]:
    """Return the layers whose replacement costs most (KL, keys and values together), in the order of layers."""
    cost = {n: harmed["projected", ("both", n, None)].mean("kl")[0] for n in range(len(student.kv_layers))}
    return sorted(sorted(cost, key=cost.get, reverse=True)[:most])


class Swaps:
    """The damage of every swap, document by document; ``harmed[source, place]``."""

    def __init__(self, models: Models, budget: Budget):
        self.models, self.budget = models, budget
        self.harmed: dict[tuple[str, Place], PerDocument] = {}

    def add(self, reading: Reading, prefix: Prefix, places: Sequence[Place]) -> None:
        """Run several swaps per forward: each is a row of the batch, beside the own cache as their reference."""
        started = clock.perf_counter()
        wanted = [(source, place) for place in places for source in SOURCES]
        tokens = reading.own.tokens
        at_once = max(1, self.models.settings.batch_tokens // len(tokens) - 1)
        for first in range(0, len(wanted), at_once):
            some = wanted[first : first + at_once]
            variants = [Variant("own"), *(_variant(prefix, source, place) for source, place in some)]
            logits = continued(self.models.student, reading.own, prefix.cut, prefix.rows, variants)
            self.budget.used += 1
            for swap, swap_logits in zip(some, logits[1:]):
                damaged = damage(logits[0], swap_logits, tokens, prefix.cut)
                self.harmed.setdefault(swap, PerDocument()).documents.append(damaged)
        self.budget.spent += clock.perf_counter() - started

    def results(self) -> list[Swap]:
        student, swaps = self.models.student.geometry, []
        for source, place in self.harmed:
            if source != "projected":
                continue
            kind, position, head = place
            projected, mean = (self.harmed[name, place] for name in SOURCES)
            numbers = (*projected.mean("kl"), *projected.mean("delta_ce"), *mean.mean("kl"), *mean.mean("delta_ce"))
            swaps.append(
                Swap(kind, student.kv_layers[position], head, *numbers, n=projected.n, documents=len(projected))
            )
        return swaps


def _variant(prefix: Prefix, source: str, place: Place) -> Variant:
    kind, position, head = place
    kinds = KINDS if kind == "both" else (kind,)
    return Variant(source, {(k, position): prefix.cached[source][k, position] for k in kinds}, head)
