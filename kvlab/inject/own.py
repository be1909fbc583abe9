"""Run one plain forward of the student over a document: the reference for every variant."""

from dataclasses import dataclass, replace

import torch
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from kvlab.errors import AlignError
from kvlab.language import Message
from kvlab.models import cache_names
from kvlab.models.forward import empty_cache
from kvlab.models.loading import LoadedModel
from kvlab.models.proofs import proof
from kvlab.models.rotation import Rotation, Watch, rotate, unrotate, watched
from kvlab.shapes import KINDS, Tokens

PLAIN = (DynamicLayer, DynamicSlidingWindowLayer)  # layers that keep keys and values, and nothing else
Problem = tuple[str, int]  # kind, position of a student layer among those with a cache


@dataclass(frozen=True, eq=False)
class Own:
    """The student's own reading of a document. Axes: T tokens, V vocabulary, H KV heads, D width."""

    tokens: Tokens
    ids: torch.Tensor  # [1, T]
    logits: torch.Tensor  # [T, V] float32
    stored: dict[Problem, torch.Tensor]  # [H, T, D] as cached, in the model's number type
    compared: dict[Problem, torch.Tensor]  # [H, T, D] float32, rotation undone where keys are compared before RoPE
    rotations: dict[Problem, Rotation]  # of this forward's positions; empty where keys are compared as cached

    def as_cached(self, problem: Problem, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Convert compared keys or values [H, N, D] of the steps ``rows`` [N] to the form in which they are cached."""
        stored = self.stored[problem]
        if problem in self.rotations:
            turn = self.rotations[problem]
            here = replace(turn, cos=turn.cos[:, :, rows], sin=turn.sin[:, :, rows])
            x = rotate(x[None], here)[0]
        return x.to(stored.dtype)


@torch.inference_mode()
def read_own(student: LoadedModel, tokens: Tokens, pre_rope: bool) -> Own:
    """Read a document with the student. Raises as ``check_cache`` and, ``keys-rotation-unknown``, as ``capture``."""
    sites = proof(student).sites if pre_rope else {}
    ids = torch.from_numpy(tokens.ids)[None].to(student.device)
    cache, watch = empty_cache(student), Watch()
    check_cache(student, cache)
    with student.lock, watched(student.model, watch, cache):
        output = student.model(input_ids=ids, **cache_names.passing(student.model, cache))
    stored, compared, rotations, shared = {}, {}, {}, {}
    for position, layer in enumerate(student.geometry.kv_layers):
        for kind, x in zip(KINDS, (cache.layers[layer].keys, cache.layers[layer].values), strict=True):
            stored[kind, position] = x[0]
            site = sites.get((layer, kind))
            if site is None:
                compared[kind, position] = x[0].float()
                continue
            rotations[kind, position] = site.rotation(watch.layers[layer], shared)
            compared[kind, position] = unrotate(x.float(), rotations[kind, position])[0]
    return Own(tokens, ids, output.logits[0].float(), stored, compared, rotations)


def check_cache(student: LoadedModel, cache) -> None:
    """Raise AlignError ``injection-state`` for a student that carries more than keys and values from token to token.

    A recurrent or convolution state, or the keys of an indexer, also holds the prefix. Beside a projected cache, the
    continuation would still read the student's own prefix from it.
    """
    others = sorted({type(layer).__name__ for layer in cache.layers if type(layer) not in PLAIN})
    if others or not cache.layers:
        names = {"name": student.name, "architecture": student.geometry.architecture}
        raise AlignError(
            "injection-state",
            expected=Message("a student whose layers carry keys and values from token to token, and nothing else"),
            found=Message(
                "{name} ({architecture}), which also keeps {states}: such a state may hold the prefix too, so a "
                "projected cache beside it would prove nothing",
                states=others,
                **names,
            )
            if others
            else Message(
                "{name} ({architecture}), which keeps a cache of its own: it may hold the prefix too, so a projected "
                "cache beside it would prove nothing",
                **names,
            ),
            remedy=Message("choose a student of pure attention; `align` compares the caches of this one"),
        )
