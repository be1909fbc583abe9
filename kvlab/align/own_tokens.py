"""What needs no teacher at all: the student's own tokens, context-free.

A row's features are the input embeddings of its own token and of the two before it, each scaled to unit mean square
(the norm of an embedding says how rare a token is, not which) and, where the model is wide, reduced to the ``MOST``
principal directions of the vocabulary.
"""

import weakref

import torch

from kvlab.models.loading import LoadedModel

BEFORE = 2  # tokens before the row's own
MOST = 512  # features of a token
VOCABULARY = 8192  # tokens whose embeddings tell the principal directions
TINY = 1e-6

_bases: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@torch.inference_mode()
def own_token_features(student: LoadedModel, ids: torch.Tensor) -> torch.Tensor:
    """ids [B, T] -> [B, 1, T, (1 + BEFORE) E], this token first; zero where there is no token before."""
    features = _scaled(student.model.get_input_embeddings()(ids).float())
    basis = _basis(student)
    if basis is not None:
        features = features @ basis
    shifted = [features]
    for _ in range(BEFORE):
        shifted.append(torch.nn.functional.pad(shifted[-1], (0, 0, 1, 0))[:, :-1])
    return torch.cat(shifted, dim=-1).unsqueeze(1)


def own_token_width(features: int) -> int:
    """The features of the row's own token alone, the first of them."""
    return features // (1 + BEFORE)


def _scaled(embedded: torch.Tensor) -> torch.Tensor:
    return embedded / (embedded.square().mean(-1, keepdim=True) + TINY).sqrt()


def _basis(student: LoadedModel) -> torch.Tensor | None:
    """[E, MOST], or None where the embeddings are no wider."""
    embeddings = student.model.get_input_embeddings()
    width = embeddings.weight.shape[1] if embeddings.weight.ndim == 2 else 0
    if width <= MOST:
        return None
    if embeddings not in _bases:
        count = min(embeddings.num_embeddings, VOCABULARY)
        ids = torch.linspace(0, embeddings.num_embeddings - 1, count, device=student.device).long()
        rows = _scaled(embeddings(ids).float())
        _bases[embeddings] = torch.linalg.eigh((rows.T @ rows).double()).eigenvectors[:, -MOST:].float()
    return _bases[embeddings]
