"""Leave a part of the prefix to the student itself, its first layers or its last tokens, and measure what is left.

    layers  the own keys and values in the first k layers with a cache, the replaced ones above them
    tokens  the own keys and values of the last m tokens, which the student has made from its whole own prefix
    read    the last m tokens are read by the student after the replaced cache of those before them

``tokens`` is what perfect keys and values of m tokens would give; only ``read`` costs m tokens of prefill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan

import torch

from kvlab.inject.continuation import Variant, continued
from kvlab.inject.own import Own
from kvlab.inject.prefix import Prefix
from kvlab.inject.scores import Damaged, PerDocument, damage
from kvlab.models.loading import LoadedModel
from kvlab.results.function.data import DocumentDamage, Hybrid
from kvlab.shapes import Document

SOURCES = ("projected", "with-own-token", "own-tokens")  # the last is the control: nothing is the teacher's
LEAST_OF_GROUP = 100  # continuation tokens, for a quantile of a group of documents
Place = tuple[str, str, int]  # source, part, how many layers or tokens are the student's own


def groups_of(document: Document | DocumentDamage) -> list[str]:
    """Return the groups that a document, or what became of it, belongs to."""
    labels = {"language": document.language, "domain": document.domain}
    return [f"{label}: {name}" for label, name in labels.items() if name]


def ladder(longest: int) -> list[int]:
    """Return 0, 1, 2, 4, 8, ... below ``longest``, and ``longest``."""
    powers = [2**n for n in range(longest.bit_length()) if 2**n < longest]
    return [0, *powers, longest]


class Hybrids:
    """The damage of every hybrid, document by document."""

    def __init__(self, student: LoadedModel, batch_tokens: int):
        self.student, self.batch_tokens = student, batch_tokens
        self.layers = len(student.geometry.kv_layers)
        self.cuts: list[int] = []
        self.documents: list[dict[Place, Damaged]] = []  # tokens on the ladder of each document's own prefix
        self.groups: list[list[str]] = []  # of each document

    def add(self, document: Document, own: Own, prefix: Prefix, damaged: Mapping[str, Damaged]) -> None:
        """Add a document. ``damaged``: of the variants that replace the whole prefix, where nothing is left own."""
        self.groups.append(groups_of(document))
        sources = [source for source in SOURCES if source in prefix.cached]
        _, *tokens = ladder(prefix.cut)
        found = {(source, part, 0): damaged[source] for source in sources for part in ("layers", "tokens", "read")}
        places = [(source, "layers", k) for source in sources for k in range(1, self.layers + 1)]
        places += [(source, "tokens", m) for source in sources for m in tokens]
        at_once = max(1, self.batch_tokens // len(own.tokens) - 1)
        for first in range(0, len(places), at_once):
            some = places[first : first + at_once]
            variants = [kept_own(own, prefix, *place) for place in some]
            found |= zip(some, self._damaged(own, prefix.cut, 0, prefix.rows, variants))
        for m in tokens:
            before = prefix.rows < prefix.cut - m
            variants = [_first_rows(prefix.variant(source), before) for source in sources]
            read = self._damaged(own, prefix.cut, m, prefix.rows[before], variants)
            found |= {(source, "read", m): value for source, value in zip(sources, read)}
        self.cuts.append(prefix.cut)
        self.documents.append(found)

    def _damaged(self, own: Own, cut: int, read: int, rows: torch.Tensor, variants: list[Variant]) -> list[Damaged]:
        """Compare the continuation from ``cut`` on, after the last ``read`` tokens of the prefix are read."""
        logits = continued(self.student, own, cut - read, rows, [Variant("own"), *variants])[:, read:]
        return [damage(logits[0], of_variant, own.tokens, cut) for of_variant in logits[1:]]

    def results(self) -> list[Hybrid]:
        """Return every source and part: all layers, and tokens up to the longest prefix; shorter ones have no more."""
        if not self.documents:
            return []
        parts = {"layers": range(self.layers + 1), "tokens": ladder(max(self.cuts)), "read": ladder(max(self.cuts))}
        return [self._result(s, part, kept) for s in self._sources() for part in parts for kept in parts[part]]

    def _sources(self) -> list[str]:
        return [source for source in SOURCES if (source, "layers", 0) in self.documents[0]]

    def _result(self, source: str, part: str, kept: int) -> Hybrid:
        if part == "layers":
            own, share = [kept] * len(self.cuts), kept / self.layers
        else:
            own = [min(kept, cut) for cut in self.cuts]
            share = sum(own) / sum(self.cuts)
        damaged = self._of(source, part, own)
        gain = self._of("own-tokens", part, own).less(damaged, "kl") if "own-tokens" in self._sources() else (nan, nan)
        return Hybrid(
            source,
            part,
            kept,
            share,
            *damaged.mean("kl"),
            *damaged.mean("delta_ce"),
            damaged.n,
            len(damaged),
            damaged.kl_quantile(0.95),
            *gain,
            self._groups_p95(damaged),
        )

    def _of(self, source: str, part: str, own: Sequence[int]) -> PerDocument:
        return PerDocument([found[source, part, n] for found, n in zip(self.documents, own)])

    def _groups_p95(self, damaged: PerDocument) -> dict[str, float]:
        """Return the quantile of every group of documents with ``LEAST_OF_GROUP`` tokens."""
        found = {}
        for name in dict.fromkeys(name for names in self.groups for name in names):
            inside = PerDocument([d for d, names in zip(damaged.documents, self.groups) if name in names])
            if inside.n >= LEAST_OF_GROUP:
                found[name] = inside.kl_quantile(0.95)
        return found


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
