"""What needs no cache of a teacher: the student's own tokens, or the teacher's token, context-free.

The student's features of a row are the input embeddings of its own token and of the two before it, each scaled to unit
mean square (the norm of an embedding says how rare a token is, not which); the teacher's is the embedding of its token
as it is. Where a model is wide, both are reduced to the ``MOST_OF_A_TOKEN`` principal directions of the vocabulary.
"""

import weakref
from collections.abc import Callable

import torch

from kvlab.models.loading import LoadedModel
from kvlab.request.sums_size import MOST_OF_A_TOKEN, TOKENS_BEFORE

VOCABULARY = 8192  # tokens whose embeddings tell the principal directions
TINY = 1e-6

_bases: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@torch.inference_mode()
def own_token_features(student: LoadedModel, ids: torch.Tensor) -> torch.Tensor:
    """ids [B, T] -> [B, 1, T, (1 + TOKENS_BEFORE) E], this token first; zero where there is no token before."""
    shifted = [_reduced(student, ids, _scaled)]
    for _ in range(TOKENS_BEFORE):
        shifted.append(torch.nn.functional.pad(shifted[-1], (0, 0, 1, 0))[:, :-1])
    return torch.cat(shifted, dim=-1).unsqueeze(1)


@torch.inference_mode()
def teacher_token_features(teacher: LoadedModel, ids: torch.Tensor) -> torch.Tensor:
    """ids [B, T] -> [B, 1, T, E]"""
    return _reduced(teacher, ids, _as_it_is).unsqueeze(1).to(teacher.home)


def own_token_width(features: int) -> int:
    """The features of the row's own token alone, the first of them."""
    return features // (1 + TOKENS_BEFORE)


def _scaled(embedded: torch.Tensor) -> torch.Tensor:
    return embedded / (embedded.square().mean(-1, keepdim=True) + TINY).sqrt()


def _as_it_is(embedded: torch.Tensor) -> torch.Tensor:
    return embedded


def _reduced(loaded: LoadedModel, ids: torch.Tensor, scaled: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """[B, T] -> [B, T, E], or [B, T, MOST_OF_A_TOKEN] where the embeddings are wider."""
    embeddings = loaded.model.get_input_embeddings()
    features = scaled(embeddings(ids).float())
    if features.shape[-1] <= MOST_OF_A_TOKEN:
        return features
    kept = _bases.setdefault(embeddings, {})
    if scaled not in kept:
        count = min(loaded.geometry.vocabulary, VOCABULARY)
        some = torch.linspace(0, loaded.geometry.vocabulary - 1, count, device=ids.device).long()
        rows = scaled(embeddings(some).float())
        kept[scaled] = torch.linalg.eigh((rows.T @ rows).double()).eigenvectors[:, -MOST_OF_A_TOKEN:].float()
    return features @ kept[scaled]
