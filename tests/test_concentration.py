"""Variance in a handful of tokens: planted, and against the rows themselves."""

import torch

from kvlab.align.outcome import concentrated, share_of_few
from tests.rows import sample_of


def planted(spike: float, seed: int = 0):
    """Six folds of 200 rows, a layer of 2 heads of 4: in two rows of each fold head 1 is far from the others."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(1200, 8, generator=g, dtype=torch.float64) + 5
    rows[::100, 4:] += spike
    return rows


def test_the_share_is_that_of_the_rows_farthest_from_the_mean():
    rows = planted(30.0)
    sample = sample_of([rows], [rows], 6)
    centred = (rows - rows.mean(0)).unflatten(1, (2, 4)).square().sum(2)
    expected = [sorted(of.tolist())[-12:] for of in centred.T]
    found = share_of_few(sample, "key", 0, 2)
    torch.testing.assert_close(found, torch.tensor([sum(e) for e in expected]).double() / centred.sum(0))
    assert found[0] < 0.05 < 0.8 < found[1]


def test_heads_with_it_are_counted_k_and_v():
    for spike, count in ((30.0, 2), (0.0, 0)):
        rows = planted(spike)
        assert concentrated(sample_of([rows], [rows], 6), [2], 0.5) == count
