"""What a watched rotary function does to its channels, found by handing it unit vectors; no layout is assumed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from kvlab.models.rotation import HEADS, Call, Channels, Pairs, Rotation

EXACT = 1e-5  # of the largest coefficient: the pairs are read from float32


# What calls of one forward that were given the same things have in common; good for as long as the calls are kept.
Known = dict[tuple, Any]


@dataclass(frozen=True, eq=False)
class Site:
    """Where a layer's rotation is found again in the next forward: which of its calls, and on which channels."""

    call: int
    heads_axis: int  # of the function's tensors: 1 for [B, H, T, D], 2 for [B, T, H, D]
    offset: int  # in the cache's channels
    pairs: Pairs
    ratio: torch.Tensor | float = 1.0  # as Rotation's

    def rotation(self, calls: list[Call], known: Known) -> Rotation:
        """The rotation of this forward; ``known`` remembers what its layers share."""
        call = calls[self.call]
        key = (self.pairs, self.offset, id(self.ratio), *_alike(call, self.heads_axis))
        if key not in known:
            turns = cos_sin(call, self.pairs, self.heads_axis)
            known[key] = Rotation(self.pairs, self.offset, *turns, self.ratio)
        return known[key]

    def behind(self, weight: torch.Tensor) -> Site:
        """The same rotation, seen from behind a norm with this ``weight`` [width]."""
        weight = weight.detach().float()
        return replace(self, ratio=weight[self.pairs.first_out] / weight[self.pairs.second_out])


def cos_sin(call: Call, pairs: Pairs, heads_axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The cosines and sines [B, 1, T, pairs] that ``call`` turns its pairs by."""
    shape = list(call.shapes[-1])
    shape[heads_axis] = 1
    probe = torch.zeros(shape, device=call.device)
    probe[..., pairs.first] = 1.0
    turned = call.turn(probe).float().transpose(HEADS, heads_axis)
    return turned[..., pairs.first_out], turned[..., pairs.second_out]


def _alike(call: Call, heads_axis: int) -> tuple:
    return call.function, call.shapes[-1], heads_axis, *map(id, call.others)


def pairs_of(call: Call, heads_axis: int, known: Known) -> Pairs | None:
    """The channels that ``call`` turns together; None for a function that is not a rotation of pairs (and a scale)."""
    key = _alike(call, heads_axis)
    if key not in known:
        known[key] = _pairs(call, heads_axis)
    return known[key]


def _pairs(call: Call, heads_axis: int) -> Pairs | None:
    shape = list(call.shapes[-1])
    width = shape[heads_axis] = shape[-1]
    units = torch.eye(width, device=call.device)  # one unit vector a head
    units = units[:, None] if heads_axis == HEADS else units
    try:
        turned = call.turn(units.expand(shape).contiguous())
        matrix = turned.float().transpose(HEADS, heads_axis)[0].transpose(0, 1).cpu()  # [T, in, out]
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return None
    if matrix.shape[1:] != (width, width):
        return None
    found = _pair_up(matrix)
    return None if found is None else _described(width, found)


def _pair_up(matrix: torch.Tensor) -> list[tuple[int, int, int, int]] | None:
    """Per pair (first, second, first_out, second_out), from coefficients [T, in, out] at several positions."""
    touched = (matrix != 0).any(0)
    used, found = set(), []
    for first in range(len(touched)):
        outs = touched[first].nonzero().flatten().tolist()
        if first in used or outs == [first]:
            continue
        partners = touched[:, outs].any(1).nonzero().flatten().tolist() if len(outs) == 2 else []
        if len(partners) != 2 or partners[0] != first:
            return None
        second = partners[1]
        for first_out, second_out in (outs, outs[::-1]):
            cos, sin = matrix[:, first, first_out], matrix[:, first, second_out]
            off = (matrix[:, second, second_out] - cos).abs() + (matrix[:, second, first_out] + sin).abs()
            if off.max() <= EXACT * matrix.abs().max():
                found.append((first, second, first_out, second_out))
                used |= {first, second}
                break
        else:
            return None
    if not found:
        return None
    # A scale without an angle (a frequency of zero) is a pair that turns by nothing.
    own = torch.diagonal(matrix, dim1=1, dim2=2)  # [T, in]
    scaled = [c for c in range(len(touched)) if c not in used and (own[:, c] != 1).any()]
    alike = all(torch.equal(own[:, c], own[:, scaled[0]]) for c in scaled)
    if not alike or len(scaled) % 2:
        return None
    return found + [(a, b, a, b) for a, b in zip(scaled[::2], scaled[1::2], strict=True)]


def _described(width: int, found: list[tuple[int, int, int, int]]) -> Pairs:
    first, second, first_out, second_out = zip(*found, strict=True)
    apart = {b - a for a, b in zip(first, second, strict=True)}
    consecutive = len(found) == first[-1] - first[0] + 1
    layout = "interleaved" if apart == {1} else "half" if len(apart) == 1 and consecutive else "mixed"
    return Pairs(width, len(found), *map(_channels, (first, second, first_out, second_out)), layout)


def _channels(channels: tuple[int, ...]) -> Channels:
    step = channels[1] - channels[0] if len(channels) > 1 else 1
    even = range(channels[0], channels[0] + step * len(channels), step) if step > 0 else ()
    if list(even) == list(channels):
        return slice(even.start, even.stop, step)
    with torch.inference_mode(False):  # found in inference mode, used by training too
        return torch.tensor(channels)
