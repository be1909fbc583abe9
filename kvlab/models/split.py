"""Spread the weights of one model over several GPUs and the host's memory, layers in turn.

transformers and accelerate do it: each layer computes on its own device, hidden states pass from one to the next. This
gives capacity, not speed. Caches are gathered on one device, ``LoadedModel.home`` (``capture``).
"""

import torch
from accelerate import dispatch_model
from transformers import PreTrainedModel

from kvlab.errors import ModelError
from kvlab.host import launched, memory
from kvlab.language import Message

USED = 0.9  # share of a device's free memory that weights may take: the rest is for the forward
Places = dict[int | str, int]  # number of a GPU, or "cpu" -> bytes


def max_memory(home: torch.device, room: int, quantised: bool) -> Places:
    """Return the bytes that weights may take on each device: on ``home`` (a GPU) all but ``room``.

    ``quantised`` weights compute on GPUs only. Raises ModelError ``split-impossible``.
    """
    if home.type != "cuda" or launched.count() > 1:
        found = Message("{n} processes, each with its GPU", n=launched.count())
        raise ModelError(
            "split-impossible",
            expected=Message("GPUs of one process to spread a teacher over (--split-teacher)"),
            found=found if home.type == "cuda" else Message("the device {device}", device=str(home)),
            remedy=Message("start one process with --device cuda, or leave out --split-teacher"),
        )
    places: Places = {}
    for number in range(torch.cuda.device_count()):
        free = memory.device_memory(f"cuda:{number}").free
        left = free - room if number == (home.index or 0) else free
        places[number] = max(0, int(USED * left))
    if not quantised:
        places["cpu"] = int(USED * memory.device_memory("cpu").free)
    return places


def input_device(model: PreTrainedModel) -> torch.device:
    """Return the device on which the input embedding computes."""
    embedding = model.get_input_embeddings()
    hook = getattr(embedding, "_hf_hook", None)
    computes_on = getattr(hook, "execution_device", None)
    return embedding.weight.device if computes_on is None else torch.device(computes_on)


def places(model: PreTrainedModel) -> dict[str, int]:
    """Return the bytes of a spread model's weights on each of its devices; empty for a model on one device."""
    found: dict[str, int] = {}
    for part, place in (getattr(model, "hf_device_map", None) or {}).items():
        device = f"cuda:{place}" if isinstance(place, int) else str(place)
        module = model.get_submodule(part)
        found[device] = found.get(device, 0) + sum(p.numel() * p.element_size() for p in module.parameters())
    return found if len(found) > 1 else {}


def spread_like(model: PreTrainedModel, other: PreTrainedModel) -> PreTrainedModel:
    """Put ``model``, on the processor, on the devices of ``other``."""
    return dispatch_model(model, other.hf_device_map, skip_keys=model._skip_keys_device_placement)
