"""Measure the heads' attention and outputs when the student's own queries read a replaced prefix.

One forward, one row of the batch per variant of the keys. Every layer gets the own hidden states in all rows, so the
queries are the own ones everywhere and only the keys differ. Values change no distribution and are put in afterwards.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.functional import cosine_similarity
from transformers import DynamicCache

from kvlab.errors import AlignError
from kvlab.inject.continuation import Variant, replace_steps
from kvlab.inject.own import Own, Problem
from kvlab.language import Message
from kvlab.models import cache_names
from kvlab.models.attention import eager, hearing, unavailable
from kvlab.models.forward import empty_cache, exchanged_inputs
from kvlab.models.loading import LoadedModel


@dataclass(frozen=True)
class Outputs:
    """Sums over one document's queries (those after the prefix) per query head (Hq), by layer and replaced part."""

    rss: dict[Problem, torch.Tensor]  # ("key" | "value" | "both", layer) -> [Hq]: |own output - this|^2
    kl: dict[Problem, torch.Tensor]  # of the attention distributions, nats; not for "value"
    cosine: dict[Problem, torch.Tensor]  # of own output and this


@dataclass(frozen=True)
class Heard:
    """One document: the outputs of every variant, and the sums for their variance."""

    variants: dict[str, Outputs]
    total: dict[int, torch.Tensor]  # layer -> [Hq, D], sum of the own outputs
    squares: dict[int, torch.Tensor]  # layer -> [Hq]
    n: int  # queries


@torch.inference_mode()
def heard(
    student: LoadedModel, own: Own, cut: int, rows: torch.Tensor, variants: Sequence[Variant], batch_tokens: int
) -> Heard:
    """Run the queries of the tokens from ``cut`` on, with the steps ``rows`` of the prefix replaced by each variant.

    Raises AlignError ``attention-unavailable`` for a model that does not hand out its probabilities, or whose cache
    holds a latent and no values.
    """
    if student.geometry.latent:
        raise AlignError(
            "attention-unavailable",
            expected=Message("a cache of keys and values, from which a head's output follows"),
            found=Message("a latent cache in {name}", name=student.name),
            remedy=Message("read the injection: it does not need the heads' outputs"),
        )
    at_once = max(1, batch_tokens // len(own.tokens) - 1)
    sums = Heard({variant.name: Outputs({}, {}, {}) for variant in variants}, {}, {}, len(own.tokens) - cut)
    for first in range(0, len(variants), at_once):
        some = variants[first : first + at_once]
        keys_only = [Variant(v.name, {p: x for p, x in v.replaced.items() if p[0] == "key"}) for v in some]
        _attend(student, own, rows, [Variant("own"), *keys_only], cut, partial(_hear, sums, own, rows, some))
    return sums


def _hear(sums: Heard, own: Own, rows: torch.Tensor, variants: Sequence[Variant], layer: int, p: torch.Tensor) -> None:
    """Add the outputs of a layer from its probabilities ``p`` [1 + variants, Hq, Q, T], the own ones first."""
    written, p = p, p.float()
    values = own.stored["value", layer].float()
    output = _output(p[0], values)
    sums.total[layer], sums.squares[layer] = output.double().sum(1), output.double().square().sum((1, 2))
    for b, variant in enumerate(variants, 1):
        outputs, replaced = sums.variants[variant.name], values.clone()
        replace_steps(replaced, variant.replaced["value", layer].float(), rows, None)
        for kind, q, v in (("key", p[b], values), ("value", p[0], replaced), ("both", p[b], replaced)):
            other = _output(q, v)
            outputs.rss[kind, layer] = (output - other).double().square().sum((1, 2))
            outputs.cosine[kind, layer] = cosine_similarity(output.double(), other.double(), dim=2).sum(1)
            if kind != "value":
                outputs.kl[kind, layer] = _divergence(written[0], written[b])


def _output(probabilities: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Compute [Hq, Q, T], [H, T, D] -> [Hq, Q, D]; consecutive query heads share a KV head."""
    return probabilities @ values.repeat_interleave(len(probabilities) // len(values), dim=0)


def _divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return the sum over the queries of KL(p || q) [Hq], without the probability of no step (a learned sink).

    A probability that rounds to zero counts as the least the number type holds: a lower bound.
    """
    least = torch.finfo(p.dtype).tiny * torch.finfo(p.dtype).eps  # 6e-8 in float16
    least = max(least, torch.finfo(torch.float32).tiny)
    p, q = (x.double() / x.double().sum(-1, keepdim=True).clamp(min=1e-30) for x in (p, q))
    return (p * (p.clamp(min=least) / q.clamp(min=least)).log()).sum((1, 2))


def _attend(
    student: LoadedModel,
    own: Own,
    rows: torch.Tensor,
    variants: Sequence[Variant],
    cut: int,
    hear: Callable[[int, torch.Tensor], None],
) -> None:
    """Run one forward and call ``hear`` with each cached layer's position and probabilities [B, Hq, T - cut, T].

    All layers together are too large: 12 GB for one document of 2,048 tokens in a student of 1.1 B parameters.
    """
    ids = own.ids.expand(len(variants), -1)
    cache, seen = empty_cache(student), set()
    position = {layer: number for number, layer in enumerate(student.geometry.kv_layers)}

    def hear_cached(layer: int, probabilities: torch.Tensor) -> None:
        at = position.get(layer)
        if at is not None and probabilities.shape[1] % len(own.stored["value", at]) == 0:
            seen.add(at)
            hear(at, probabilities[:, :, cut:])

    with ExitStack() as borrowed:
        for context in (
            student.lock,
            eager(student.model),
            _replacing(cache, student, rows, variants),
            _own_hidden_states(student, tuple(ids.shape)),
            hearing(student.model, len(own.tokens), hear_cached),
        ):
            borrowed.enter_context(context)
        base = student.model.base_model
        base(input_ids=ids, **cache_names.passing(base, cache))
    for layer, at in position.items():
        if at not in seen:
            raise unavailable(student, layer, Message("read the injection: it does not need the heads' outputs"))


@contextmanager
def _replacing(
    cache: DynamicCache, student: LoadedModel, rows: torch.Tensor, variants: Sequence[Variant]
) -> Iterator[None]:
    """Replace the keys that attention gets, but not those that the cache keeps."""
    position = {layer: number for number, layer in enumerate(student.geometry.kv_layers)}
    store = cache.update

    def update(key_states, value_states, layer_idx, *args, **kwargs):
        keys, values = store(key_states, value_states, layer_idx, *args, **kwargs)
        keys = keys.clone()
        for b, variant in enumerate(variants):
            if ("key", position[layer_idx]) in variant.replaced:
                replace_steps(keys[b], variant.replaced["key", position[layer_idx]], rows, None)
        return keys, values

    cache.update = update
    try:
        yield
    finally:
        del cache.update


def _own_hidden_states(student: LoadedModel, shape: tuple[int, int]) -> AbstractContextManager:
    """Give every layer the hidden states of the first row of the batch, ``shape`` [B, T], in all rows."""

    def passed(x):
        whole = isinstance(x, torch.Tensor) and tuple(x.shape) == (*shape, student.geometry.hidden)
        return x[:1].expand_as(x) if whole else x

    return exchanged_inputs(student.model, passed)
