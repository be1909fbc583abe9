"""Find the rotations of a model's keys at every position of a text, without the work of a forward.

Rotations depend on positions, not on what is read. So a forward is run in which no weight is multiplied and nothing
attends: the modules call their rotary functions with the arguments that they would have.
"""

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from kvlab.models import cache_names
from kvlab.models.forward import empty_cache
from kvlab.models.loading import LoadedModel
from kvlab.models.proofs import proof
from kvlab.models.rotation import Rotation, Watch, watched
from kvlab.shapes import KINDS


class _Dry(TorchFunctionMode):
    """Zeros of the right shape in the place of linear layers and attention."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is functional.linear:
            x, weight, *_ = args
            return x.new_zeros(*x.shape[:-1], len(weight))
        if func is functional.scaled_dot_product_attention:
            query, _, value, *_ = args
            return query.new_zeros(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def rotations(loaded: LoadedModel, ids: torch.Tensor) -> dict[tuple[str, int], Rotation]:
    """ids [1, T] -> the rotation of each kind and layer (position among those with a cache) at positions 0 to T - 1.

    Raises as ``proof``.
    """
    sites = proof(loaded).sites
    if not sites:
        return {}
    cache, watch = empty_cache(loaded), Watch()
    with loaded.lock, watched(loaded.model, watch, cache), _Dry():
        loaded.model.base_model(input_ids=ids, **cache_names.passing(loaded.model.base_model, cache))
    shared: dict = {}
    return {
        (kind, position): sites[layer, kind].rotation(watch.layers[layer], shared)
        for position, layer in enumerate(loaded.geometry.kv_layers)
        for kind in KINDS
        if (layer, kind) in sites
    }
