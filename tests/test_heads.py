"""Projectors: their start, their equivalent matrix, and the closed forms against independent solvers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvlab.align import projectors
from kvlab.align.moments import Centred, Inputs, Outputs, about_own_mean
from kvlab.errors import AlignError

sizes = st.integers(min_value=1, max_value=40)


def sums_of(x, y):
    inputs, outputs = Inputs.empty(x.mean(0)), Outputs.empty(x.mean(0), y.mean(0))
    inputs.add(x)
    outputs.add(x, y)
    return about_own_mean(inputs, outputs)


@given(n_in=sizes, n_out=sizes)
def test_group_mean_rows_are_averages_and_use_every_member_alike(n_in, n_out):
    m = projectors.group_mean(n_in, n_out)
    assert (m >= 0).all()
    torch.testing.assert_close(m.sum(1), torch.ones(n_out, dtype=torch.float64))
    torch.testing.assert_close(m.sum(0), torch.full((n_in,), n_out / n_in, dtype=torch.float64))


def test_group_mean_of_divisible_counts_is_the_plain_mean_of_each_group():
    np.testing.assert_allclose(projectors.group_mean(6, 2), [[1 / 3] * 3 + [0] * 3, [0] * 3 + [1 / 3] * 3], atol=1e-15)
    np.testing.assert_allclose(projectors.group_mean(2, 4), [[1, 0], [1, 0], [0, 1], [0, 1]], atol=1e-15)
    with pytest.raises(AlignError, match="0 -> 2"):
        projectors.group_mean(0, 2)


def test_projector_equals_its_matrix_with_different_key_and_value_widths():
    projector = projectors.KVProjector(6, 4, 8, 16, 12, 20)
    for p in projector.parameters():
        torch.nn.init.normal_(p)
    for part, width in ((projector.key, 8), (projector.value, 12)):
        x = torch.randn(3, 6, 5, width)
        flat = x.transpose(1, 2).flatten(2)
        expected = (flat @ part.matrix() + part.bias.flatten()).unflatten(2, (4, -1)).transpose(1, 2)
        torch.testing.assert_close(part(x), expected, rtol=1e-4, atol=1e-4)


def test_projector_names_both_shapes_when_heads_are_miscounted():
    with pytest.raises(AlignError, match=r"4 KV heads, time, head width 8.*\(1, 28, 5, 8\).*num_key_value_heads"):
        projectors.KVProjector(4, 2, 8, 8)(torch.zeros(1, 28, 5, 8), torch.zeros(1, 28, 5, 8))


def test_ridge_is_the_least_squares_solution_of_the_augmented_system():
    torch.manual_seed(0)
    x, y = torch.randn(60, 12).double() + 5, torch.randn(60, 7).double()
    penalty = 3.0
    w = projectors.ridge(sums_of(x, y), penalty)
    xc, yc = x - x.mean(0), y - y.mean(0)
    stacked = np.vstack([xc.numpy(), np.sqrt(penalty) * np.eye(12)])
    expected, *_ = np.linalg.lstsq(stacked, np.vstack([yc.numpy(), np.zeros((12, 7))]), rcond=None)
    np.testing.assert_allclose(w.numpy(), expected, atol=1e-10)


def test_sums_that_rounding_left_indefinite_are_solved_without_their_negative_directions():
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64)).Q
    values = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, -1e-3], dtype=torch.float64)
    xx, xy = basis * values @ basis.T, torch.randn(6, 2, generator=g, dtype=torch.float64)
    train = Centred(9, torch.zeros(6), torch.zeros(2), xx, xy, torch.ones(2))
    repaired = basis * values.clamp(min=0) @ basis.T
    relative_penalties = (1e-6, 1e-2)  # the first leaves the sums indefinite
    for w, relative in zip(projectors.ridge_path(train, relative_penalties), relative_penalties, strict=True):
        penalty = relative * float(xx.diagonal().mean())
        expected = np.linalg.solve(repaired.numpy() + penalty * np.eye(6), xy.numpy())
        np.testing.assert_allclose(w, expected, rtol=1e-6, atol=1e-6)


def test_structured_recovers_a_map_of_its_own_form():
    torch.manual_seed(0)
    mixing, width = torch.rand(2, 6).double(), torch.randn(4, 3).double()
    x = torch.randn(2000, 24).double()
    true = torch.kron(mixing.T.contiguous(), width)
    found = projectors.structured(sums_of(x, x @ true + 1), 6, 2, penalty=1e-9)
    torch.testing.assert_close(found, true, rtol=1e-4, atol=1e-4)


def test_structured_is_no_better_than_ridge_and_no_worse_than_the_group_mean_on_its_own_rows():
    torch.manual_seed(1)
    x, y = torch.randn(500, 24).double(), torch.randn(500, 6).double()
    y += x @ torch.randn(24, 6).double()
    train = sums_of(x, y)
    xc, yc = x - x.mean(0), y - y.mean(0)

    def loss(w):
        return float(((yc - xc @ w) ** 2).sum())

    structured = loss(projectors.structured(train, 6, 2, penalty=1e-9))
    assert loss(projectors.ridge(train, 1e-9)) < structured < loss(projectors.group_mean_matrix(6, 2, 4, 3))
