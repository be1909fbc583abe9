"""Watch, describe, undo and redo rotary embeddings (RoPE) exactly as a model's own functions apply them.

Nothing here knows an architecture. During a forward, watch every function of the model's Python modules that is named
after a rotation, and keep its arguments without the queries and keys. Calling it again with a probe in their place
shows what it does: unit vectors show which channels it pairs, and one vector with a 1 in the first channel of every
pair returns the cosines and sines of that forward. This covers half and interleaved layouts, rotated shares of a head,
scaled or length-dependent frequencies, complex numbers and any order of arguments.
"""

import functools
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Cache, PreTrainedModel

NAMED_AFTER_A_ROTATION = re.compile(r"rot(ary|at)|rope", re.IGNORECASE)
HEADS, TIME = 1, 2  # axes of a cache [B, H, T, D]

Channels = slice | torch.Tensor  # which of D channels; a slice where they are evenly spaced


@dataclass(frozen=True, eq=False)
class Pairs:
    """The channels that turn together: pair n enters as (first, second)[n] and leaves as (first_out, second_out)[n]."""

    width: int  # channels the function was given
    count: int
    first: Channels
    second: Channels
    first_out: Channels
    second_out: Channels
    layout: str  # "half" | "interleaved" | "mixed"


@dataclass(frozen=True, eq=False)
class Rotation:
    """One layer's rotation at the positions of one forward, acting on ``width`` channels from ``offset`` on.

    Where a norm follows the rotation, the keys keep the norm. Its weights w do not turn with the channels, so the
    rotation seen from behind it is W R W^-1 (W = diag w), which needs of w only the ``ratio`` within each pair.
    """

    pairs: Pairs
    offset: int
    cos: torch.Tensor  # [B, 1, T, pairs] float32, times the attention factor where there is one
    sin: torch.Tensor
    ratio: torch.Tensor | float = 1.0  # [pairs] w[first] / w[second]

    @functools.cached_property
    def inverse(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return cos, sin * ratio and sin / ratio, over cos^2 + sin^2; computed once for all layers that turn alike."""
        scale = self.cos.square() + self.sin.square()
        sin = self.sin / scale
        return self.cos / scale, sin * self.ratio, sin / self.ratio


def rotate(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Rotate keys [B, H, T, D] float32 from before RoPE to what the model caches."""
    p, cos, sin = rotation.pairs, rotation.cos, rotation.sin
    out, here, there = _share(x, rotation)
    a, b = here[..., p.first], here[..., p.second]
    there[..., p.first_out] = a * cos - b * (sin * rotation.ratio)
    there[..., p.second_out] = b * cos + a * (sin / rotation.ratio)
    return out


def unrotate(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Rotate cached keys [..., B, H, T, D] float32 back to before RoPE; the inverse of ``rotate``."""
    p, (cos, sin_of_second, sin_of_first) = rotation.pairs, rotation.inverse
    out, here, there = _share(x, rotation)
    a, b = here[..., p.first_out], here[..., p.second_out]
    there[..., p.first] = a * cos + b * sin_of_second
    there[..., p.second] = b * cos - a * sin_of_first
    return out


def unrotate_layers(layers: Sequence[torch.Tensor], rotations: Sequence[Rotation | None]) -> list[torch.Tensor]:
    """Undo the rotation of the keys of every layer in float32; keep keys without a rotation.

    Turn layers with the same rotation together: on a GPU many small kernels cost more than their work.
    """
    alike: dict[tuple, list[int]] = {}
    for place, (x, rotation) in enumerate(zip(layers, rotations, strict=True)):
        alike.setdefault((id(rotation), x.shape), []).append(place)
    unrotated: dict[int, torch.Tensor] = {}
    for places in alike.values():
        rotation = rotations[places[0]]
        if rotation is None:
            unrotated |= {place: layers[place].float() for place in places}
        else:
            together = unrotate(torch.stack([layers[place] for place in places]).float(), rotation)
            unrotated |= dict(zip(places, together, strict=True))
    return [unrotated[place] for place in range(len(layers))]


def _share(x: torch.Tensor, rotation: Rotation) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return an output tensor that holds the channels without rotation, and the rotated channels of x and of it."""
    whole = 2 * rotation.pairs.count == x.shape[-1]
    out = torch.empty_like(x) if whole else x.clone()
    share = slice(rotation.offset, rotation.offset + rotation.pairs.width)
    return out, x[..., share], out[..., share]


@dataclass(eq=False)
class Call:
    """A function and its arguments, without the tensors that it turns (only their ``shapes``)."""

    function: Callable
    shapes: list[torch.Size]
    device: torch.device
    others: list[Any]  # the other positional arguments, then those by name
    names: tuple[str, ...]
    made: torch.Tensor | None = None  # the last result, where the watch keeps results

    def turn(self, x: torch.Tensor) -> torch.Tensor:
        """Call the function with ``x`` in the place of each tensor that it turned; return its last result."""
        values = [x] * len(self.shapes) + self.others
        by_position = len(values) - len(self.names)
        result = self.function(*values[:by_position], **dict(zip(self.names, values[by_position:], strict=True)))
        return result[-1] if isinstance(result, tuple) else result


@dataclass(eq=False)
class Watch:
    """The rotations seen in a forward: for each cached layer the calls since the layer before it."""

    keep_results: bool = False
    thread: int = field(default_factory=threading.get_ident)
    layers: dict[int, list[Call]] = field(default_factory=dict)
    pending: list[Call] = field(default_factory=list)
    inside: bool = False

    @contextmanager
    def following(self, cache: Cache) -> Iterator[None]:
        """Assign each call to the layer that stores its keys next."""
        store = cache.update

        def update(key_states, value_states, layer_idx, *args, **kwargs):
            self.layers[layer_idx], self.pending = self.pending, []
            return store(key_states, value_states, layer_idx, *args, **kwargs)

        cache.update = update
        try:
            yield
        finally:
            del cache.update  # otherwise the cache refers to itself and its memory waits for the garbage collector

    def note(self, function: Callable, args: tuple, kwargs: dict[str, Any], result: Any) -> None:
        turned = result if isinstance(result, tuple) else (result,)
        values = [*args, *kwargs.values()]
        whole = all(isinstance(t, torch.Tensor) and t.dim() == 4 and t.is_floating_point() for t in turned)
        if whole and all(getattr(v, "shape", None) == t.shape for v, t in zip(values, turned, strict=False)):
            shapes = [t.shape for t in turned]
            names = tuple(kwargs)[max(0, len(shapes) - len(args)) :]
            made = turned[-1] if self.keep_results else None
            self.pending.append(Call(function, shapes, turned[-1].device, values[len(shapes) :], names, made))


_watching = threading.Lock()


@contextmanager
def watched(model: PreTrainedModel, watch: Watch, cache: Cache) -> Iterator[None]:
    """Watch the rotary functions of a model's Python modules while this thread fills ``cache``; then restore them.

    All models of the architecture share the functions, so only one forward at a time is watched. Calls from other
    threads are not noted.
    """
    with _watching:
        borrowed = [(module, name, getattr(module, name)) for module, name in _rotary_functions(model)]
        try:
            for module, name, function in borrowed:
                setattr(module, name, _noting(function, watch))
            with watch.following(cache):
                yield
        finally:
            for module, name, function in borrowed:
                setattr(module, name, function)


def _rotary_functions(model: PreTrainedModel) -> list[tuple[Any, str]]:
    sources = {type(module).__module__ for module in model.modules()}
    return [
        (sys.modules[source], name)
        for source in sorted(sources)
        if not source.startswith("torch.")
        for name, function in vars(sys.modules[source]).items()
        if NAMED_AFTER_A_ROTATION.search(name) and callable(function) and not isinstance(function, type)
    ]


def _noting(function: Callable, watch: Watch) -> Callable:
    @functools.wraps(function)
    def call(*args, **kwargs):
        if watch.inside or watch.thread != threading.get_ident():
            return function(*args, **kwargs)
        watch.inside = True  # a rotary function that calls another counts as one rotation
        try:
            result = function(*args, **kwargs)
        finally:
            watch.inside = False
        watch.note(function, args, kwargs, result)
        return result

    return call
