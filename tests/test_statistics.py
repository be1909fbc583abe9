"""Sums of float32 rows against float64 on the same rows: outlier channels, offsets, pieces."""

import numpy as np
import pytest
import torch

from kvlab.align import moments
from kvlab.align.crossfit import crossfit_ridge
from kvlab.align.fold_sums import FIT_AND_SCORE, Pairing
from kvlab.align.moments import Inputs, gram_of, pilot_of, product

N, P, Q, FOLDS = 6000, 48, 8, 4


def outlier_rows(dtype):
    """Float32 rows whose covariance has condition 1e10: channels from 1e-2 to 1e3, some of them nearly the same."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(N, P, generator=g, dtype=torch.float64)
    x[:, 1] = x[:, 0] + 0.05 * x[:, 1]
    x = x * torch.logspace(-2, 3, P, dtype=torch.float64) + 50
    w = torch.randn(P, Q, generator=g, dtype=torch.float64) / torch.logspace(-2, 3, P, dtype=torch.float64)[:, None]
    y = (x - 50) @ w / 7 + 0.7 * torch.randn(N, Q, generator=g, dtype=torch.float64)
    return x.float().to(dtype), y.float().to(dtype)


def scores(dtype):
    x, y = outlier_rows(dtype)
    pairing = Pairing.begin(pilot_of(x[:500]), pilot_of(y[:500]), FOLDS)
    for f in range(FOLDS):
        for piece in torch.arange(f, N, FOLDS).split(400):
            pairing.add(f, FIT_AND_SCORE, x[piece], y[piece])
    return crossfit_ridge(pairing, 2)


def test_scores_from_float32_products_equal_float64_at_condition_1e10():
    x, _ = outlier_rows(torch.float64)
    values = np.linalg.eigvalsh(np.cov(x.numpy().T))
    assert values[-1] / values[0] > 1e10
    single, double = scores(torch.float32), scores(torch.float64)
    assert torch.equal(single.penalties, double.penalties)
    assert (double.r2 > 0.05).all() and (double.r2 < 0.95).all()
    torch.testing.assert_close(single.r2, double.r2, rtol=0, atol=1e-6)
    torch.testing.assert_close(single.rss / single.tss, double.rss / double.tss, rtol=0, atol=1e-6)


def test_a_raw_float32_gram_of_such_rows_is_not_even_positive(monkeypatch):
    """What the pilot mean and the float64 sums are for: the usual way fails on these rows."""
    x, _ = outlier_rows(torch.float32)
    raw = x.T @ x - N * torch.outer(x.mean(0), x.mean(0))
    sums = Inputs.empty(pilot_of(x[:500]))
    for piece in x.split(400):
        sums.add(piece)
    ours = sums.gram_about(sums.mean())
    expected = torch.from_numpy(np.cov(x.double().numpy().T, bias=True) * N)
    scale = expected.diagonal().sqrt()
    error_ours, error_raw = (((g - expected) / torch.outer(scale, scale)).abs().max() for g in (ours, raw.double()))
    assert error_ours < 1e-6 < 100 * error_ours < error_raw


@pytest.mark.parametrize("rows", [1, 7, 12])
def test_products_in_pieces_are_the_product(rows, monkeypatch):
    monkeypatch.setattr(moments, "CHUNK", 5)
    a, b = torch.randn(rows, 3), torch.randn(rows, 4)
    found = product(a, b)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, a.double().T @ b.double(), rtol=1e-5, atol=1e-6)


def test_pieces_are_summed_in_float64(monkeypatch):
    """No float32 is 2^24 + 1, so one product of all rows cannot give it."""
    monkeypatch.setattr(moments, "CHUNK", 5)
    rows = torch.tensor([2.0**24, 0, 0, 0, 0, 1])[:, None]
    assert product(rows, torch.ones(6, 1)).item() == 2**24 + 1


@pytest.mark.parametrize("rows", [1, 7, 12])
@pytest.mark.parametrize("width", [1, 3, 4, 11])
def test_the_product_of_rows_with_themselves_is_that_of_float64_and_symmetric(rows, width, monkeypatch):
    monkeypatch.setattr(moments, "CHUNK", 5)
    monkeypatch.setattr(moments, "BLOCK", 4)
    x = torch.randn(rows, width)
    found = gram_of(x)
    assert torch.equal(found, found.T)
    torch.testing.assert_close(found, x.double().T @ x.double(), rtol=1e-12, atol=1e-12)
