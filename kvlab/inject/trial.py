"""Continue one document from its own cache and from replaced caches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kvlab.inject.continuation import continued
from kvlab.inject.own import Own
from kvlab.inject.prefix import Prefix
from kvlab.inject.scores import Damaged, damage
from kvlab.models.loading import LoadedModel

# Largest difference of a logit from the plain forward, relative to the largest logit: rounding of the number type.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Trial:
    """The result of one document.

    ``difference``: of the own cache's logits from the plain forward, relative to the largest; inf where not finite.
    ``damaged``: by variant; empty where the own cache does not reproduce the logits.
    """

    difference: float
    damaged: dict[str, Damaged]


def tried(student: LoadedModel, own: Own, prefix: Prefix, names: Sequence[str], batch_tokens: int) -> Trial:
    """Continue every variant. ``names``: the variants, "own" first; at most ``batch_tokens`` tokens per forward."""
    at_once, logits = max(1, batch_tokens // len(own.tokens)), []
    for first in range(0, len(names), at_once):
        variants = [prefix.variant(name) for name in names[first : first + at_once]]
        logits += continued(student, own, prefix.cut, prefix.rows, variants)
    plain = own.logits[prefix.cut :]
    difference = float((logits[0].float() - plain).abs().max() / plain.abs().max())
    if not difference <= TOLERANCE[student.dtype]:
        return Trial(difference if difference == difference else float("inf"), {})
    # Compare the own cache with the plain forward, and all others with the own cache.
    references = [plain, *[logits[0]] * (len(names) - 1)]
    damaged = {name: damage(a, b, own.tokens, prefix.cut) for name, a, b in zip(names, references, logits)}
    return Trial(difference, damaged)
