"""Unbiased CKA from sums against its definition on explicit Gram matrices, its null and its invariances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlab.align.similarity import CrossMoments, cka, hsic, own_hsic


def dense_hsic(x, y):
    """HSIC_1, Song et al. 2012, eq. 5, with the matrices written out."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    one = np.ones(n)
    trace = np.trace(k @ m)
    sums = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (trace + sums - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def layers(seed, n, widths, offset=0.0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 3))
    return [torch.from_numpy(rng.normal(size=(n, w)) + shared @ rng.normal(size=(3, w)) + offset) for w in widths]


def cka_of(a, b):
    return cka(CrossMoments.of(a, b), torch.stack([own_hsic(x) for x in a]), torch.stack([own_hsic(y) for y in b]))


@settings(max_examples=25)
@given(seed=st.integers(0, 9999), n=st.integers(5, 60), offset=st.sampled_from([0.0, 3.0]))
def test_all_pairs_equal_the_dense_definition(seed, n, offset):
    a, b = layers(seed, n, (2, 5, 3), offset), layers(seed + 1, n, (4, 2))
    found = hsic(CrossMoments.of(a, b))
    expected = np.array([[dense_hsic(x.numpy(), y.numpy()) for y in b] for x in a])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_sums_of_parts_are_the_sums_of_the_whole_and_can_be_taken_away():
    a, b = layers(1, 40, (3, 4)), layers(2, 40, (5,))
    first, second = (CrossMoments.of([x[s] for x in a], [y[s] for y in b]) for s in (slice(0, 25), slice(25, 40)))
    torch.testing.assert_close(hsic(first + second), hsic(CrossMoments.of(a, b)))
    torch.testing.assert_close(hsic(first + second - first), hsic(second))


def test_a_layer_is_as_similar_to_itself_as_can_be_whatever_its_offset_scale_and_basis():
    (x,) = layers(3, 80, (6,))
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    assert float(cka_of([x], [x])) == pytest.approx(1)
    assert float(cka_of([x], [3 * x @ rotation + 5])) == pytest.approx(1)


def test_independent_noise_is_not_similar_where_the_biased_form_says_it_is():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(64, 512, generator=generator, dtype=torch.float64) for _ in "xy")
    assert abs(float(cka_of([x], [y]))) <= 0.03
    xc, yc = x - x.mean(0), y - y.mean(0)
    biased = (xc.T @ yc).norm() ** 2 / ((xc.T @ xc).norm() * (yc.T @ yc).norm())
    assert biased > 0.8


def test_what_does_not_vary_or_is_too_short_has_no_similarity():
    (x,) = layers(4, 30, (3,))
    assert torch.isnan(cka_of([x], [torch.zeros(30, 2, dtype=torch.float64)])).all()
    assert torch.isnan(cka_of([x[:3]], [x[:3]])).all()


def test_too_few_rows_are_not_a_number_on_the_device_of_the_rows():
    few = torch.randn(3, 5)
    assert hsic(CrossMoments.of([few], [few])).isnan().all()
    assert hsic(CrossMoments.of([few.to("meta")], [few.to("meta")])).device.type == "meta"
