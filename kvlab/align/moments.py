"""Sums over rows from which every score follows; memory does not grow with the number of rows.

X [N, P] are a teacher's features (P = Ht * Dt), Y [N, Q] a student's targets (Q = Hs * Ds). Rows are shifted by a
pilot mean, so that a large common offset does not cost digits of the variance. X^T X is computed in float64: a float32
product has a rounding error of 5e-8 of the mean variance, which a ridge with a penalty of 1e-6 enlarges until
predictions off the usual rows depend on the processor. For products of features and targets the rows' own number type
is enough. All products take ``CHUNK`` rows at a time and are summed in float64. Inputs and outputs are separate
because controls share one of the two. A row of weight k counts as k equal rows.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

import torch

CHUNK = 4096  # rows per product: a float32 product of more loses digits
BLOCK = 128  # columns of a symmetric product at a time


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return A^T B [P, Q] in float64, of rows [N, P] and [N, Q]."""
    if len(a) <= CHUNK:
        return (a.T @ b).double()
    return sum((x.T @ y).double() for x, y in zip(a.split(CHUNK), b.split(CHUNK)))


def gram_of(rows: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Return X^T diag(w) X [P, P] of rows [N, P], w [N] or 1, in float64; compute half of it, as it is symmetric."""
    width = rows.shape[1]
    gram = torch.zeros(width, width, dtype=torch.float64, device=rows.device)
    roots = None if weights is None else weights.double().sqrt()[:, None].split(CHUNK)
    for number, part in enumerate(rows.split(CHUNK)):
        part = part.double() if roots is None else part.double() * roots[number]
        for first in range(0, width, BLOCK):
            gram[first : first + BLOCK, first:].addmm_(part[:, first : first + BLOCK].T, part[:, first:])
    for first in range(0, width, BLOCK):
        behind = first + BLOCK
        gram[behind:, first:behind] = gram[first:behind, behind:].T
    return gram


def pilot_of(rows: torch.Tensor) -> torch.Tensor:
    """Return the mean of a first batch [P], rounded to its number type, so that every device subtracts the same."""
    return rows.double().mean(0).to(rows.dtype).double()


def shifted(rows: torch.Tensor, pilot: torch.Tensor) -> torch.Tensor:
    """Return rows [N, P] about their pilot [P], in their own number type."""
    return rows - pilot.to(rows.dtype)


class Additive:
    """Sums over rows that are added and subtracted field by field; pilots and widths stay as they are."""

    def added(self) -> list[str]:
        """Return the names of the fields that are sums."""
        return [field.name for field in fields(self) if not field.name.startswith(("pilot", "widths"))]

    def _combined(self, other: Self, operation: Callable) -> Self:
        return replace(self, **{name: operation(getattr(self, name), getattr(other, name)) for name in self.added()})

    def __add__(self, other: Self) -> Self:
        return self._combined(other, operator.add)

    def __sub__(self, other: Self) -> Self:
        return self._combined(other, operator.sub)


def _weighted(rows: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    return rows if weights is None else rows * weights.to(rows.dtype)[:, None]


def _weight(rows: torch.Tensor, weights: torch.Tensor | None) -> float | torch.Tensor:
    """The weight of all rows; of weighted ones a tensor, which does not wait for the device."""
    return len(rows) if weights is None else weights.sum(dtype=torch.float64)


@dataclass
class Inputs(Additive):
    """n, their weight W, sum of w x [P] and sum of w x x^T [P, P], of rows shifted by ``pilot`` [P]."""

    pilot: torch.Tensor
    n: int
    weight: float | torch.Tensor
    total: torch.Tensor
    gram: torch.Tensor

    @classmethod
    def empty(cls, pilot: torch.Tensor) -> Inputs:
        pilot = pilot.double()
        return cls(pilot, 0, 0, torch.zeros_like(pilot), pilot.new_zeros(len(pilot), len(pilot)))

    def add(self, x: torch.Tensor) -> None:
        self.add_shifted(shifted(x, self.pilot))

    def add_shifted(self, x: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        self.n += len(x)
        self.weight = self.weight + _weight(x, weights)
        self.total += _weighted(x, weights).sum(0, dtype=torch.float64)
        self.gram += gram_of(x, weights)

    def mean(self) -> torch.Tensor:
        """[P], shifted by the pilot."""
        return self.total / (self.weight if self.n else 1)

    def gram_about(self, centre: torch.Tensor) -> torch.Tensor:
        """Sum of w (x - c)(x - c)^T [P, P] with c shifted by the pilot."""
        # In place: the products are quick, what costs is memory for each of four matrices.
        about = self.gram.addr(self.total, centre, alpha=-1)
        return about.addr_(centre, self.weight * centre - self.total)


@dataclass
class Outputs(Additive):
    """n, their weight W, sum of w y [Q], sum of w x y^T [P, Q] and sum of w y^2 [Q], of shifted rows.

    ``plain`` [Q] is the sum of y: scores are about the mean of rows that count alike.
    """

    pilot_x: torch.Tensor
    pilot_y: torch.Tensor
    n: int
    weight: float | torch.Tensor
    total: torch.Tensor
    plain: torch.Tensor
    cross: torch.Tensor
    squares: torch.Tensor

    @classmethod
    def empty(cls, pilot_x: torch.Tensor, pilot_y: torch.Tensor) -> Outputs:
        pilot_x, pilot_y = pilot_x.double(), pilot_y.double()
        total, plain, squares = (torch.zeros_like(pilot_y) for _ in range(3))
        return cls(pilot_x, pilot_y, 0, 0, total, plain, pilot_x.new_zeros(len(pilot_x), len(pilot_y)), squares)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.add_shifted(shifted(x, self.pilot_x), shifted(y, self.pilot_y))

    def add_shifted(self, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        self.n += len(y)
        self.weight = self.weight + _weight(y, weights)
        plain, weighted = y.sum(0, dtype=torch.float64), _weighted(y, weights)
        self.plain += plain
        self.total += plain if weights is None else weighted.sum(0, dtype=torch.float64)
        self.cross += product(x, weighted)
        self.squares += (weighted * y).sum(0, dtype=torch.float64)

    def mean(self) -> torch.Tensor:
        """[Q], shifted by the pilot."""
        return self.total / (self.weight if self.n else 1)

    def plain_mean(self) -> torch.Tensor:
        """[Q] of the rows without their weights, shifted by the pilot."""
        return self.plain / max(self.n, 1)

    def cross_about(self, centre_x: torch.Tensor, total_x: torch.Tensor, centre_y: torch.Tensor) -> torch.Tensor:
        """Sum of w (x - cx)(y - cy)^T [P, Q]; ``total_x`` is the inputs' sum over the same rows."""
        about = self.cross.addr(total_x, centre_y, alpha=-1)
        return about.addr_(centre_x, self.weight * centre_y - self.total)

    def squares_about(self, centre_y: torch.Tensor) -> torch.Tensor:
        """Sum of w (y - cy)^2 [Q]."""
        return self.squares - 2 * centre_y * self.total + self.weight * centre_y**2


@dataclass
class HeadGrams(Additive):
    """n, sum of y [Q] and, for each head, sum of y_h y_h^T [H, D, D], of rows shifted by ``pilot`` [Q = H * D]."""

    pilot: torch.Tensor
    n: int
    total: torch.Tensor
    gram: torch.Tensor

    @classmethod
    def empty(cls, pilot: torch.Tensor, heads: int) -> HeadGrams:
        pilot = pilot.double()
        width = len(pilot) // heads
        return cls(pilot, 0, torch.zeros_like(pilot), pilot.new_zeros(heads, width, width))

    def add_shifted(self, y: torch.Tensor) -> None:
        self.n += len(y)
        self.total += y.sum(0, dtype=torch.float64)
        for rows in y.split(CHUNK):
            of_heads = rows.double().unflatten(1, (len(self.gram), -1)).transpose(0, 1)  # [H, N, D]
            self.gram += of_heads.mT @ of_heads

    def select(self, first: int, count: int) -> HeadGrams:
        """Return the sums of ``count`` heads from ``first`` on."""
        width = self.gram.shape[-1]
        channels = slice(first * width, (first + count) * width)
        return HeadGrams(self.pilot[channels], self.n, self.total[channels], self.gram[first : first + count])

    def gram_about(self, centre: torch.Tensor) -> torch.Tensor:
        """Sum of (y_h - c_h)(y_h - c_h)^T [H, D, D] with c [Q] shifted by the pilot."""
        total, centre = (v.unflatten(0, (len(self.gram), -1)) for v in (self.total, centre))
        outer = total[:, :, None] * centre[:, None, :]
        return self.gram - outer - outer.mT + self.n * centre[:, :, None] * centre[:, None, :]


@dataclass(frozen=True)
class Centred:
    """Sums about the means of the rows of a training set, on which a map is fitted."""

    n: int
    mean_x: torch.Tensor  # [P], shifted by the pilot
    mean_y: torch.Tensor  # [Q], shifted by the pilot
    xx: torch.Tensor  # [P, P]
    xy: torch.Tensor  # [P, Q]
    yy: torch.Tensor  # [Q]

    def features(self, columns: torch.Tensor) -> Centred:
        """Return the sums of some of the features only."""
        if len(columns) == len(self.mean_x):
            return self
        first, last = int(columns[0]), int(columns[-1]) + 1
        # Neighbours are a view; copies of large matrices take as long as products with them.
        some = slice(first, last) if last - first == len(columns) else columns
        return replace(self, mean_x=self.mean_x[some], xx=self.xx[some][:, some], xy=self.xy[some])

    def targets(self, channels: torch.Tensor) -> Centred:
        """The same with some of the targets only."""
        if len(channels) == len(self.mean_y):
            return self
        return replace(self, mean_y=self.mean_y[channels], xy=self.xy[:, channels], yy=self.yy[channels])

    def single(self) -> Centred:
        """Return the sums in float32, for uses that need no more digits."""
        return self._as(torch.float32)

    def double(self) -> Centred:
        return self._as(torch.float64)

    def _as(self, dtype: torch.dtype) -> Centred:
        return Centred(self.n, *(t.to(dtype) for t in (self.mean_x, self.mean_y, self.xx, self.xy, self.yy)))


def centred(inputs: Inputs, outputs: Outputs, mean_x: torch.Tensor, mean_y: torch.Tensor) -> Centred:
    """Return sums about any two centres; about the rows' own means they are (co)variances times n."""
    return Centred(
        n=outputs.n,
        mean_x=mean_x,
        mean_y=mean_y,
        xx=inputs.gram_about(mean_x),
        xy=outputs.cross_about(mean_x, inputs.total, mean_y),
        yy=outputs.squares_about(mean_y),
    )


def about_own_mean(inputs: Inputs, outputs: Outputs) -> Centred:
    return centred(inputs, outputs, inputs.mean(), outputs.mean())
