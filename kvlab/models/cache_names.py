"""Find the name of a model's KV cache in transformers: ``cache`` in new versions (5.24), ``past_key_values`` before.

New versions warn about the old name and will drop it; old versions do not know the new name.
"""

import inspect
from typing import Any

from torch import nn
from transformers import Cache
from transformers.utils import ModelOutput

NAMES = ("cache", "past_key_values")


def argument(model: nn.Module) -> str | None:
    """Return the parameter of the model's forward that takes a cache; None for a model without one."""
    parameters = inspect.signature(type(model).forward).parameters
    return next((name for name in NAMES if name in parameters), None)


def passing(model: nn.Module, cache: Cache | None) -> dict[str, Any]:
    """Return the keyword arguments with which ``model`` fills ``cache``."""
    return {argument(model) or NAMES[-1]: cache, "use_cache": True}


def returned(output: ModelOutput) -> Cache | None:
    """Return the cache in a model's output, if there is one."""
    fields = {name: value for name, value in output.items() if name in NAMES}
    return next(iter(fields.values()), None)
