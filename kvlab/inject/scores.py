"""Score an injection: KL and cross-entropy per token with standard errors, and how well errors rank the damage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite, sqrt

import numpy as np
import torch

from kvlab.align import metrics
from kvlab.results.function.data import AttentionError, Correlation, DocumentDamage, Projected, Swap
from kvlab.shapes import KINDS, Document, Tokens


@dataclass(frozen=True)
class Damaged:
    """Sums over one document's continuation. delta_ce and kl in nats, of a variant against the own cache."""

    kl: float
    delta_ce: float
    same_choice: int
    n: int
    kl_of_tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32), compare=False)  # [n]


@torch.inference_mode()
def damage(own: torch.Tensor, variant: torch.Tensor, tokens: Tokens, cut: int) -> Damaged:
    """Compare ``own`` and ``variant`` [T - cut, V]: logits of the tokens from ``cut`` on, each predicting the next one.

    KL(own || variant) = sum p_own (log p_own - log p_variant), and the cross-entropy of the text's next token, variant
    minus own. Predictions of special tokens do not count.
    """
    predicted = ~torch.from_numpy(tokens.special[cut + 1 :]).to(own.device)
    following = torch.from_numpy(tokens.ids[cut + 1 :]).to(own.device)[predicted]
    p, q = (logits[:-1][predicted].float().log_softmax(-1) for logits in (own, variant))
    kl = (p.exp() * (p - q)).sum(-1)
    ce = (p - q).gather(1, following[:, None]).double().sum()
    same = (p.argmax(-1) == q.argmax(-1)).sum()
    return Damaged(float(kl.double().sum()), float(ce), int(same), len(following), kl.cpu().numpy())


@dataclass
class PerDocument:
    """The damage of one variant on every document, in order."""

    documents: list[Damaged] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def n(self) -> int:
        return sum(d.n for d in self.documents)

    def mean(self, name: str) -> tuple[float, float]:
        """Return the value per token over all documents, and its standard error."""
        return per_token([getattr(d, name) for d in self.documents], [d.n for d in self.documents])

    def kl_quantile(self, share: float) -> float:
        """Return the quantile of the tokens' KL over all documents; NaN where there is none."""
        tokens = np.concatenate([d.kl_of_tokens for d in self.documents]) if self.documents else np.zeros(0)
        return float(np.quantile(tokens, share)) if len(tokens) else float("nan")

    def less(self, other: PerDocument, name: str) -> tuple[float, float]:
        """Return the difference to another variant on the same documents, and its standard error."""
        pairs = zip(self.documents, other.documents, strict=True)
        differences = [getattr(a, name) - getattr(b, name) for a, b in pairs]
        return per_token(differences, [d.n for d in self.documents])


def of_document(variant: str, document: Document, damaged: Damaged) -> DocumentDamage:
    """Return what one variant does to one document."""
    alone, n = PerDocument([damaged]), max(damaged.n, 1)
    return DocumentDamage(
        variant,
        document.id,
        document.language,
        document.domain,
        damaged.kl / n,
        alone.kl_quantile(0.95),
        alone.kl_quantile(0.99),
        damaged.delta_ce / n,
        damaged.same_choice / n,
        damaged.n,
    )


def per_token(sums: list[float], counts: list[int]) -> tuple[float, float]:
    """Return the sum of sums over the sum of counts, and its standard error by jackknife over documents."""
    total, n = (torch.tensor(x, dtype=torch.float64)[:, None] for x in (sums, counts))
    if not len(total):
        return float("nan"), float("nan")
    return float(total.sum() / n.sum()), float(metrics.jackknife(total, n)[0])


def mean_of(values: list[float]) -> tuple[float, float]:
    """Return the mean over documents and its standard error, NaN with fewer than ``LEAST_FOLDS``."""
    n = len(values)
    if not n:
        return float("nan"), float("nan")
    mean = sum(values) / n
    if n < metrics.LEAST_FOLDS:
        return mean, float("nan")
    return mean, sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)


BOTH_KINDS = "both kinds"


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Correlate the ranks (Pearson), ties sharing their mean rank; NaN if fewer than 3, constant or not finite."""
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
    """Correlate each error with each damage, for K heads, V heads and all of them."""
    by_head = {(s.kind, s.layer, s.head): s for s in swaps if s.head is not None and s.kind in KINDS}
    rows = []
    for name, cells in (("projection", projection), ("attention", attention)):
        errors = {at: c.error for c in cells if (at := (c.kind, c.layer, c.head)) in by_head}
        for kind in (*KINDS, BOTH_KINDS):
            # A head that does not vary has no error, hence no rank.
            places = [at for at, error in errors.items() if kind in (at[0], BOTH_KINDS) and isfinite(error)]
            for damage in ("kl", "delta_ce"):
                rho = spearman([errors[at] for at in places], [getattr(by_head[at], damage) for at in places])
                if places:
                    rows.append(Correlation(kind, name, damage, rho, len(places)))
    return rows
