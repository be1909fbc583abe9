"""Continue the student from a partly replaced prefix cache: one forward, one row of the batch per variant."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache

from kvlab.inject.own import Own, Problem
from kvlab.models import cache_names
from kvlab.models.forward import empty_cache
from kvlab.models.loading import LoadedModel
from kvlab.shapes import KINDS


@dataclass(frozen=True, eq=False)
class Variant:
    """Replaced steps of the prefix: [H, N, D] as cached, by kind and layer; of one head where ``head`` is given."""

    name: str
    replaced: dict[Problem, torch.Tensor] = field(default_factory=dict)
    head: int | None = None


def prefix_cache(
    student: LoadedModel, own: Own, cut: int, rows: torch.Tensor, variants: Sequence[Variant]
) -> DynamicCache:
    """Build the own cache of the first ``cut`` tokens, once per variant, with its steps ``rows`` [N] replaced."""
    cache = empty_cache(student)
    for position, layer in enumerate(student.geometry.kv_layers):
        keys_and_values = []
        for kind in KINDS:
            x = own.stored[kind, position][:, :cut].repeat(len(variants), 1, 1, 1)  # [B, H, cut, D]
            for b, variant in enumerate(variants):
                if (kind, position) in variant.replaced:
                    replace_steps(x[b], variant.replaced[kind, position], rows, variant.head)
            keys_and_values.append(x)
        cache.update(*keys_and_values, layer)
    return cache


def replace_steps(x: torch.Tensor, replacement: torch.Tensor, rows: torch.Tensor, head: int | None) -> None:
    """Write ``replacement`` [H, N, D] into the steps ``rows`` of ``x`` [H, T, D], of one head or of all."""
    if head is None:
        x[:, rows] = replacement
    else:
        x[head, rows] = replacement[head]


@torch.inference_mode()
def continued(
    student: LoadedModel, own: Own, cut: int, rows: torch.Tensor, variants: Sequence[Variant]
) -> torch.Tensor:
    """Return logits [B, T - cut, V] of the document's tokens from ``cut`` on, which read the replaced cache."""
    cache = prefix_cache(student, own, cut, rows, variants)
    ids = own.ids[:, cut:].expand(len(variants), -1)
    with student.lock:
        return student.model(input_ids=ids, **cache_names.passing(student.model, cache)).logits
