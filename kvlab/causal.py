"""A cache can be aligned token by token only where what it holds of a token depends on nothing that comes later.

A model may read ahead because its configuration says so (an embedding model made from a decoder), because it routes
tokens to experts by others of the text, or because its code in the installed transformers forgets the causal mask.
"""

from __future__ import annotations

from weakref import WeakSet

import torch
import transformers

from kvlab.errors import AlignError
from kvlab.models import LoadedModel
from kvlab.reading import read
from kvlab.twice import HALF_TOLERANCE, TOLERANCE, differences

ALIKE, CHANGED = 4, 5  # tokens: two texts that begin alike

_checked: WeakSet[torch.nn.Module] = WeakSet()


@torch.inference_mode()
def check_causal(loaded: LoadedModel) -> None:
    """Read two texts that begin alike and compare what is cached of their beginning; once per loaded model.

    Raises AlignError ``cache-not-causal`` where most of its tokens differ in some layer. Most, because in half
    precision one token may be routed to other experts by rounding alone.
    """
    if loaded.model in _checked:
        return
    ids = torch.arange(1, 1 + ALIKE + CHANGED, device=loaded.device).repeat(2, 1)
    ids[1, ALIKE:] += CHANGED
    cache = read(loaded, ids % loaded.geometry.vocabulary, None)
    layers = [cache.layers[layer] for layer in loaded.geometry.kv_layers]
    pairs = [x[:, :, :ALIKE].float().split(1) for layer in layers for x in (layer.keys, layer.values)]
    error = max(float(differences(*pair).median()) for pair in pairs)
    if error > TOLERANCE.get(loaded.dtype, HALF_TOLERANCE):
        raise AlignError(
            "cache-not-causal",
            expected="keys and values of a token that depend on no later token",
            found=f"that {loaded.name} ({loaded.geometry.architecture}) reads ahead with transformers "
            f"{transformers.__version__}: of two texts that begin alike, the keys and values of the beginning differ "
            f"by {error:.2g} of their size",
            remedy="choose a causal model; where this one should be causal, install another release: "
            "pip install --upgrade transformers",
        )
    _checked.add(loaded.model)
