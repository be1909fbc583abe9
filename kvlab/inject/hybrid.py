"""Leave a part of the prefix to the student itself, its first layers or its last tokens, and measure what is left.

    layers  the own keys and values in the first k layers with a cache, the replaced ones above them
    tokens  the own keys and values of the last m tokens, which the student has made from its whole own prefix
    read    the last m tokens are read by the student after the replaced cache of those before them

``tokens`` is what perfect keys and values of m tokens would give; only ``read`` costs m tokens of prefill.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from kvlab.inject.continuation import Variant, continued
from kvlab.inject.own import Own
from kvlab.inject.prefix import Models, Prefix, Reading
from kvlab.inject.scores import Damaged, PerDocument, damage
from kvlab.results.function import data
from kvlab.results.function.data import Hybrid

SOURCES = (*data.SOURCES, "own-tokens")  # the control: as much of the prefix is the student's own, and no teacher

Place = tuple[str, str, int]  # source, part, how many layers or tokens are the student's own


def ladder(longest: int) -> list[int]:
    """Return 0, 1, 2, 4, 8, ... below ``longest``, and ``longest``."""
    powers = [2**n for n in range(longest.bit_length()) if 2**n < longest]
    return [0, *powers, longest]


class Hybrids:
    """The damage of every hybrid, document by document; ``harmed[place]``."""

    def __init__(self, models: Models, longest: int):
        """``longest``: most tokens of a judged prefix; a shorter one is the student's own as a whole from there on."""
        self.models, self.tokens = models, ladder(longest)
        self.cuts: list[int] = []
        self.harmed: dict[Place, PerDocument] = {}

    def add(self, reading: Reading, prefix: Prefix, damaged: Mapping[str, Damaged]) -> None:
        """Add a document. ``damaged``: of the variants that replace the whole prefix, where nothing is left own."""
        layers = range(1, len(self.models.student.geometry.kv_layers) + 1)
        tokens = sorted({min(m, prefix.cut) for m in self.tokens if m})
        sources = [source for source in SOURCES if source in prefix.cached]
        found = {(source, part, 0): damaged[source] for source in sources for part in ("layers", "tokens", "read")}
        places = [(source, "layers", k) for source in sources for k in layers]
        places += [(source, "tokens", m) for source in sources for m in tokens]
        at_once = max(1, self.models.settings.batch_tokens // len(reading.own.tokens) - 1)
        for first in range(0, len(places), at_once):
            some = places[first : first + at_once]
            variants = [kept_own(reading.own, prefix, *place) for place in some]
            found |= zip(some, self._damaged(reading.own, prefix.cut, 0, prefix.rows, variants))
        for m in tokens:
            before = prefix.rows < prefix.cut - m
            variants = [_first_rows(prefix.variant(source), before) for source in sources]
            read = self._damaged(reading.own, prefix.cut, m, prefix.rows[before], variants)
            found |= {(source, "read", m): value for source, value in zip(sources, read)}
        self.cuts.append(prefix.cut)
        for source in sources:
            for k in (0, *layers):
                self._keep((source, "layers", k), found[source, "layers", k])
            for part in ("tokens", "read"):
                for m in self.tokens:
                    self._keep((source, part, m), found[source, part, min(m, prefix.cut)])

    def _keep(self, place: Place, damaged: Damaged) -> None:
        self.harmed.setdefault(place, PerDocument()).documents.append(damaged)

    def _damaged(self, own: Own, cut: int, read: int, rows: torch.Tensor, variants: list[Variant]) -> list[Damaged]:
        """Compare the continuation from ``cut`` on, after the last ``read`` tokens of the prefix are read."""
        logits = continued(self.models.student, own, cut - read, rows, [Variant("own"), *variants])[:, read:]
        return [damage(logits[0], of_variant, own.tokens, cut) for of_variant in logits[1:]]

    def results(self) -> list[Hybrid]:
        layers = len(self.models.student.geometry.kv_layers)
        rows = []
        for (source, part, kept), damaged in self.harmed.items():
            own_tokens = sum(min(kept, cut) for cut in self.cuts)
            share = kept / layers if part == "layers" else own_tokens / sum(self.cuts)
            numbers = (*damaged.mean("kl"), *damaged.mean("delta_ce"))
            rows.append(Hybrid(source, part, kept, share, *numbers, n=damaged.n, documents=len(damaged)))
        return rows


def kept_own(own: Own, prefix: Prefix, source: str, part: str, kept: int) -> Variant:
    """Return the variant of a source that leaves the first layers, or the last tokens, as the student's own."""
    replaced = prefix.cached[source]
    if part == "layers":
        return Variant(source, {problem: x for problem, x in replaced.items() if problem[1] >= kept})
    last = (prefix.rows >= prefix.cut - kept)[:, None]
    own_rows = {problem: own.stored[problem][:, prefix.rows] for problem in replaced}
    return Variant(source, {problem: torch.where(last, own_rows[problem], x) for problem, x in replaced.items()})


def _first_rows(variant: Variant, first: torch.Tensor) -> Variant:
    """Return the variant with those of its steps that ``first`` [N] marks."""
    return Variant(variant.name, {problem: x[:, first] for problem, x in variant.replaced.items()})
