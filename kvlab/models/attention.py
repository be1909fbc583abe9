"""Measure how much a document's queries attend to each of its steps: observers per KV head, or all later ones.

Nothing here knows a model by name: with eager attention every decoder of transformers returns its probabilities from
its attention modules. A hook reduces them at once, so that only one layer's [B, heads, T, T] is in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from kvlab.errors import AlignError
from kvlab.language import Message
from kvlab.models import cache_names
from kvlab.models.forward import hooked
from kvlab.models.loading import LoadedModel
from kvlab.shapes import Segment, Tokens, segment_of

OBSERVERS = 8  # alpha of R-KV, Cai et al. 2025, §4.1


def observers(tokens: Tokens, segments: Sequence[Segment] = ()) -> np.ndarray:
    """Return the rows [A] of the observers: the answers (KaVa), or without any the last 8 of the content (R-KV)."""
    answers = [place for place, part in enumerate(segments) if part.name in ("answer", "assistant")]
    answer_rows = np.flatnonzero(np.isin(segment_of(tokens, segments), answers))
    return answer_rows if len(answer_rows) else np.flatnonzero(~tokens.special)[-OBSERVERS:]


@torch.inference_mode()
def observed_attention(loaded: LoadedModel, batch: list[Tokens], observers: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """Return per cached layer [B, H, T] the mean probability that ``observers`` (row numbers) put on each step.

    Query heads that share a KV head are averaged. Zero on padding, and everywhere for a document without observers.
    On the model's ``home``, in float32; holds the batch's T x T probabilities of one layer. Raises AlignError
    ``attention-unavailable`` for a model that does not return them.
    """
    seen: dict[int, torch.Tensor] = {}  # [B, query heads, T] of each layer

    def hear(layer: int, probabilities: torch.Tensor, mask: torch.Tensor) -> None:
        seen[layer] = torch.stack([_mean_of(probabilities[b], rows) for b, rows in enumerate(observers)])

    cache = _read(loaded, batch, hear)
    by_layer = []
    for layer in loaded.geometry.kv_layers:
        heads = cache.layers[layer].keys.shape[1]
        if layer not in seen or seen[layer].shape[1] % heads:
            remedy = Message("choose a time rule that needs no attention, such as --time floor")
            raise unavailable(loaded, layer, remedy)
        by_layer.append(seen[layer].unflatten(1, (heads, -1)).mean(dim=2).to(loaded.home))
    return by_layer


@torch.inference_mode()
def received_attention(loaded: LoadedModel, batch: list[Tokens]) -> list[torch.Tensor]:
    """Return per cached layer [B, T] how much attention each step receives: the sum over later steps, mean over heads.

    What a step gives itself does not count, nor what padding gives. Otherwise as ``observed_attention``.
    """
    seen: dict[int, torch.Tensor] = {}

    def hear(layer: int, probabilities: torch.Tensor, mask: torch.Tensor) -> None:
        by_query = probabilities.float().mean(1)  # [B, T, T]
        by_query.diagonal(dim1=1, dim2=2).zero_()
        seen[layer] = (mask.to(by_query)[:, None] @ by_query)[:, 0]

    _read(loaded, batch, hear)
    for layer in loaded.geometry.kv_layers:
        if layer not in seen:
            raise unavailable(loaded, layer, Message("fit on rows that count alike: --row-weights equal"))
    return [seen[layer].to(loaded.home) for layer in loaded.geometry.kv_layers]


def _read(
    loaded: LoadedModel, batch: list[Tokens], hear: Callable[[int, torch.Tensor, torch.Tensor], None]
) -> DynamicCache:
    """Run one forward and call ``hear`` with each layer's number, probabilities, and mask [B, T] of real steps."""
    ids = pad_sequence([torch.from_numpy(tokens.ids) for tokens in batch], batch_first=True).to(loaded.device)
    lengths = torch.tensor([len(tokens) for tokens in batch], device=loaded.device)
    mask = torch.arange(ids.shape[1], device=loaded.device) < lengths[:, None]

    def of_layer(layer: int, probabilities: torch.Tensor) -> None:
        hear(layer, probabilities, mask)

    with loaded.lock, eager(loaded.model), hearing(loaded.model, ids.shape[1], of_layer):
        output = loaded.model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=True)
    return cache_names.returned(output)


@contextmanager
def hearing(model: PreTrainedModel, length: int, hear: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """Give ``hear`` each layer's number and probabilities [B, query heads, T, T] in a forward over T = ``length``."""

    def note(module, args, output):
        for part in output if isinstance(output, tuple) else ():
            if isinstance(part, torch.Tensor) and part.dim() == 4 and tuple(part.shape[2:]) == (length, length):
                hear(module.layer_idx, part)

    layers = [module for module in model.modules() if isinstance(getattr(module, "layer_idx", None), int)]
    with hooked([layer.register_forward_hook(note) for layer in layers]):
        yield


def unavailable(loaded: LoadedModel, layer: int, remedy: Message) -> AlignError:
    """Return the error of a layer that did not return its probabilities."""
    return AlignError(
        "attention-unavailable",
        expected=Message("attention probabilities from layer {layer} of {name}", layer=layer, name=loaded.name),
        found=Message("an architecture ({kind}) whose layers do not hand them out", kind=loaded.geometry.architecture),
        remedy=remedy,
    )


def _mean_of(probabilities: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """Return the mean over ``rows``, [heads, T, T] -> [heads, T]; zero without rows."""
    chosen = probabilities[:, torch.as_tensor(rows, dtype=torch.int64, device=probabilities.device)].float()
    return chosen.sum(dim=1) / max(len(rows), 1)


@contextmanager
def eager(model: PreTrainedModel) -> Iterator[None]:
    """Switch the model to eager attention, which alone computes probabilities; restore its own afterwards."""
    before = _implementations(model.config)
    if before[""] != "eager":
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if before[""] != "eager":
            model.set_attn_implementation(before)


def _implementations(config: PreTrainedConfig) -> dict:
    """Return the attention implementation of a configuration ("") and, nested, of its parts that have one."""
    parts = {name: getattr(config, name, None) for name in config.sub_configs}
    nested = {name: _implementations(part) for name, part in parts.items() if part is not None}
    return {"": config._attn_implementation} | {name: part for name, part in nested.items() if part[""] is not None}
