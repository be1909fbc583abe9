"""Scores from sums against the same scores computed row by row with explicit splits."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from kvlab.align import crossfit as cf
from kvlab.align import metrics
from kvlab.align.fold_sums import FIT_AND_SCORE, FIT_ONLY, LEAST_ROWS, SCORE_ONLY, FoldSums, Pairing
from kvlab.align.moments import Inputs, Outputs, about_own_mean, centred, pilot_of

P, HEADS, WIDTH, FOLDS = 10, 2, 3, 5
OF_FOLDS = ([0, 1, 2, 9], [3, 4, 5], [6, 7, 8, 9], [0, 9], [1, 2, 3])  # features chosen without each fold
PAIRS = {3: [(0, 1), (0, 2), (1, 2)], 4: [(0, 1), (2, 3)], 5: [(0, 1), (2, 3), (4, 0)]}  # of folds left out together


def rows(seed=0, n=120, noise=1.0, offset=0.0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, P, generator=g, dtype=torch.float64) * torch.logspace(-1, 1, P).double() + offset
    w = torch.randn(P, HEADS * WIDTH, generator=g, dtype=torch.float64)
    y = x @ w / 5 + noise * torch.randn(n, HEADS * WIDTH, generator=g, dtype=torch.float64) + 2
    fold = torch.arange(n) % FOLDS
    exact = torch.rand(n, generator=g) < 0.7
    return x, y, fold, exact


def sums(x, y, fold, exact, fit_only=None, columns=None, by_class=False):
    """``by_class``: rows that are not exact are of class 1, and fitted; else they are scored only."""
    folds = int(fold.max()) + 1
    columns = None if columns is None else [torch.tensor(of_fold) for of_fold in columns]
    pairing = Pairing.begin(pilot_of(x[:5]), pilot_of(y[:5]), folds, columns)
    fit_only = torch.zeros(len(x), dtype=bool) if fit_only is None else fit_only
    parts = {FIT_AND_SCORE: exact & ~fit_only, FIT_ONLY: exact & fit_only}
    if by_class:
        parts |= {FIT_AND_SCORE.of(1): ~exact & ~fit_only, FIT_ONLY.of(1): ~exact & fit_only}
    else:
        parts[SCORE_ONLY] = ~exact & ~fit_only
    for part, chosen in parts.items():
        for f in range(folds):
            picked = chosen & (fold == f)
            for half in (picked & (torch.arange(len(x)) % 2 == 0), picked & (torch.arange(len(x)) % 2 == 1)):
                pairing.add(f, part, x[half], y[half])
    return pairing


def ridge(x, y, relative_penalty):
    """Of rows [N, P] and [N, Q], tensors, with a penalty relative to the mean variance of the features."""
    alpha = float(relative_penalty) * float(((x - x.mean(0)) ** 2).sum() / x.shape[1])
    return Ridge(alpha=alpha, solver="svd").fit(x.numpy(), y.numpy())


def squares_of_heads(residual, heads=HEADS):
    return (np.asarray(residual) ** 2).reshape(len(residual), heads, -1).sum((0, 2))


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


def errors_on(x, y, fold, columns, f, g, heads, fitted=True):
    """[penalties, H] squared errors of maps fitted without two folds on the second one, and of the mean in the end."""
    train, test = (fold != f) & (fold != g) & fitted, fold == g
    usable, errors = x[:, list(columns[f])], []
    for relative in cf.RELATIVE_PENALTIES:
        predicted = ridge(usable[train], y[train], relative).predict(usable[test].numpy())
        errors.append(squares_of_heads(y[test].numpy() - predicted, heads))
    return np.array([*errors, squares_of_heads(y[test] - y[train].mean(0), heads)])


def inner_errors(x, y, fold, columns, heads):
    """[F, penalties + 1, H]: of each fold, over the folds that it is left out with, tested on the other one."""
    folds = int(fold.max()) + 1
    errors = np.zeros((folds, len(cf.RELATIVE_PENALTIES) + 1, heads))
    for pair in PAIRS[folds]:
        for f, g in (pair, pair[::-1]):
            errors[f] += errors_on(x, y, fold, columns, f, g, heads)
    return errors


def walked(errors, patience=2):
    """Places in the list of penalties [F, H] and [H]: from 1e-2 down, then up, until two are better for no head.

    Of errors that differ by less than 1e-4 of the least, or of half a percent of that of the mean, the last is best.
    """

    def best(table, upto):
        least = min(table[j] for j in upto)
        return max(i for i in upto if table[i] < least + 1e-4 * max(least, 5e-3 * table[-1]))

    tables = [errors[f, :, h] for f in range(errors.shape[0]) for h in range(errors.shape[2])]
    measured = [cf.RELATIVE_PENALTIES.index(1e-2)]
    for beyond in (lambda: min(measured) - 1, lambda: max(measured) + 1):
        worse = 0
        while worse < patience and 0 <= beyond() < len(cf.RELATIVE_PENALTIES):
            measured.append(beyond())
            worse = 0 if any(best(table, measured) == measured[-1] for table in tables) else worse + 1
    of_folds = [[best(errors[f, :, h], measured) for h in range(errors.shape[2])] for f in range(errors.shape[0])]
    return of_folds, [best(errors[:, :, h].sum(0), measured) for h in range(errors.shape[2])]


@pytest.mark.parametrize("folds", [3, 4, 5])
@pytest.mark.parametrize("of_folds", [[range(P)] * FOLDS, OF_FOLDS], ids=["all-features", "chosen-features"])
@pytest.mark.parametrize("noise", [0.03, 1.0, 30.0])
def test_the_penalty_of_a_fold_is_the_best_of_an_explicit_inner_cross_validation(of_folds, folds, noise):
    """On the features that were chosen without that fold; a choice made without another has seen it."""
    x, y, _, _ = rows(8, n=60, noise=noise)
    fold, exact = torch.arange(60) % folds, torch.ones(60, dtype=bool)
    fitted = cf.crossfit_ridge(sums(x, y, fold, exact, columns=of_folds[:folds]), HEADS)
    chosen, whole = walked(inner_errors(x, y, fold, of_folds, HEADS))
    grid = np.array(cf.RELATIVE_PENALTIES)
    np.testing.assert_allclose(fitted.penalties.numpy(), grid[chosen])
    np.testing.assert_allclose(fitted.whole_penalties.numpy(), grid[whole])


@pytest.mark.parametrize(("n", "noise", "seed"), [(20, 1.0, 5), (30, 0.3, 3), (24, 0.3, 24)])
def test_of_two_valleys_the_deeper_is_found(n, noise, seed):
    """Of few rows the errors rise and fall again: a search that ends at the first rise would stay in the nearer."""
    x, y, _, exact = rows(seed, n=n, noise=noise)
    fold = torch.arange(n) % 4
    errors = inner_errors(x, y, fold, [range(P)] * 4, HEADS)
    assert walked(errors, patience=1) != walked(errors) == walked(errors, patience=9)
    fitted = cf.crossfit_ridge(sums(x, y, fold, torch.ones_like(exact)), HEADS)
    np.testing.assert_allclose(fitted.penalties.numpy(), np.array(cf.RELATIVE_PENALTIES)[walked(errors)[0]])


def test_the_cases_of_the_inner_cross_validation_end_at_both_ends_of_the_list_and_between():
    chosen = set()
    for noise in (0.03, 1.0, 30.0):
        x, y, _, _ = rows(8, n=60, noise=noise)
        chosen |= set(np.ravel(walked(inner_errors(x, y, torch.arange(60) % 4, [range(P)] * 4, HEADS))[0]))
    assert min(chosen) == 0 and max(chosen) == len(cf.RELATIVE_PENALTIES) - 1 and len(chosen) > 2


def test_of_two_folds_none_is_left_and_the_penalty_is_a_cautious_one():
    x, y, _, exact = rows(3)
    fitted = cf.crossfit_ridge(sums(x, y, torch.arange(len(x)) % 2, exact), HEADS)
    assert (fitted.penalties == 1).all() and (fitted.whole_penalties == 1).all()


def test_a_fold_whose_partner_has_no_rows_takes_a_cautious_penalty():
    """Fold 2 is tested on 3 alone, which has no exact rows; fold 3 on 2."""
    x, y, fold, _ = rows(8)
    exact = fold != 3
    found = cf.chosen_penalties(sums(x, y, fold, exact), HEADS)
    assert (found.penalties[2] == cf.FALLBACK_PENALTY).all()
    errors = np.zeros((FOLDS, len(cf.RELATIVE_PENALTIES) + 1, HEADS))
    for f, g in ((0, 1), (1, 0), (4, 0), (0, 4), (3, 2)):
        errors[f] += errors_on(x, y, fold, [range(P)] * FOLDS, f, g, HEADS, exact)
    others = [0, 1, 3, 4]
    chosen, whole = walked(errors[others])
    np.testing.assert_allclose(found.penalties[others].numpy(), np.array(cf.RELATIVE_PENALTIES)[chosen])
    np.testing.assert_allclose(found.whole_penalties.numpy(), np.array(cf.RELATIVE_PENALTIES)[whole])
    nothing = sums(x, y, fold, fold < 0)
    assert (cf.chosen_penalties(nothing, HEADS).whole_penalties == cf.FALLBACK_PENALTY).all()


def test_a_well_explained_wide_head_is_not_taken_for_one_without_error():
    """Along a few directions more may be explained than there is variance, and the least error is below zero."""
    g = torch.Generator().manual_seed(2)
    n, width = 120, 160
    x = torch.randn(n, P, generator=g, dtype=torch.float64)
    scale = torch.logspace(0, -1.5, width, dtype=torch.float64).repeat(HEADS)
    w = torch.randn(P, HEADS * width, generator=g, dtype=torch.float64) * scale
    y = x @ w + 0.6 * scale * torch.randn(n, HEADS * width, generator=g, dtype=torch.float64)
    fold, exact = torch.arange(n) % FOLDS, torch.ones(n, dtype=bool)
    pairing = sums(x, y, fold, exact)
    estimates = [test.rss(cf.MIDDLE_PENALTY) for test in cf._inner_tests(pairing, HEADS)]
    assert min(float(estimate.min()) for estimate in estimates) < 0
    chosen = cf.chosen_penalties(pairing, HEADS).penalties
    errors = inner_errors(x, y, fold, [range(P)] * FOLDS, HEADS)
    for f, h in product(range(FOLDS), range(HEADS)):
        table = errors[f, :, h]
        assert table[cf.RELATIVE_PENALTIES.index(float(chosen[f, h]))] < 1.01 * table.min()
        assert chosen[f, h] > 1e-6  # of penalties that are as good, not the least


def test_a_few_directions_of_a_wide_head_choose_a_penalty_that_is_as_good_as_the_best():
    g = torch.Generator().manual_seed(1)
    width, n = 20 * cf.DIRECTIONS, 150
    x = torch.randn(n, P, generator=g, dtype=torch.float64)
    w = torch.randn(P, HEADS * width, generator=g, dtype=torch.float64)
    noise = torch.tensor([3.0, 20.0], dtype=torch.float64).repeat_interleave(width)
    y = x @ w + noise * torch.randn(n, HEADS * width, generator=g, dtype=torch.float64)
    fold, exact = torch.arange(n) % FOLDS, torch.ones(n, dtype=bool)
    fitted = cf.crossfit_ridge(sums(x, y, fold, exact), HEADS)
    errors = inner_errors(x, y, fold, [range(P)] * FOLDS, HEADS)
    assert (fitted.penalties[:, 0] < fitted.penalties[:, 1]).all()
    for f in range(FOLDS):
        for h in range(HEADS):
            chosen = errors[f, cf.RELATIVE_PENALTIES.index(float(fitted.penalties[f, h])), h]
            assert chosen < 1.02 * errors[f, :, h].min()
    spread = errors[:, :-1].max(1) / errors.min(1)
    assert spread.min() > 1.05  # another choice would have been worse


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


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("columns", [[range(P)] * FOLDS, OF_FOLDS], ids=["all-features", "chosen-features"])
def test_teacher_head_contributions_equal_explicit_refits(columns, by_class):
    x, y, fold, exact = rows(11)
    y[~exact] = 3 - y[~exact]
    heads_t, relative = 5, [1e-2, 1e-1]
    blocks = list(torch.arange(P).split(P // heads_t))
    pairings = sums(x, y, fold, exact, columns=columns, by_class=by_class).by_class()
    assert len(pairings) == 1 + by_class
    found = cf.teacher_head_contributions(pairings, HEADS, blocks, relative[: 1 + by_class])
    rss = torch.zeros(heads_t, 3, HEADS, dtype=torch.float64)
    tss = torch.zeros(HEADS, dtype=torch.float64)
    cases = [(exact, exact, relative[0]), (~exact, ~exact, relative[1])] if by_class else [(exact, exact | True, 1e-2)]
    for f, (of_fit, of_score, of_class) in product(range(FOLDS), cases):
        train, test = of_fit & (fold != f), of_score & (fold == f)
        usable = list(columns[f])
        squares = ((x[train] - x[train].mean(0)) ** 2)[:, usable].sum()
        penalty = of_class * float(squares / len(usable))
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


# --- by class of row -----------------------------------------------------------------------------------------


def of_two_classes(seed=21, n=240):
    """Rows of class 1 follow another map, about another mean; two problems share the features."""
    x, y, fold, exact = rows(seed, n)
    w = torch.randn(P, HEADS * WIDTH, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    y[~exact] = 0.1 * x[~exact] @ w + 2 * y[~exact].flip(0) - 7
    return x, y, fold, exact


@pytest.mark.parametrize("fit_only", [False, True])
def test_scores_by_class_equal_fits_of_each_class_and_are_about_its_own_mean(fit_only):
    x, y, fold, exact = of_two_classes()
    calibration = fit_only & (torch.arange(len(x)) % 3 == 0)
    pairing = sums(x, y, fold, exact, calibration, by_class=True)
    fit = cf.ByClass.of([cf.crossfit_ridge(of_class, HEADS) for of_class in pairing.by_class()])
    assert [one.classes for one in fit.fits] == [(0,), (1,)]
    rss, tss, in_class = np.zeros((FOLDS, HEADS)), np.zeros((FOLDS, HEADS)), np.zeros((2, 2, HEADS))
    for f, (number, of_class) in product(range(FOLDS), enumerate((exact, ~exact))):
        train, test = of_class & (fold != f), of_class & (fold == f) & ~calibration
        of_rows = torch.full((int(test.sum()),), number)
        for h in range(HEADS):
            columns = slice(h * WIDTH, (h + 1) * WIDTH)
            model = ridge(x[train], y[train][:, columns], fit.fits[number].penalties[f, h])
            predicted = model.predict(x[test].numpy())
            np.testing.assert_allclose(fit.predict(f, x[test], of_rows)[:, columns], predicted, rtol=1e-7, atol=1e-7)
            squares = ((y[test][:, columns].numpy() - predicted) ** 2).sum()
            about_mean = float(((y[test][:, columns] - y[train][:, columns].mean(0)) ** 2).sum())
            rss[f, h] += squares
            tss[f, h] += about_mean
            in_class[number, :, h] += squares, about_mean
        np.testing.assert_allclose(fit.mean_y(f, of_rows)[0], y[train].mean(0))
    np.testing.assert_allclose(fit.rss, rss, rtol=1e-8)
    np.testing.assert_allclose(fit.tss, tss, rtol=1e-8)
    np.testing.assert_allclose(fit.r2, 1 - rss.sum(0) / tss.sum(0))
    for one, (of_rss, of_tss) in zip(fit.fits, in_class):
        np.testing.assert_allclose(one.r2, 1 - of_rss / of_tss, atol=1e-9)
    assert int(fit.n.sum()) == int((~calibration).sum())


def test_penalties_of_a_class_are_chosen_on_its_own_rows():
    x, y, fold, exact = of_two_classes()
    penalties = cf.penalties_by_class({"a": sums(x, y, fold, exact, by_class=True)}, {"a": HEADS})["a"]
    for of_class, found in zip((exact, ~exact), penalties, strict=True):
        chosen, whole = walked(inner_errors(x[of_class], y[of_class], fold[of_class], [range(P)] * FOLDS, HEADS))
        np.testing.assert_allclose(found.penalties.numpy(), np.array(cf.RELATIVE_PENALTIES)[chosen])
        np.testing.assert_allclose(found.whole_penalties.numpy(), np.array(cf.RELATIVE_PENALTIES)[whole])


def test_problems_with_the_same_features_are_solved_together_as_alone():
    x, y, fold, exact = of_two_classes()
    other = torch.roll(y, 7, 0)[:, :WIDTH]
    first, second = (sums(x, targets, fold, exact, by_class=True) for targets in (y, other))
    shared = Pairing(first.features, second.targets)  # shifted by the same pilot
    together = cf.ridge_by_class({"a": first, "b": shared}, {"a": HEADS, "b": 1})
    chosen = cf.penalties_by_class({"a": first, "b": shared}, {"a": HEADS, "b": 1})
    for name, targets, heads in (("a", y, HEADS), ("b", other, 1)):
        pairing = sums(x, targets, fold, exact, by_class=True)
        alone = cf.ByClass.of([cf.crossfit_ridge(of_class, heads) for of_class in pairing.by_class()])
        torch.testing.assert_close(together[name].rss, alone.rss)
        torch.testing.assert_close(together[name].cosine, alone.cosine)
        torch.testing.assert_close(together[name].residual_grams, alone.residual_grams)
        for mine, theirs, of_class in zip(together[name].fits, alone.fits, chosen[name], strict=True):
            assert torch.equal(mine.penalties, theirs.penalties) and torch.equal(of_class.penalties, theirs.penalties)
            assert torch.equal(of_class.whole_penalties, theirs.whole_penalties)
            torch.testing.assert_close(mine.weights, theirs.weights)


def test_knowing_the_class_of_a_row_explains_nothing():
    x, _, fold, exact = of_two_classes()
    y = torch.where(exact, 5.0, -5.0)[:, None] + 0.01 * torch.randn(len(x), WIDTH, generator=torch.Generator())
    fit = cf.ridge_by_class({"a": sums(x, y.double(), fold, exact, by_class=True)}, {"a": 1})["a"]
    assert abs(float(fit.r2)) < 0.2
    one_map = cf.crossfit_ridge(sums(x, y.double(), fold, exact | True), 1)
    assert one_map.tss.sum() > 1e4 * fit.tss.sum()


def test_a_head_that_varies_in_one_class_only_is_scored_on_it():
    x, y, fold, exact = of_two_classes()
    y[~exact, :WIDTH] = 3
    fit = cf.ridge_by_class({"a": sums(x, y, fold, exact, by_class=True)}, {"a": HEADS})["a"]
    assert fit.fits[1].r2.isnan().tolist() == [True, False]
    torch.testing.assert_close(fit.r2[0], fit.fits[0].r2[0])
    torch.testing.assert_close(fit.tss[:, 0], fit.fits[0].tss[:, 0])


def test_rows_apart_are_scored_by_the_map_of_their_class_that_has_not_seen_their_fold():
    x, y, fold, exact = of_two_classes()
    fit = cf.ridge_by_class({"a": sums(x, y, fold, exact, by_class=True)}, {"a": HEADS})["a"]
    g = torch.Generator().manual_seed(3)
    x_apart, y_apart = (torch.randn(20, n, generator=g, dtype=torch.float64) for n in (P, HEADS * WIDTH))
    apart = [(1, 0, x_apart[:7], y_apart[:7]), (1, 1, x_apart[7:13], y_apart[7:13]), (4, 1, x_apart[13:], y_apart[13:])]
    rss, tss = np.zeros(HEADS), np.zeros(HEADS)
    for f, row_class, x_rows, y_rows in apart:
        train = (exact if row_class == 0 else ~exact) & (fold != f)
        for h in range(HEADS):
            columns = slice(h * WIDTH, (h + 1) * WIDTH)
            model = ridge(x[train], y[train][:, columns], fit.fits[row_class].penalties[f, h])
            rss[h] += ((y_rows[:, columns].numpy() - model.predict(x_rows.numpy())) ** 2).sum()
            tss[h] += float((y_rows[:, columns] - y[train][:, columns].mean(0)).square().sum())
    found, n = cf.scored_apart(fit, apart)
    np.testing.assert_allclose(found, rss / tss)
    assert n == 20


def counted(rows_of):
    """FoldSums with these numbers of rows, by class and fold."""
    found = FoldSums((torch.zeros(1, dtype=torch.float64),), 3)
    for row_class, of_folds in rows_of.items():
        for fold, n in enumerate(of_folds):
            found.add(fold, FIT_AND_SCORE.of(row_class), torch.zeros(n, 1, dtype=torch.float64))
    return found


@pytest.mark.parametrize(
    ("rows_of", "expected"),
    [
        ({0: [99] * 3}, [(0,)]),
        ({0: [99] * 3, 1: [10, 10, 10]}, [(0,), (1,)]),
        ({0: [99] * 3, 1: [10, 10, 9]}, [(0, 1)]),  # 19 rows without a fold of ten
        ({0: [99] * 3, 1: [10, 9, 99], 2: [10] * 3}, [(0, 1), (2,)]),  # nor with many rows in a single fold
        ({0: [9] * 3, 1: [99] * 3}, [(0, 1)]),
        ({0: [9] * 3, 1: [9] * 3, 2: [99] * 3, 3: [1, 0, 0]}, [(0, 1), (2, 3)]),
        ({0: [4] * 3, 1: [4] * 3}, [(0, 1)]),  # too few of all: one map all the same
    ],
)
def test_a_class_with_too_few_rows_shares_the_map_of_another(rows_of, expected):
    assert LEAST_ROWS == 20 and counted(rows_of).classes() == expected


def test_a_class_that_shares_a_map_is_fitted_and_scored_with_the_other():
    x, y, fold, _ = of_two_classes()
    exact = torch.arange(len(x)) >= 15
    joined = sums(x, y, fold, exact, by_class=True)
    fit = cf.ridge_by_class({"a": joined}, {"a": HEADS})["a"]
    one = cf.crossfit_ridge(sums(x, y, fold, exact | True), HEADS)
    assert [of.classes for of in fit.fits] == [(0, 1)]
    torch.testing.assert_close(fit.rss, one.rss)
    torch.testing.assert_close(fit.tss, one.tss)
    assert fit.of_class(1) is fit.of_class(0) is fit.of_class(7)  # a class that was not met takes the last map
