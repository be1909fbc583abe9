"""Two devices on a machine without any: tensors hold numbers on the processor and say that they are elsewhere.

    with Pretended():
        x = torch.ones(3).to("xpu:0")
        y = torch.ones(3).to("xpu:1")
        x + y  # raises, as on real devices
        x + y.to("xpu:0")

Like real devices they let a single number of the processor meet anything, and indices of the processor any tensor.
``spread`` puts the layers of a model on both, and moves what goes into a layer there, as accelerate does.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICES = torch.device("xpu:0"), torch.device("xpu:1")
CPU = torch.device("cpu")
ANY = {"copy_", "_copy_from"}  # between devices
INDEXING = {"index", "index_put", "index_put_"}


def place_of(tensor):
    return getattr(tensor, "_pretended", CPU)


def placed(tensor, device):
    """Say of a tensor that it is on ``device``."""
    tensor._pretended = device
    return tensor


class _Checked(TorchDispatchMode):
    """Below autograd: no operation on tensors of two devices; what it makes is where its inputs are."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [t for t in tree_flatten((args, kwargs or {}))[0] if isinstance(t, torch.Tensor)]
        name = func.overloadpacket.__name__
        where = {place_of(t) for t in tensors if t.dim() or place_of(t) != CPU}
        if name in INDEXING:
            where -= {CPU} if place_of(args[0]) != CPU else set()
        if len(where) > 1 and name not in ANY:
            raise RuntimeError(f"{name}: expected all tensors on one device, found {sorted(map(str, where))}")
        device = place_of(args[0]) if name in ANY else next(iter(where), CPU)
        made = func(*args, **(kwargs or {}))
        return tree_map(lambda t: placed(t, device) if isinstance(t, torch.Tensor) else t, made)


class Pretended(TorchFunctionMode):
    """Above: what is asked for on a pretended device is made on the processor and said to be there."""

    def __enter__(self):
        self.below = _Checked()
        self.below.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.below.__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:  # made anew by each look
            return place_of(args[0])
        if func is torch.Tensor.to:
            return self._to(func, args, kwargs)
        if func is torch.Tensor.cpu:
            return self._to(torch.Tensor.to, (args[0], CPU), {})
        if func is torch.Tensor.new_tensor and "device" not in kwargs:
            return placed(func(*args, **kwargs), place_of(args[0]))
        if kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            return placed(func(*args, **kwargs), device)
        return func(*args, **kwargs)

    def _to(self, func, args, kwargs):
        tensor, given, names = args[0], list(args[1:]), ["device", "dtype", "non_blocking", "copy"]
        if given and isinstance(given[0], torch.Tensor):
            given[:1] = [place_of(given[0]), given[0].dtype]
        elif given and isinstance(given[0], torch.dtype):
            del names[0]
        asked = dict(zip(names, given)) | kwargs
        device = torch.device(asked.pop("device", None) or place_of(tensor))
        asked = {name: value for name, value in asked.items() if value not in (None, False)}
        made = func(tensor, **asked) if asked else tensor
        if device == place_of(made):
            return made
        return placed(made.clone(), device)  # which leaves the first where it is


def spread(model, layers):
    """Put the embedding and the first layers on one device, the others and the rest on the other."""
    stack = model.base_model.layers
    for number, layer in enumerate(stack):
        _on(layer, DEVICES[number >= layers])
    _on(model.base_model.embed_tokens, DEVICES[0])
    for name, module in model.named_modules():
        if not any(name.startswith(f"{p}.layers.") or name == f"{p}.embed_tokens" for p in ("model", "transformer")):
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            if own:
                _on(module, DEVICES[1] if name.endswith(("norm", "lm_head")) else DEVICES[0])


def _on(module, device):
    for tensor in [*module.parameters(), *module.buffers()]:
        placed(tensor, device)

    def moved(module, args, kwargs):
        return tree_map(lambda t: t.to(device) if isinstance(t, torch.Tensor) else t, (args, kwargs))

    module.register_forward_pre_hook(moved, with_kwargs=True)
