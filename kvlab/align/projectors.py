"""Project teacher heads and width to student heads and width: [Ht * Dt] -> [Hs * Ds], for K and V separately.

``ridge`` is a free affine map in closed form; ``structured`` mixes heads and projects the width, as the seed's
``KVProjector`` does; ``group_mean`` fits nothing. Feature order is head-major: index = head * D + channel.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from kvlab.align.moments import Centred
from kvlab.errors import AlignError
from kvlab.language import Message

STRUCTURED_SWEEPS = 30


def group_mean(n_in: int, n_out: int) -> torch.Tensor:
    """Return [n_out, n_in], rows sum to 1: the mean over each contiguous group (12 -> 2: heads 0-5 and 6-11).

    Where n_out does not divide n_in, groups share a member by overlap; where n_out > n_in, members repeat.
    """
    if n_in < 1 or n_out < 1:
        raise AlignError(
            "heads-empty",
            expected=Message("at least one KV head and one channel on both sides"),
            found=f"{n_in} -> {n_out}",
            remedy=Message("count num_key_value_heads of both configurations, not the query heads"),
        )
    edges_in = torch.arange(n_in + 1, dtype=torch.float64) / n_in
    edges_out = torch.arange(n_out + 1, dtype=torch.float64) / n_out
    overlap = torch.minimum(edges_in[1:], edges_out[1:, None]) - torch.maximum(edges_in[:-1], edges_out[:-1, None])
    return overlap.clamp(min=0) * n_out


class StructuredProjection(nn.Module):
    """y[o, e] = sum over h, d of heads[o, h] * x[h, d] * width[d, e] + bias[o, e], started at the group mean."""

    def __init__(self, heads_t: int, heads_s: int, width_t: int, width_s: int):
        super().__init__()
        dtype = torch.get_default_dtype()
        self.heads = nn.Parameter(group_mean(heads_t, heads_s).to(dtype))  # [Hs, Ht]
        self.width = nn.Parameter(group_mean(width_t, width_s).T.contiguous().to(dtype))  # [Dt, Ds]
        self.bias = nn.Parameter(torch.zeros(heads_s, width_s))  # [Hs, Ds]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, Ht, T, Dt] -> [B, Hs, T, Ds]."""
        expected = (self.heads.shape[1], self.width.shape[0])
        if x.ndim != 4 or (x.shape[1], x.shape[3]) != expected:
            raise AlignError(
                "projector-shape",
                expected=Message(
                    "[batch, {heads} KV heads, time, head width {width}]", heads=expected[0], width=expected[1]
                ),
                found=Message("shape {shape}", shape=str(tuple(x.shape))),
                remedy=Message("build KVProjector with the teacher's num_key_value_heads and head width"),
            )
        mixed = torch.einsum("oh,bhtd->botd", self.heads, x)
        return mixed @ self.width + self.bias[:, None, :]

    def matrix(self) -> torch.Tensor:
        """The same map as one matrix [Ht * Dt, Hs * Ds]."""
        return kron(self.heads.T, self.width)


class KVProjector(nn.Module):
    """The seed's trainable projector: KV heads, then head width; keys and values never share a weight.

    ``width_t`` and ``width_s`` are key widths; value widths are the same unless given.
    """

    def __init__(
        self,
        heads_t: int,
        heads_s: int,
        width_t: int,
        width_s: int,
        value_width_t: int | None = None,
        value_width_s: int | None = None,
    ):
        super().__init__()
        self.key = StructuredProjection(heads_t, heads_s, width_t, width_s)
        self.value = StructuredProjection(heads_t, heads_s, value_width_t or width_t, value_width_s or width_s)

    def forward(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, Ht, T, Dt] each -> [B, Hs, T, Ds] each."""
        return self.key(keys), self.value(values)


def ridge(train: Centred, penalty: float) -> torch.Tensor:
    """W [P, Q] = (XX + penalty I)^-1 XY, of centred sums (Hoerl and Kennard 1970)."""
    return torch.linalg.solve(train.xx + penalty * torch.eye(len(train.xx)).to(train.xx), train.xy)


def ridge_path(train: Centred, relative_penalties: Sequence[float]) -> torch.Tensor:
    """Return W [penalties, P, Q] of one training set; penalties relative to the mean variance of the features.

    Solve by Cholesky factors, in the number type of the sums. Where rounding makes float32 sums indefinite, solve in
    float64; where it makes float64 sums indefinite, solve in their eigenbasis, clamped at zero.
    """
    penalties = train.xx.new_tensor([absolute_penalty(train, r) for r in relative_penalties])
    systems = train.xx.repeat(len(penalties), 1, 1)
    systems.diagonal(dim1=1, dim2=2).add_(penalties[:, None])
    factors, failed = torch.linalg.cholesky_ex(systems)
    if not failed.any():
        return torch.cholesky_solve(train.xy.expand(len(penalties), -1, -1), factors)
    if train.xx.dtype != torch.float64:
        bad = failed.bool()
        solutions = train.xx.new_empty(len(penalties), *train.xy.shape)
        for places, sums in ((~bad, train), (bad, train.double())):
            some = [r for r, wanted in zip(relative_penalties, places.tolist()) if wanted]
            solutions[places] = ridge_path(sums, some).to(train.xx)
        return solutions
    values, basis = torch.linalg.eigh(train.xx)
    rotated = basis.T @ train.xy
    return basis @ (rotated / (values.clamp(min=0) + penalties[:, None])[..., None])


def ridge_per_head(train: Centred, relative_penalties: torch.Tensor) -> torch.Tensor:
    """Fit W [P, Q] with a penalty [H] for each student head."""
    weights = torch.empty_like(train.xy).unflatten(1, (len(relative_penalties), -1))  # [P, H, D]
    by_head = train.xy.unflatten(1, (len(relative_penalties), -1))
    for penalty in relative_penalties.unique().tolist():
        heads = (relative_penalties == penalty).to(train.xy.device)
        some = replace(train, xy=by_head[:, heads].flatten(1))
        weights[:, heads] = ridge_path(some, [penalty])[0].unflatten(1, (int(heads.sum()), -1))
    return weights.flatten(1)


def absolute_penalty(train: Centred, relative: float) -> float:
    """Scale a relative penalty by the mean variance of the features; constant features get 1 (W is 0 anyway)."""
    return relative * float(train.xx.diagonal().mean()) or 1.0


def structured(train: Centred, heads_t: int, heads_s: int, penalty: float) -> torch.Tensor:
    """Solve W [P, Q] = kron(heads^T, width) of least squared error, by alternating exact solves from the group mean."""
    width_t, width_s = train.xx.shape[0] // heads_t, train.xy.shape[1] // heads_s
    gram = train.xx.reshape(heads_t, width_t, heads_t, width_t)
    cross = train.xy.reshape(heads_t, width_t, heads_s, width_s)
    heads = group_mean(heads_t, heads_s).to(train.xx)
    width = group_mean(width_t, width_s).T.to(train.xx)
    for _ in range(STRUCTURED_SWEEPS):
        gram_d = torch.einsum("oa,adbe,ob->de", heads, gram, heads)
        cross_d = torch.einsum("oa,adoe->de", heads, cross)
        width = torch.linalg.solve(gram_d + penalty * torch.eye(width_t).to(gram_d), cross_d)
        gram_h = torch.einsum("adbe,df,ef->ab", gram, width, width)
        cross_h = torch.einsum("adoe,de->ao", cross, width)
        scale = gram_h.diagonal().mean().clamp(min=torch.finfo(gram_h.dtype).tiny)
        heads = torch.linalg.solve(gram_h + 1e-9 * scale * torch.eye(heads_t).to(gram_h), cross_h).T
    return kron(heads.T, width)


def group_mean_matrix(heads_t: int, heads_s: int, width_t: int, width_s: int) -> torch.Tensor:
    """Return W [Ht * Dt, Hs * Ds] of the map that fits nothing."""
    return kron(group_mean(heads_t, heads_s).T, group_mean(width_t, width_s).T)


def kron(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the Kronecker product; torch.kron refuses the strides of a transposed matrix with one row."""
    return torch.einsum("ac,bd->abcd", a, b).reshape(a.shape[0] * b.shape[0], a.shape[1] * b.shape[1])
