"""Two processors round a cache differently, by about 1e-6 of it: nothing that is shown may depend on that."""

import dataclasses

import numpy as np
import pytest
import torch

from kvlab.align import batches, controls, crossfit, metrics, projectors
from kvlab.align.fold_sums import FIT_AND_SCORE, Pairing
from kvlab.align.layers import choose
from kvlab.align.moments import about_own_mean, centred
from kvlab.align.pipeline import align
from kvlab.align.ties import HAIR, first_of_the_best, last_of_the_least
from kvlab.inject import prefix
from kvlab.inject.pipeline import judge
from kvlab.models.loading import load
from kvlab.request import prompts
from kvlab.request.align import AlignSettings
from kvlab.request.inject import InjectSettings
from kvlab.results.alignment.data import HeadScore
from kvlab.shapes import no_progress
from tests.rows import planted, sample_of, teacher_layers

ROUNDING = 1e-6
DIGITS = {
    "score": 5e-4,
    "token": 5e-3,
}  # half of the last digit of scores (.123) and of what tokens are drawn with (.12)
QUICK = AlignSettings(layers="depth", inspect=4, folds=3)
ONLY = InjectSettings(curve=(), documents=6, swap_layers=0, texts=0)


# --- the whole path on the demo pair -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair():
    return load("demo/teacher", "cpu", "float32"), load("demo/student", "cpu", "float32")


@pytest.fixture
def elsewhere(monkeypatch):
    """Every cache that is read as another processor would round it."""

    def start():
        generator, capture = torch.Generator().manual_seed(1), batches.capture

        def rounded(*args):
            captured = capture(*args)
            of_kinds = {
                name: [x * (1 + ROUNDING * torch.randn(x.shape, generator=generator)) for x in layers]
                for name, layers in (("keys", captured.keys), ("values", captured.values))
            }
            return dataclasses.replace(captured, **of_kinds)

        for module in (batches, controls, prefix):
            monkeypatch.setattr(module, "capture", rounded)

    return start


@pytest.mark.model
@pytest.mark.xdist_group("rounding")
def test_no_number_of_the_demo_analysis_moves_by_a_printed_digit(pair, elsewhere):
    def analysis():
        return align(*pair, prompts.samples()[:24], QUICK)[0]

    here = analysis()
    elsewhere()
    there = analysis()
    assert here.layer_map == there.layer_map
    names = [
        field.name for field in dataclasses.fields(HeadScore) if isinstance(getattr(here.heads[0], field.name), float)
    ]
    for one, other in zip(here.heads, there.heads, strict=True):
        for name in names:
            expected = pytest.approx(getattr(one, name), abs=DIGITS["score"], nan_ok=True)
            assert getattr(other, name) == expected, (one.kind, one.layer, one.head, name)
    assert not np.array_equal(here.arrays["document.0.error.key"], there.arrays["document.0.error.key"], equal_nan=True)
    for name, array in here.arrays.items():
        atol = DIGITS["token" if name.startswith("document") else "score"]
        np.testing.assert_allclose(there.arrays[name], array, rtol=0, atol=atol, equal_nan=True, err_msg=name)


@pytest.mark.model
@pytest.mark.xdist_group("rounding")
def test_no_number_of_the_functional_test_moves_by_a_ten_thousandth(pair, elsewhere):
    def functional():
        settings = AlignSettings(layers="depth")  # with fewer folds the maps of few documents are less determined
        return judge([pair[0]], pair[1], prompts.samples()[:30], settings, ONLY)

    here = functional()
    elsewhere()
    there = functional()
    for part in ("injected", "projection", "attention"):
        for one, other in zip(getattr(here, part), getattr(there, part), strict=True):
            for name, value in dataclasses.asdict(one).items():
                if isinstance(value, float):
                    expected = pytest.approx(value, rel=1e-4, abs=1e-7, nan_ok=True)
                    assert getattr(other, name) == expected, (part, one, name)


# --- what it rests on ----------------------------------------------------------------------------------------

P, Q, N, FOLDS = 96, 8, 4000, 4


def nearly_singular(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Float32 rows whose variance falls to 1e-9 of the largest; the targets are in the smallest, as in the demo."""
    g = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(P, P, generator=g, dtype=torch.float64)).Q
    hidden = torch.randn(N, P, generator=g, dtype=torch.float64)
    x = (hidden * torch.logspace(0, -4.5, P, dtype=torch.float64)) @ basis.T
    y = hidden @ torch.randn(P, Q, generator=g, dtype=torch.float64) / P**0.5
    return x.float(), (y + 0.5 * torch.randn(N, Q, generator=g, dtype=torch.float64)).float()


def pairing(x: torch.Tensor, y: torch.Tensor) -> Pairing:
    found = Pairing.begin(torch.zeros(P), torch.zeros(Q), FOLDS)
    for fold in range(FOLDS):
        found.add(fold, FIT_AND_SCORE, x[fold::FOLDS], y[fold::FOLDS])
    return found


def test_a_prediction_off_the_usual_rows_is_that_of_exact_sums():
    """In every direction with as much variance as the mean, where the fitted rows have almost none in some."""
    x, y = nearly_singular()
    single, double = (crossfit.crossfit_ridge(pairing(a, b), 2) for a, b in ((x, y), (x.double(), y.double())))
    assert torch.equal(single.penalties, double.penalties) and (double.penalties == 1e-6).all()
    unusual = torch.eye(P, dtype=torch.float64) * x.std()
    here, exact = single.predict(0, unusual), double.predict(0, unusual)
    assert (here - exact).norm() < 5e-3 * exact.norm()  # 0.08 of it from float32 products


def test_penalties_are_told_apart_as_exactly_where_rounding_is_larger_than_they_are():
    """Of heads with as many directions as channels, so that nothing is estimated."""
    x, y = nearly_singular()
    problem = pairing(x, y)
    fit_x, fit_y = problem.fit()
    train = about_own_mean(fit_x[2] + fit_x[3], fit_y[2] + fit_y[3])  # without the first pair of folds
    (first, *_) = crossfit._inner_tests(problem, 2)
    test = centred(fit_x[1], fit_y[1], train.mean_x, train.mean_y)
    assert first.chosen_for == 0
    found = torch.stack([first.rss(relative) for relative in crossfit.RELATIVE_PENALTIES])
    dtypes = [weights.dtype for weights in first.solved.values()]
    assert dtypes[:2] == [torch.float64] * 2 and dtypes[2:] == [torch.float32] * (len(dtypes) - 2)
    exact = [projectors.ridge(train, projectors.absolute_penalty(train, r)) for r in crossfit.RELATIVE_PENALTIES]
    expected = metrics.per_head(metrics.residual_squares(test, torch.stack(exact)), 2)
    torch.testing.assert_close(found, expected, rtol=HAIR / 2, atol=0)
    single = projectors.ridge_path(train.single(), [1e-6])[0]
    rounded = metrics.per_head(metrics.residual_squares(test.single(), single), 2).double()
    assert ((rounded / expected[0] - 1).abs() > HAIR).any()  # what float32 would make of the least of them


def test_of_penalties_that_are_as_good_the_largest_is_taken_whatever_is_rounded():
    rss = torch.tensor([[5.0, 3.0, 3.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 0.0, 0.0, 1.0, 1.0]])
    rss = torch.cat([rss, torch.tensor([[-1e-12, 1e-13, 1e-9, 1.0, 1.0], [float("nan")] * 5])]).double()
    for seed in range(20):
        noise = torch.randn(rss.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert last_of_the_least(rss * (1 + ROUNDING * noise)).tolist() == [3, 0, 0, 0, 0]
        found = last_of_the_least((rss * (1 + ROUNDING * noise)).T, dim=0)
        assert found.tolist() == [3, 0, 0, 0, 0]
    assert last_of_the_least(torch.tensor([1.0, 1.0 + 5e-5, 1.0 + 2e-4], dtype=torch.float64)).item() == 1


def test_of_scores_that_are_as_good_the_first_is_taken_whatever_is_rounded():
    scores = torch.tensor([[0.1, 0.7, 0.7, 0.2], [0.7, 0.1, 0.6, 0.7], [float("nan"), -2.0, -2.0, float("nan")]])
    for seed in range(20):
        noise = torch.randn(scores.shape, generator=torch.Generator().manual_seed(seed))
        assert first_of_the_best(scores + ROUNDING * noise).tolist() == [1, 0, 1]
        assert first_of_the_best((scores + ROUNDING * noise).T, dim=0).tolist() == [1, 0, 1]
    assert first_of_the_best(torch.full((3,), float("nan"))).item() == 0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"layers": "cka"}, [(2,), (5,)]),
        ({"layers": "heldout"}, [(0, 1, 2, 3), (6,)]),  # the nearest in depth that hold it
        ({"layers": "heldout", "search": "full"}, [(2,), (5,)]),
    ],
)
def test_of_two_layers_that_hold_the_same_the_first_is_chosen_whatever_is_rounded(settings, expected):
    """As in models whose layers share their keys and values."""
    layers, folds = 7, 4
    xs = teacher_layers(1, 1200, layers, 4)
    xs[3], xs[6] = xs[2], xs[5]
    ys = planted(xs, [[2], [5]], 3, noise=0.5)
    chosen = set()
    for seed in range(6):
        g = torch.Generator().manual_seed(seed)
        rounded = [x * (1 + ROUNDING * torch.randn(x.shape, generator=g, dtype=torch.float64)) for x in xs]
        found = choose(sample_of(rounded, ys, folds), AlignSettings(**settings), no_progress)
        chosen.add(tuple((choice.overall, choice.of_fold) for choice in found.choices["key"]))
    ((*choices,),) = chosen
    assert [overall for overall, _ in choices] == expected
    assert all(set(overall) <= set(of) for overall, of_fold in choices for of in of_fold)
