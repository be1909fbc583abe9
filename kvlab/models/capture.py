"""Capture the keys and values of tokens, with the rotation of the keys undone.

``rotation.py`` finds and undoes a rotation; ``proofs.py`` proves once per loaded model that the result is right.
"""

from dataclasses import dataclass

import torch
from transformers import DynamicCache

from kvlab.errors import AlignError
from kvlab.language import Message
from kvlab.models.dry import rotations
from kvlab.models.forward import padded, read
from kvlab.models.loading import LoadedModel
from kvlab.models.proofs import check_causal, proof
from kvlab.models.rotation import Rotation, Watch, unrotate
from kvlab.shapes import KINDS, KV, Tokens


@dataclass(frozen=True)
class CapturedBatch:
    """The caches of several documents, right-padded: per cached layer keys [B, H, T, Dk], values [B, H, T, Dv].

    With latent attention "keys" are the latent and "values" the rotary key part, both [B, 1, T, D].
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    tokens: list[Tokens]
    ids: torch.Tensor  # [B, T], 0 where padded
    pre_rope: bool
    latent: bool = False

    def of(self, kind: str) -> list[torch.Tensor]:
        return self.keys if kind == "key" else self.values

    def features(self, kind: str) -> list[torch.Tensor]:
        """Return the features of a map for ``kind``, per cached layer: the keys or values [B, H, T, D].

        A latent holds the keys and the values of all heads, so both kinds use the whole cache, latent and rotary part
        side by side: [B, 1, T, Dk + Dv].
        """
        return [self._features(kind, layer) for layer in range(len(self.keys))]

    def _features(self, kind: str, layer: int) -> torch.Tensor:
        if self.latent:
            return torch.cat([self.keys[layer], self.values[layer]], dim=-1)
        return self.of(kind)[layer]

    def side_by_side(self, kind: str, layers: tuple[int, ...]) -> torch.Tensor:
        """Return the heads of several cached layers [B, len(layers) * H, T, D]; as one head where widths differ."""
        chosen = [self._features(kind, layer) for layer in layers]
        if len({x.shape[-1] for x in chosen}) > 1:
            chosen = [torch.cat([x.transpose(1, 2).flatten(2).unsqueeze(1) for x in chosen], dim=-1)]
        return torch.cat(chosen, dim=1)

    def document(self, b: int) -> KV:
        """Return one document without its padding."""
        length = len(self.tokens[b])
        return KV(
            keys=[k[b, :, :length] for k in self.keys],
            values=[v[b, :, :length] for v in self.values],
            tokens=self.tokens[b],
            pre_rope=self.pre_rope,
        )


@torch.inference_mode()
def capture(loaded: LoadedModel, batch: list[Tokens], pre_rope: bool = True) -> CapturedBatch:
    """Capture the caches of several documents in one forward of the base model, padded on the right and masked.

    On the model's ``home``, in float32; ``pre_rope`` undoes the rotation of the keys. Raises AlignError
    ``keys-rotation-unknown`` for a model whose self-test cannot undo the rotation, and as ``check_causal`` does.
    """
    check_causal(loaded)
    sites = proof(loaded).sites if pre_rope else {}
    ids, mask = padded(batch, loaded.device, loaded.geometry.max_positions)
    watch = Watch() if sites else None
    cache = read(loaded, ids, watch, attention_mask=mask)
    shared = {}  # cos and sin, the same in many layers
    turns = {(kind, layer): site.rotation(watch.layers[layer], shared) for (layer, kind), site in sites.items()}
    return _captured(loaded, batch, ids, cache, turns, pre_rope)


@torch.inference_mode()
def captured(loaded: LoadedModel, tokens: Tokens, cache: DynamicCache, pre_rope: bool = True) -> CapturedBatch:
    """Return what ``capture`` does, of one document whose cache is there: of these tokens, and perhaps of more.

    Rotations that depend on the length of the text (longrope, dynamic) are taken as those of this text.
    Raises AlignError ``cache-incomplete`` for a cache that holds fewer tokens, and as ``capture``.
    """
    check_causal(loaded)
    ids = torch.from_numpy(tokens.ids)[None].to(loaded.device)
    keys = [cache.layers[layer].keys for layer in loaded.geometry.kv_layers]
    held = {0 if x is None else x.shape[2] for x in keys}
    if min(held) < len(tokens):
        raise AlignError(
            "cache-incomplete",
            expected=Message("a cache of {n} tokens in every layer of {name}", n=len(tokens), name=loaded.name),
            found=Message("layers with {counts} tokens", counts=sorted(held)),
            remedy=Message("leave the cache out: the text is then read anew"),
        )
    by_position = rotations(loaded, ids) if pre_rope else {}
    turns = {(kind, loaded.geometry.kv_layers[place]): turn for (kind, place), turn in by_position.items()}
    return _captured(loaded, [tokens], ids, cache, turns, pre_rope)


def _captured(
    loaded: LoadedModel,
    batch: list[Tokens],
    ids: torch.Tensor,
    cache: DynamicCache,
    turns: dict[tuple[str, int], Rotation],
    pre_rope: bool,
) -> CapturedBatch:
    """Undo the rotations ``turns`` (kind, layer) of the first tokens of a cache, as many as ``ids`` [B, T]."""
    found = {kind: [] for kind in KINDS}
    for layer in loaded.geometry.kv_layers:
        for kind, x in zip(KINDS, (cache.layers[layer].keys, cache.layers[layer].values), strict=True):
            x = x[:, :, : ids.shape[1]].float()
            x = unrotate(x, turns[kind, layer]) if (kind, layer) in turns else x
            found[kind].append(x.to(loaded.home))
    return CapturedBatch(found["key"], found["value"], batch, ids, pre_rope, loaded.geometry.latent)
