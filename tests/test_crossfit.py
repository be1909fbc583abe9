"""Scores from sums against the same scores computed row by row with explicit splits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from kvlab.align import crossfit as cf
from kvlab.align import metrics
from kvlab.align.fold_sums import FIT_AND_SCORE, FIT_ONLY, SCORE_ONLY, Pairing
from kvlab.align.moments import Inputs, Outputs, about_own_mean, centred, pilot_of

P, HEADS, WIDTH, FOLDS = 10, 2, 3, 4
OF_FOLDS = ([0, 1, 2, 9], [3, 4, 5], [6, 7, 8, 9], [0, 9])  # features chosen without each fold


def rows(seed=0, n=120, noise=1.0, offset=0.0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, P, generator=g, dtype=torch.float64) * torch.logspace(-1, 1, P).double() + offset
    w = torch.randn(P, HEADS * WIDTH, generator=g, dtype=torch.float64)
    y = x @ w / 5 + noise * torch.randn(n, HEADS * WIDTH, generator=g, dtype=torch.float64) + 2
    fold = torch.arange(n) % FOLDS
    exact = torch.rand(n, generator=g) < 0.7
    return x, y, fold, exact


def sums(x, y, fold, exact, fit_only=None, columns=None):
    columns = None if columns is None else [torch.tensor(of_fold) for of_fold in columns]
    pairing = Pairing.begin(pilot_of(x[:5]), pilot_of(y[:5]), FOLDS, columns)
    fit_only = torch.zeros(len(x), dtype=bool) if fit_only is None else fit_only
    for part, chosen in (
        (FIT_AND_SCORE, exact & ~fit_only),
        (SCORE_ONLY, ~exact & ~fit_only),
        (FIT_ONLY, exact & fit_only),
    ):
        for f in range(FOLDS):
            picked = chosen & (fold == f)
            for half in (picked & (torch.arange(len(x)) % 2 == 0), picked & (torch.arange(len(x)) % 2 == 1)):
                pairing.add(f, part, x[half], y[half])
    return pairing


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), offset=st.sampled_from([0.0, 1e4]))
def test_sums_in_pieces_equal_covariances_of_the_whole(seed, offset):
    x, y, _, _ = rows(seed, 40, offset=offset)
    inputs, outputs = Inputs.empty(x[:3].mean(0)), Outputs.empty(x[:3].mean(0), y[:3].mean(0))
    for piece in torch.arange(40).split(7):
        inputs.add(x[piece])
        outputs.add(x[piece], y[piece])
    got = about_own_mean(inputs, outputs)
    expected = np.cov(np.hstack([x, y]).T, bias=True) * 40
    np.testing.assert_allclose(got.xx, expected[:P, :P], rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(got.xy, expected[:P, P:], rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(got.yy, np.diag(expected[P:, P:]), rtol=1e-9, atol=1e-8)
    other = about_own_mean(inputs - Inputs.empty(inputs.pilot), outputs)
    torch.testing.assert_close(other.xx, got.xx)


def test_held_out_scores_equal_scikit_learn_on_explicit_splits():
    x, y, fold, exact = rows()
    pairing = sums(x, y, fold, exact)
    fitted = cf.crossfit_ridge(pairing, HEADS)
    dot, norm_y, norm_hat = torch.zeros(3, HEADS, dtype=torch.float64)
    for f in range(FOLDS):
        train, test = exact & (fold != f), fold == f
        for h in range(HEADS):
            columns = slice(h * WIDTH, (h + 1) * WIDTH)
            xc = x[train] - x[train].mean(0)
            penalty = float(fitted.penalties[f, h]) * float((xc**2).sum() / P)
            model = Ridge(alpha=penalty, solver="svd").fit(x[train].numpy(), y[train][:, columns].numpy())
            predicted = model.predict(x[test].numpy()).reshape(-1, WIDTH)
            actual = y[test][:, columns].numpy()
            np.testing.assert_allclose(fitted.rss[f, h], ((actual - predicted) ** 2).sum(), rtol=1e-8)
            about_train_mean = ((actual - y[train][:, columns].mean(0).numpy()) ** 2).sum()
            np.testing.assert_allclose(fitted.tss[f, h], about_train_mean, rtol=1e-8)
            np.testing.assert_allclose(fitted.predict(f, x[test])[:, columns], predicted, rtol=1e-7, atol=1e-7)
            dot[h] += (actual * predicted).sum()
            norm_y[h] += (actual**2).sum()
            norm_hat[h] += (predicted**2).sum()
        assert int(fitted.n[f]) == int(test.sum())
    torch.testing.assert_close(fitted.cosine, dot / (norm_y * norm_hat).sqrt())


@pytest.mark.parametrize("columns", [[range(P)] * FOLDS, OF_FOLDS], ids=["all-features", "chosen-features"])
@pytest.mark.parametrize("quick", [False, True])
def test_the_penalty_of_a_fold_is_the_best_of_an_explicit_inner_cross_validation(quick, columns):
    """On the features that were chosen without that fold; a choice made without another has seen it."""
    x, y, fold, _ = rows(3, n=60, noise=4.0)
    exact = torch.ones(60, dtype=bool)
    fitted = cf.crossfit_ridge(sums(x, y, fold, exact, columns=map(list, columns)), HEADS, quick)
    for f in range(FOLDS):
        usable = x[:, list(columns[f])]
        errors = np.zeros((len(cf.RELATIVE_PENALTIES), HEADS))
        for g in {(f - 1) % FOLDS, (f + 1) % FOLDS} if quick else set(range(FOLDS)) - {f}:
            train, test = (fold != f) & (fold != g), fold == g
            xc = usable[train] - usable[train].mean(0)
            for p, relative in enumerate(cf.RELATIVE_PENALTIES):
                model = Ridge(alpha=relative * float((xc**2).sum() / len(columns[f])), solver="svd")
                predicted = model.fit(usable[train].numpy(), y[train].numpy()).predict(usable[test].numpy())
                errors[p] += ((y[test].numpy() - predicted) ** 2).reshape(-1, HEADS, WIDTH).sum((0, 2))
        chosen = [cf.RELATIVE_PENALTIES[i] for i in errors.argmin(0)]
        np.testing.assert_allclose(fitted.penalties[f].numpy(), chosen)


def test_a_fold_is_scored_by_a_map_of_the_features_chosen_without_it():
    x, y, fold, exact = rows(4)
    fitted = cf.crossfit_ridge(sums(x, y, fold, exact, columns=OF_FOLDS), HEADS)
    for f, columns in enumerate(OF_FOLDS):
        train, test = exact & (fold != f), fold == f
        for h in range(HEADS):
            of_head = slice(h * WIDTH, (h + 1) * WIDTH)
            used = x[:, columns]
            variance = float(((used[train] - used[train].mean(0)) ** 2).sum() / len(columns))
            model = Ridge(alpha=float(fitted.penalties[f, h]) * variance, solver="svd")
            predicted = model.fit(used[train].numpy(), y[train][:, of_head].numpy()).predict(used[test].numpy())
            np.testing.assert_allclose(fitted.rss[f, h], ((y[test][:, of_head].numpy() - predicted) ** 2).sum())
        assert not fitted.weights[f][[c for c in range(P) if c not in columns]].any()


@pytest.mark.parametrize(("noise", "varies"), [(1e-7, False), (1e-5, True)])
def test_a_head_that_varies_by_rounding_alone_has_no_score(noise, varies):
    """Of a head at 3, a variance of 1e-14 is below the digits of float32 and one of 1e-10 is not."""
    x, y, fold, exact = rows(6)
    y[:, :WIDTH] = 3 + noise * torch.randn(len(y), WIDTH, generator=torch.Generator().manual_seed(1)).double()
    fitted = cf.crossfit_ridge(sums(x, y, fold, exact), HEADS)
    assert fitted.r2.isfinite().tolist() == [varies, True]
    alone = cf.crossfit_ridge(sums(x, y[:, WIDTH:], fold, exact), 1)
    torch.testing.assert_close(fitted.r2[1], alone.r2[0])


def test_calibration_rows_are_fitted_on_but_never_scored():
    x, y, fold, exact = rows(5)
    fit_only = torch.arange(len(x)) % 3 == 0
    fitted = cf.crossfit_ridge(sums(x, y, fold, exact, fit_only), HEADS)
    assert int(fitted.n.sum()) == int((~fit_only).sum())
    f = 1
    train = exact & (fold != f)
    torch.testing.assert_close(fitted.mean_x[f], x[train].mean(0))


def test_noise_scores_zero_held_out_although_it_fits_its_own_rows():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 60, P, generator=g, dtype=torch.float64)
    y = y[:, : HEADS * WIDTH]
    fold = torch.arange(60) % FOLDS
    fitted = cf.crossfit_ridge(sums(x, y, fold, torch.ones(60, dtype=bool)), HEADS)
    in_sample = 1 - np.linalg.lstsq(x - x.mean(0), y - y.mean(0), rcond=None)[1].sum() / ((y - y.mean(0)) ** 2).sum()
    assert in_sample > 0.1
    assert (fitted.r2 < 0.05).all()


def test_train_mean_predictor_scores_exactly_zero():
    zero = cf.crossfit_fixed(sums(*rows(7)), [()] * FOLDS, HEADS, lambda train, layers: torch.zeros_like(train.xy))
    torch.testing.assert_close(zero.r2, torch.zeros(HEADS, dtype=torch.float64))


@pytest.mark.parametrize("columns", [[range(P)] * FOLDS, OF_FOLDS], ids=["all-features", "chosen-features"])
def test_teacher_head_contributions_equal_explicit_refits(columns):
    x, y, fold, exact = rows(11)
    heads_t, relative = 5, 1e-2
    blocks = list(torch.arange(P).split(P // heads_t))
    pairing = sums(x, y, fold, exact, columns=map(list, columns))
    found = cf.teacher_head_contributions(pairing, HEADS, blocks, relative)
    rss = torch.zeros(heads_t, 3, HEADS, dtype=torch.float64)
    tss = torch.zeros(HEADS, dtype=torch.float64)
    for f in range(FOLDS):
        train, test = exact & (fold != f), fold == f
        usable = list(columns[f])
        squares = ((x[train] - x[train].mean(0)) ** 2)[:, usable].sum()
        penalty = relative * float(squares / len(usable))
        mean = y[train].mean(0)
        tss += ((y[test] - mean) ** 2).reshape(-1, HEADS, WIDTH).sum((0, 2))
        for a in range(heads_t):
            block = [c for c in (2 * a, 2 * a + 1) if c in usable]
            rest = [c for c in usable if c not in block]
            for k, used in enumerate((usable, rest, block)):
                residual = y[test] - mean
                if used:
                    model = Ridge(alpha=penalty, solver="cholesky").fit(x[train][:, used].numpy(), y[train].numpy())
                    residual = y[test] - torch.from_numpy(model.predict(x[test][:, used].numpy()))
                rss[a, k] += (residual**2).reshape(-1, HEADS, WIDTH).sum((0, 2))
    torch.testing.assert_close(found.without, ((rss[:, 1] - rss[:, 0]) / tss).T, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.alone, (1 - rss[:, 2] / tss).T, rtol=1e-6, atol=1e-9)


def test_jackknife_of_identical_folds_is_zero_and_of_fewer_than_three_unknown():
    tss = torch.full((4, 2), 3.0).double()
    assert metrics.jackknife(tss / 2, tss).abs().max() < 1e-12
    assert metrics.jackknife(tss[:3] / 2, tss[:3]).abs().max() < 1e-12
    assert metrics.jackknife(tss[:2], tss[:2]).isnan().all() and metrics.jackknife(tss[:1], tss[:1]).isnan().all()


def test_residuals_about_other_means_are_those_of_the_rows():
    x, y, _, _ = rows(2, 30)
    inputs, outputs = Inputs.empty(x[0]), Outputs.empty(x[0], y[0])
    inputs.add(x)
    outputs.add(x, y)
    centre_x, centre_y = torch.randn(P).double(), torch.randn(HEADS * WIDTH).double()
    w = torch.randn(P, HEADS * WIDTH).double()
    test = centred(inputs, outputs, centre_x - x[0], centre_y - y[0])
    expected = ((y - centre_y - (x - centre_x) @ w) ** 2).sum(0)
    torch.testing.assert_close(metrics.residual_squares(test, w), expected)
