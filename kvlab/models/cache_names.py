"""The names that transformers gives a model's KV cache: ``cache`` in new versions (5.24), ``past_key_values`` before.

Reading or passing the old name warns in the new versions, which will drop it; the new name is unknown to the old ones.
"""

import inspect
from typing import Any

from torch import nn
from transformers import Cache
from transformers.utils import ModelOutput

NAMES = ("cache", "past_key_values")


def argument(model: nn.Module) -> str | None:
    """The parameter of the model's forward that takes a cache; None for a model that has none."""
    parameters = inspect.signature(type(model).forward).parameters
    return next((name for name in NAMES if name in parameters), None)


def passing(model: nn.Module, cache: Cache | None) -> dict[str, Any]:
    """The keyword arguments with which ``model`` fills ``cache``."""
    return {argument(model) or NAMES[-1]: cache, "use_cache": True}


def returned(output: ModelOutput) -> Cache | None:
    """The cache that a model's output holds, if it holds one."""
    fields = {name: value for name, value in output.items() if name in NAMES}
    return next(iter(fields.values()), None)
