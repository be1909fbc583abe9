"""Scores of an injection: KL and cross-entropy per token with standard errors, and how well errors rank the damage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite, sqrt

import numpy as np
import torch

from kvlab.align import metrics
from kvlab.results.function.data import AttentionError, Correlation, Projected, Swap
from kvlab.shapes import KINDS, Tokens


@dataclass(frozen=True)
class Damaged:
    """Sums over one document's continuation. delta_ce and kl in nats, of a variant against the own cache."""

    kl: float
    delta_ce: float
    same_choice: int
    n: int


@torch.inference_mode()
def damage(own: torch.Tensor, variant: torch.Tensor, tokens: Tokens, cut: int) -> Damaged:
    """``own``, ``variant`` [T - cut, V]: logits of the tokens from ``cut`` on, each predicting the one after it.

    KL(own || variant) = sum p_own (log p_own - log p_variant), and the cross-entropy of the text's next token, variant
    less own; special tokens are not predicted.
    """
    predicted = ~torch.from_numpy(tokens.special[cut + 1 :]).to(own.device)
    following = torch.from_numpy(tokens.ids[cut + 1 :]).to(own.device)[predicted]
    p, q = (logits[:-1][predicted].float().log_softmax(-1) for logits in (own, variant))
    kl = (p.exp() * (p - q)).sum(-1).double().sum()
    ce = (p - q).gather(1, following[:, None]).double().sum()
    same = (p.argmax(-1) == q.argmax(-1)).sum()
    return Damaged(float(kl), float(ce), int(same), len(following))


@dataclass
class PerDocument:
    """The damage of one variant on every document, in order."""

    found: list[Damaged] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.found)

    @property
    def n(self) -> int:
        return sum(d.n for d in self.found)

    def mean(self, name: str) -> tuple[float, float]:
        """Per token over all documents, and its standard error."""
        return per_token([getattr(d, name) for d in self.found], [d.n for d in self.found])

    def less(self, other: PerDocument, name: str) -> tuple[float, float]:
        """The difference to another variant on the same documents, and its standard error."""
        differences = [getattr(a, name) - getattr(b, name) for a, b in zip(self.found, other.found, strict=True)]
        return per_token(differences, [d.n for d in self.found])


def per_token(sums: list[float], counts: list[int]) -> tuple[float, float]:
    """Sum of sums over sum of counts, and its standard error by jackknife over documents."""
    total, n = (torch.tensor(x, dtype=torch.float64)[:, None] for x in (sums, counts))
    if not len(total):
        return float("nan"), float("nan")
    return float(total.sum() / n.sum()), float(metrics.jackknife(total, n)[0])


def mean_of(values: list[float]) -> tuple[float, float]:
    """The mean over documents and its standard error, not a number of fewer than ``LEAST_FOLDS``."""
    n = len(values)
    if not n:
        return float("nan"), float("nan")
    mean = sum(values) / n
    return mean, sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n) if n >= metrics.LEAST_FOLDS else float("nan")


BOTH_KINDS = "both kinds"


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Pearson's correlation of the ranks, ties sharing their mean rank; NaN of fewer than 3, constant or not finite."""
    if len(a) < 3 or not np.isfinite([a, b]).all():
        return float("nan")
    ranks = [_ranks(np.asarray(x, dtype=np.float64)) for x in (a, b)]
    if any(r.std() == 0 for r in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(x: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def correlations(
    swaps: Sequence[Swap], projection: Sequence[Projected], attention: Sequence[AttentionError]
) -> list[Correlation]:
    """Of both errors with both damages, for K heads, V heads and all of them."""
    of_head = {(s.kind, s.layer, s.head): s for s in swaps if s.head is not None and s.kind in KINDS}
    found = []
    for name, cells in (("projection", projection), ("attention", attention)):
        errors = {at: c.error for c in cells if (at := (c.kind, c.layer, c.head)) in of_head}
        for kind in (*KINDS, BOTH_KINDS):
            # A head that does not vary has no error, and so no rank.
            places = [at for at, error in errors.items() if kind in (at[0], BOTH_KINDS) and isfinite(error)]
            for damage in ("kl", "delta_ce"):
                rho = spearman([errors[at] for at in places], [getattr(of_head[at], damage) for at in places])
                if places:
                    found.append(Correlation(kind, name, damage, rho, len(places)))
    return found
