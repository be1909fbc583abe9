"""Several teachers in the student's space: the same one twice brings nothing, halves of the signal add up, and what any
further features bring is no gain."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from kvlab.align import stacking
from kvlab.align.controls import Controls, RandomRows, random_in_place
from kvlab.align.crossfit import ByClass, crossfit_ridge
from kvlab.align.fold_sums import FIT_AND_SCORE, FIT_ONLY, Pairing
from kvlab.align.fusion import FusionSums, fuse, over_random
from kvlab.align.layers import Choice
from kvlab.align.stacking import CommonRows
from kvlab.results.alignment.data import FusedScore
from kvlab.shapes import KINDS, no_progress
from tests.rows import Block, planted, sample_of, teacher_layers

N, FOLDS, WIDTH, HEADS = 900, 4, 5, 2


def one_class(xs):
    return np.zeros((len(xs), N), dtype=int)


def two_classes(xs):
    """The class that each row has for each teacher: those of two teachers differ in half of the rows."""
    number = np.arange(N) // FOLDS
    return np.stack([(number // 2**a) % 2 for a in range(len(xs))])


def problem(xs, y, own_rows=slice(None), fit_only=(), classes_of=one_class):
    """Teachers with one layer each, their rows ``xs`` [A][N, P]; each fitted on some rows of its own.

    Folds ``fit_only`` hold calibration documents.
    """
    one = Choice.of((0,), [(0,)] * FOLDS, lambda layer: WIDTH)
    sums = FusionSums([{kind: [one] for kind in KINDS} for _ in xs], FOLDS)
    own, classes, fold = (
        [Pairing.begin(x[:9].mean(0), y[:9].mean(0), FOLDS) for x in xs],
        classes_of(xs),
        np.arange(N) % FOLDS,
    )
    in_own = np.isin(np.arange(N) // FOLDS, np.arange(N)[own_rows])
    for f in range(FOLDS):
        use = FIT_ONLY if f in fit_only else FIT_AND_SCORE
        for joint in sorted(set(zip(*classes.tolist()))):
            part, rows = use.of(joint), (fold == f) & (joint == classes.T).all(1)
            sums.add(f, part, [Block(f, [x[rows]], [y[rows]], (part,)) for x in xs], part)
        for pairing, x, of_teacher in zip(own, xs, classes):
            for row_class in (0, 1):
                rows = (fold == f) & (of_teacher == row_class) & in_own
                pairing.add(f, use.of(row_class), x[rows], y[rows])
    return sums.pairings["key", 0], own, [[crossfit_ridge(p, HEADS) for p in pairing.by_class()] for pairing in own]


def fused(xs, y, own_rows=slice(None), fit_only=(), classes_of=one_class):
    common, own, fits = problem(xs, y, own_rows, fit_only, classes_of)
    return fuse(common, own, fits, [WIDTH] * len(xs), HEADS), fits


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


def test_of_two_folds_none_is_left_to_fit_weights_on_and_teachers_weigh_alike(data, monkeypatch):
    xs, y = data
    monkeypatch.setitem(globals(), "FOLDS", 2)
    found, fits = fused(xs, y)
    assert (found.weights == 0.5).all()
    mean = [y[1 - f :: 2].mean(0) for f in (0, 1)]
    halves = [(fits[0][0].predict(f, xs[0][f::2]) + fits[1][0].predict(f, xs[1][f::2])) / 2 for f in (0, 1)]
    rss, tss = (
        sum((y[f::2] - of[f]).square().unflatten(1, (HEADS, -1)).sum((0, 2)) for f in (0, 1)) for of in (halves, mean)
    )
    torch.testing.assert_close(found.r2, 1 - rss / tss, rtol=1e-6, atol=1e-9)


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


def against_random(members, y, own_rows=slice(None), classes_of=one_class):
    """``over_random`` of the first half of ``members``, and the fits of all."""
    half = len(members) // 2

    def of_members(xs):
        """Random weights read the same tokens as the teacher in whose place they are."""
        return np.tile(classes_of(xs[:half]), (len(xs) // half, 1))

    _, own, fits = problem(members, y, own_rows, classes_of=of_members)
    classes, fold = classes_of(members[:half]), np.arange(N) % FOLDS
    joint = sorted(set(zip(*classes.tolist())))
    groups = [(f, FIT_AND_SCORE.of(row_classes)) for f in range(FOLDS) for row_classes in joint]

    def of_group(x):
        return lambda group: x[(fold == group[0]) & (group[1].row_class == classes.T).all(1)]

    rows = [of_group(x) for x in (*members, y)]
    common = CommonRows(groups, FOLDS, rows[:-1], rows[-1])
    return over_random(common, own, fits, [WIDTH] * len(members), HEADS), fits


@dataclass
class WrittenOut:
    """Stacking of one head with scikit-learn: maps on some rows of each fold and class, weights on all rows.

    TSS is about the training mean of the rows that have the same class for every teacher.
    """

    rss: np.ndarray  # [F]
    tss: np.ndarray  # [F]
    weights: np.ndarray  # [A], mean over folds

    @classmethod
    def of(cls, xs, y, fits, head, own_rows, row_classes=None, joint=None):
        """``row_classes`` [A, N] of these teachers, ``joint`` [N] of all; left out, one class."""
        fold, columns = np.arange(N) % FOLDS, slice(2 * head, 2 * head + 2)
        x, target, own = [part.numpy() for part in xs], y.numpy()[:, columns], np.arange(N) // FOLDS < own_rows
        row_classes = one_class(xs) if row_classes is None else row_classes
        joint = np.zeros(N) if joint is None else joint

        def predictions(f, train, rows):
            found = []
            for part, of_classes, classes in zip(x, fits, row_classes):
                predicted = np.zeros_like(target)
                for row_class, fit in enumerate(of_classes):
                    of_class = classes == row_class
                    fitted, of = part[train & own & of_class], target[train & own & of_class]
                    alpha = float(fit.penalties[f, head]) * ((fitted - fitted.mean(0)) ** 2).sum() / WIDTH
                    predicted[of_class] = Ridge(alpha=alpha).fit(fitted, of).predict(part[of_class])
                found.append(predicted[rows])
            return found

        rss, tss, weights = [], [], []
        for f in range(FOLDS):
            mean = target[fold != f].mean(0)
            gram, cross = np.zeros((len(x), len(x))), np.zeros(len(x))
            for g in set(range(FOLDS)) - {f}:
                seen = [p - mean for p in predictions(f, (fold != f) & (fold != g), fold == g)]
                cross += [(s * (target[fold == g] - mean)).sum() for s in seen]
                gram += [[(s * t).sum() for t in seen] for s in seen]
            pull = stacking.PULL * gram.diagonal().mean()
            weights.append(np.linalg.solve(gram + pull * np.eye(len(x)), cross + pull / len(x)))
            seen = [p - mean for p in predictions(f, fold != f, fold == f)]
            actual = target[fold == f] - mean
            rss.append(((actual - sum(share * s for share, s in zip(weights[-1], seen))) ** 2).sum())
            of_classes = [joint == one for one in np.unique(joint)]
            about = [target[(fold == f) & rows] - target[(fold != f) & rows].mean(0) for rows in of_classes]
            tss.append(sum((part**2).sum() for part in about))
        return cls(np.array(rss), np.array(tss), np.mean(weights, axis=0))


def standard_error(rss, tss):
    """Jackknife of 1 - RSS / TSS over folds, each left out in turn."""
    without = [1 - (rss.sum() - r) / (tss.sum() - t) for r, t in zip(rss, tss)]
    return np.sqrt((len(rss) - 1) * np.var(without))


def by_class(data, classes_of):
    """The targets follow other maps in every joint class, about other means."""
    xs, y = data
    numbers = classes_of(xs).T @ [1, 2]
    return xs, y * torch.tensor([1.0, -2, 3, 0.5])[numbers, None].double() + torch.from_numpy(numbers)[:, None]


@pytest.mark.parametrize("classes_of", [one_class, two_classes])
@pytest.mark.parametrize("fit_only", [(), (2,)])
def test_weights_and_scores_equal_stacking_written_out(data, fit_only, classes_of):
    xs, y = by_class(data, classes_of)
    classes = classes_of(xs)
    joint = classes.T @ [1, 2]
    found, fits = fused(xs, y, slice(0, 150), fit_only, classes_of)
    assert [len(of_teacher) for of_teacher in fits] == [1 + classes.max()] * 2
    scored = [f for f in range(FOLDS) if f not in fit_only]
    assert found.n == len(scored) * N / FOLDS
    for head in range(HEADS):
        expected = WrittenOut.of(xs, y, fits, head, 150, classes, joint)
        rss, tss = expected.rss[scored], expected.tss[scored]
        assert float(found.r2[head]) == pytest.approx(1 - rss.sum() / tss.sum())
        assert float(found.se[head]) == pytest.approx(standard_error(rss, tss))
        np.testing.assert_allclose(found.weights[:, head], expected.weights)
        alone = [
            WrittenOut.of([x], y, [fit], head, 150, [of_teacher], joint).rss[scored]
            for x, fit, of_teacher in zip(xs, fits, classes)
        ]
        np.testing.assert_allclose(found.r2_alone[:, head], [1 - of_teacher.sum() / tss.sum() for of_teacher in alone])
        best = min(alone, key=np.sum)
        assert float(found.gain[head]) == pytest.approx((best - rss).sum() / tss.sum())
        assert float(found.gain_se[head]) == pytest.approx(standard_error(rss - best, tss))


@pytest.mark.parametrize("classes_of", [one_class, two_classes])
def test_the_gain_over_random_weights_equals_two_stackings_written_out(data, classes_of):
    xs, y = by_class(data, classes_of)
    members = [*xs, *teacher_layers(5, N, 2, WIDTH)]
    classes = np.tile(classes_of(xs), (2, 1))
    joint = classes_of(xs).T @ [1, 2]
    found, fits = against_random(members, y, slice(0, 150), classes_of)
    assert found.n == N and found.gain.shape == found.gain_se.shape == (2, HEADS)
    for kept, instead in enumerate(([0, 3], [2, 1])):  # the other teacher is the random one in its place
        for head in range(HEADS):
            real = WrittenOut.of(xs, y, fits[:2], head, 150, classes[:2], joint)
            of_members = [members[i] for i in instead], y, [fits[i] for i in instead], head, 150
            control = WrittenOut.of(*of_members, classes[instead], joint)
            more, tss = control.rss - real.rss, real.tss
            assert float(found.gain[kept, head]) == pytest.approx(more.sum() / tss.sum())
            assert float(found.gain_se[kept, head]) == pytest.approx(standard_error(more, tss))


def test_random_weights_in_the_place_of_a_teacher_have_their_own_penalties(data):
    """The control of an analysis, from its sample, where random weights are noise and want a larger penalty."""
    xs, y = data
    noise = teacher_layers(5, N, 2, WIDTH)
    one = Choice.of((0,), [(0,)] * FOLDS, lambda layer: WIDTH)
    both = 0, 0  # the class of a common row for either teacher
    samples, common = ([sample_of([x], [y], FOLDS, classes=[of]) for x in xs] for of in (0, both))
    features = [
        [
            RandomRows(
                {((f, FIT_AND_SCORE.of(row_class)), kind, 0): x[f::FOLDS] for f in range(FOLDS) for kind in KINDS},
                x.device,
            )
            for row_class in (0, both)
        ]
        for x in noise
    ]
    _, _, fits = problem([*xs, *noise], y)
    of_all = [dict.fromkeys(product(KINDS, [0]), ByClass.of(fit)) for fit in fits]
    controls = [Controls(teacher=real, random=stand_in) for real, stand_in in zip(of_all[:2], of_all[2:])]
    means = [fit[0].penalties.log().mean(0).exp() for fit in fits]
    assert all((stand_in > 100 * real).all() for real, stand_in in zip(means[:2], means[2:]))
    choices = [{kind: [one] for kind in KINDS}] * 2
    found = random_in_place(samples, common, features, controls, choices, [HEADS], no_progress)
    assert found.keys() == set(product(KINDS, [0]))
    for head in range(HEADS):
        real = WrittenOut.of(xs, y, fits[:2], head, N)
        for kept, members in enumerate(([0, 3], [2, 1])):
            of_members = [[*xs, *noise][i] for i in members]
            control = WrittenOut.of(of_members, y, [fits[i] for i in members], head, N)
            expected = (control.rss - real.rss).sum() / real.tss.sum()
            assert float(found["key", 0].gain[kept, head]) == pytest.approx(expected, rel=1e-9)


def scores(teachers, random, y):
    """As of an analysis: of each head, its gain over the best single teacher and over random weights."""
    both, _ = fused(teachers, y)
    over, _ = against_random([*teachers, *random], y)
    return [
        FusedScore(
            *("key", 0, head, float(both.r2[head]), float(both.se[head]), [], []),
            gain=float(both.gain[head]),
            gain_se=float(both.gain_se[head]),
            n=both.n,
            gain_random=float(over.gain[both.best[head], head]),
            gain_random_se=float(over.gain_se[both.best[head], head]),
            n_control=over.n,
        )
        for head in range(HEADS)
    ]


def test_a_second_teacher_of_random_weights_is_no_gain_and_one_that_knows_more_is():
    """Both see what the student sees; any features of it explain what a map of the first teacher alone does not."""
    g = torch.Generator().manual_seed(0)
    seen = torch.randn(N, 4, generator=g, dtype=torch.float64)

    def random_features():
        return torch.tanh(seen @ torch.randn(4, WIDTH, generator=g, dtype=torch.float64) / 2)

    first = torch.cat([seen[:, :2], torch.randn(N, WIDTH - 2, generator=g, dtype=torch.float64)], dim=1)
    both = seen[:, 2:3] * seen[:, 3:]  # not linear in what is seen, which random features are nearly
    knowing = torch.cat([seen[:, 2:], both, first[:, 2:4]], dim=1)
    (y,) = planted([torch.cat([seen, both], dim=1)], [[0]], 4, noise=0.3)
    stand_ins = [random_features(), random_features()]
    by_chance = scores([first, random_features()], stand_ins, y)
    assert all(score.gain > 2 * score.gain_se for score in by_chance)  # what was told as a gain
    assert not any(score.beats_best for score in by_chance)
    by_knowledge = scores([first, knowing], stand_ins, y)
    assert all(score.beats_best for score in by_knowledge)
