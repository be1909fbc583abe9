"""One layer's, then one head's, keys or values of the prefix replaced and nothing else: which damage does what."""

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

SOURCES = ("projected", "mean")  # the mean is the control: the part is there, and says nothing
Place = tuple[str, int, int | None]  # "key" | "value" | "both", position of the layer, head or None for all


@dataclass
class Budget:
    """What swaps may take; None: without limit."""

    seconds: float | None
    forwards: int | None
    spent: float = 0.0  # seconds of swaps
    used: int = 0  # forwards

    def over(self, share: float = 1.0) -> bool:
        """Whether ``share`` of it is used up: whole layers get a half, so that something is left for their heads."""
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


def worst_layers(found: dict[tuple[str, Place], PerDocument], student: Geometry, most: int) -> list[int]:
    """The layers whose replacement costs most (KL, keys and values together), in their own order."""
    cost = {n: found["projected", ("both", n, None)].mean("kl")[0] for n in range(len(student.kv_layers))}
    return sorted(sorted(cost, key=cost.get, reverse=True)[:most])


class Swaps:
    """The damage of every swap, document by document; ``found[source, place]``."""

    def __init__(self, models: Models, budget: Budget):
        self.models, self.budget = models, budget
        self.found: dict[tuple[str, Place], PerDocument] = {}

    def add(self, reading: Reading, prefix: Prefix, places: Sequence[Place]) -> None:
        """Several swaps a forward: each is a row of the batch, beside the own cache that they are compared with."""
        started = clock.perf_counter()
        wanted = [(source, place) for place in places for source in SOURCES]
        tokens = reading.own.tokens
        at_once = max(1, self.models.settings.batch_tokens // len(tokens) - 1)
        for first in range(0, len(wanted), at_once):
            some = wanted[first : first + at_once]
            variants = [Variant("own"), *(_variant(prefix, *which) for which in some)]
            logits = continued(self.models.student, reading.own, prefix.cut, prefix.rows, variants)
            self.budget.used += 1
            for which, of_swap in zip(some, logits[1:]):
                harmed = damage(logits[0], of_swap, tokens, prefix.cut)
                self.found.setdefault(which, PerDocument()).found.append(harmed)
        self.budget.spent += clock.perf_counter() - started

    def results(self) -> list[Swap]:
        student, swaps = self.models.student.geometry, []
        for source, place in self.found:
            if source != "projected":
                continue
            kind, position, head = place
            projected, mean = (self.found[name, place] for name in SOURCES)
            numbers = (*projected.mean("kl"), *projected.mean("delta_ce"), *mean.mean("kl"), *mean.mean("delta_ce"))
            swaps.append(
                Swap(kind, student.kv_layers[position], head, *numbers, n=projected.n, documents=len(projected))
            )
        return swaps


def _variant(prefix: Prefix, source: str, place: Place) -> Variant:
    kind, position, head = place
    kinds = KINDS if kind == "both" else (kind,)
    return Variant(source, {(k, position): prefix.cached[source][k, position] for k in kinds}, head)
