"""Find what a watched rotary function does to its channels, by calling it with unit vectors; assume no layout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from kvlab.models.rotation import HEADS, Call, Channels, Pairs, Rotation

EXACT = 1e-5  # of the largest coefficient: pairs are found in float32


# Shared results of calls of one forward with the same arguments; valid as long as these calls exist.
Known = dict[tuple, Any]


@dataclass(frozen=True, eq=False)
class Site:
    """The place of a layer's rotation in any forward: the number of its call, and the channels."""

    call: int
    heads_axis: int  # of the function's tensors: 1 for [B, H, T, D], 2 for [B, T, H, D]
    offset: int  # in the cache's channels
    pairs: Pairs
    ratio: torch.Tensor | float = 1.0  # as Rotation's

    def rotation(self, calls: list[Call], known: Known) -> Rotation:
        """Return the rotation of this forward; ``known`` remembers what its layers share."""
        call = calls[self.call]
        key = (self.pairs, self.offset, id(self.ratio), *_alike(call, self.heads_axis))
        if key not in known:
            turns = cos_sin(call, self.pairs, self.heads_axis)
            known[key] = Rotation(self.pairs, self.offset, *turns, self.ratio)
        return known[key]

    def behind(self, weight: torch.Tensor) -> Site:
        """Return this rotation as it looks behind a norm with this ``weight`` [width]."""
        weight = weight.detach().float()
        return replace(self, ratio=weight[self.pairs.first_out] / weight[self.pairs.second_out])


def cos_sin(call: Call, pairs: Pairs, heads_axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosines and sines [B, 1, T, pairs] by which ``call`` turns its pairs."""
    shape = list(call.shapes[-1])
    shape[heads_axis] = 1
    probe = torch.zeros(shape, device=call.device)
    probe[..., pairs.first] = 1.0
    turned = call.turn(probe).float().transpose(HEADS, heads_axis)
    return turned[..., pairs.first_out], turned[..., pairs.second_out]


def _alike(call: Call, heads_axis: int) -> tuple:
    return call.function, call.shapes[-1], heads_axis, *map(id, call.others)


def pairs_of(call: Call, heads_axis: int, known: Known) -> Pairs | None:
    """Return the channels that ``call`` turns together; None for a function other than a (scaled) rotation of pairs."""
    key = _alike(call, heads_axis)
    if key not in known:
        known[key] = _pairs(call, heads_axis)
    return known[key]


def _pairs(call: Call, heads_axis: int) -> Pairs | None:
    shape = list(call.shapes[-1])
    width = shape[heads_axis] = shape[-1]
    units = torch.eye(width, device=call.device)  # one unit vector per head
    units = units[:, None] if heads_axis == HEADS else units
    try:
        turned = call.turn(units.expand(shape).contiguous())
        matrix = turned.float().transpose(HEADS, heads_axis)[0].transpose(0, 1).cpu()  # [T, in, out]
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return None
    if matrix.shape[1:] != (width, width):
        return None
    pairs = _pair_up(matrix)
    return None if pairs is None else _described(width, pairs)


def _pair_up(matrix: torch.Tensor) -> list[tuple[int, int, int, int]] | None:
    """Return (first, second, first_out, second_out) per pair, from coefficients [T, in, out] at several positions."""
    touched = (matrix != 0).any(0)
    used, pairs = set(), []
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
                pairs.append((first, second, first_out, second_out))
                used |= {first, second}
                break
        else:
            return None
    if not pairs:
        return None
    # Channels with a scale but no angle (a frequency of zero) count as pairs that turn by zero.
    diagonal = torch.diagonal(matrix, dim1=1, dim2=2)  # [T, in]
    scaled = [c for c in range(len(touched)) if c not in used and (diagonal[:, c] != 1).any()]
    alike = all(torch.equal(diagonal[:, c], diagonal[:, scaled[0]]) for c in scaled)
    if not alike or len(scaled) % 2:
        return None
    return pairs + [(a, b, a, b) for a, b in zip(scaled[::2], scaled[1::2], strict=True)]


def _described(width: int, pairs: list[tuple[int, int, int, int]]) -> Pairs:
    first, second, first_out, second_out = zip(*pairs, strict=True)
    apart = {b - a for a, b in zip(first, second, strict=True)}
    consecutive = len(pairs) == first[-1] - first[0] + 1
    layout = "half" if len(apart) == 1 and consecutive else "mixed"
    layout = "interleaved" if apart == {1} else layout
    return Pairs(width, len(pairs), *map(_channels, (first, second, first_out, second_out)), layout)


def _channels(channels: tuple[int, ...]) -> Channels:
    step = channels[1] - channels[0] if len(channels) > 1 else 1
    even = range(channels[0], channels[0] + step * len(channels), step) if step > 0 else ()
    if list(even) == list(channels):
        return slice(even.start, even.stop, step)
    with torch.inference_mode(False):  # training uses it too, outside inference mode
        return torch.tensor(channels)
