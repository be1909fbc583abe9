"""Several teachers in the student's space: the same one twice brings nothing, halves of the signal add up."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from kvlab.align import fusion
from kvlab.align.crossfit import crossfit_ridge
from kvlab.align.fusion import FusionSums, fuse
from kvlab.align.layers import Choice
from kvlab.align.sums import FIT_AND_SCORE, Pairing
from kvlab.types import KINDS
from tests.rows import Block, planted, teacher_layers

N, FOLDS, WIDTH, HEADS = 900, 4, 5, 2


def fused(xs, y, own_rows=slice(None)):
    """Teachers with one layer each, their rows ``xs`` [A][N, P]; each fitted on some rows of its own."""
    one = Choice.of((0,), [(0,)] * FOLDS, lambda layer: WIDTH)
    sums = FusionSums([{kind: [one] for kind in KINDS} for _ in xs], FOLDS)
    own = [Pairing.begin(x[:9].mean(0), y[:9].mean(0), FOLDS) for x in xs]
    for f in range(FOLDS):
        sums.add(f, FIT_AND_SCORE, [Block(f, [x[f::FOLDS]], [y[f::FOLDS]]) for x in xs], FIT_AND_SCORE)
        for pairing, x in zip(own, xs):
            pairing.add(f, FIT_AND_SCORE, x[f::FOLDS][own_rows], y[f::FOLDS][own_rows])
    fits = [crossfit_ridge(pairing, HEADS) for pairing in own]
    return fuse(sums.pairings["key", 0], own, fits, HEADS), fits


@pytest.fixture(scope="module")
def data():
    xs = teacher_layers(3, N, 2, WIDTH)
    (y,) = planted(xs, [[0, 1]], 4, noise=0.7)
    return xs, y


def test_the_same_teacher_twice_brings_nothing(data):
    xs, y = data
    twice, _ = fused([xs[0], xs[0]], y)
    torch.testing.assert_close(twice.gain, torch.zeros(HEADS, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(twice.weights[0], twice.weights[1])
    torch.testing.assert_close(twice.r2, twice.r2_alone[0], rtol=0, atol=1e-6)


def test_teachers_that_each_know_half_explain_both_halves(data):
    xs, y = data
    both, _ = fused(xs, y)
    assert (both.gain > 10 * both.gain_se).all() and (both.gain > 0.2).all()
    assert (both.weights > 0.8).all()
    assert both.n == N


def test_a_teacher_of_noise_gets_no_weight_and_brings_nothing(data):
    xs, y = data
    (noise,) = teacher_layers(77, N, 1, WIDTH)
    with_noise, _ = fused([xs[0], noise], y)
    assert (with_noise.gain < 2 * with_noise.gain_se + 1e-3).all()
    torch.testing.assert_close(with_noise.r2, with_noise.r2_alone[0], rtol=0, atol=0.01)


def test_weights_and_scores_equal_stacking_written_out(data):
    """Maps on some rows of each fold, predictions and weights on all of them."""
    xs, y = data
    found, fits = fused(xs, y, own_rows=slice(0, 150))
    fold, target = np.arange(N) % FOLDS, y.numpy()
    own = np.arange(N) // FOLDS < 150
    x = [part.numpy() for part in xs]

    def predict(a, head, penalty, train, rows):
        columns = slice(2 * head, 2 * head + 2)
        train = train & own
        alpha = penalty * ((x[a][train] - x[a][train].mean(0)) ** 2).sum() / WIDTH
        return Ridge(alpha=alpha).fit(x[a][train], target[train][:, columns]).predict(x[a][rows])

    for head in range(HEADS):
        columns = slice(2 * head, 2 * head + 2)
        rss, tss, weights = 0.0, 0.0, []
        for f in range(FOLDS):
            mean = target[fold != f][:, columns].mean(0)
            penalties = [float(fit.penalties[f, head]) for fit in fits]
            gram, cross = np.zeros((2, 2)), np.zeros(2)
            for g in set(range(FOLDS)) - {f}:
                train = (fold != f) & (fold != g)
                seen = [predict(a, head, penalties[a], train, fold == g) - mean for a in (0, 1)]
                cross += [(s * (target[fold == g][:, columns] - mean)).sum() for s in seen]
                gram += [[(s * t).sum() for t in seen] for s in seen]
            pull = fusion.PULL * gram.diagonal().mean()
            w = np.linalg.solve(gram + pull * np.eye(2), cross + pull / 2)
            seen = [predict(a, head, penalties[a], fold != f, fold == f) - mean for a in (0, 1)]
            actual = target[fold == f][:, columns] - mean
            rss += ((actual - sum(share * s for share, s in zip(w, seen))) ** 2).sum()
            tss += (actual**2).sum()
            weights.append(w)
        assert float(found.r2[head]) == pytest.approx(1 - rss / tss)
        np.testing.assert_allclose(found.weights[:, head], np.mean(weights, axis=0))
