"""The layer rules on planted data: ends to ends, the layers a student was made from, nothing of the scored fold."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from kvlab.align import layers
from kvlab.align.fold_sums import FIT_AND_SCORE
from kvlab.align.layers import HeldOut, choose, depth
from kvlab.request.align import AlignSettings
from kvlab.shapes import KINDS, no_progress
from tests.rows import planted, sample_of, teacher_layers

FOLDS, LAYERS, WIDTH = 4, 7, 4
SOURCES = [[0], [2, 4], [6]]


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (6, 4, [0, 2, 3, 5]),
        (2, 6, [0, 0, 0, 1, 1, 1]),
        (28, 22, [0, 1, 3, 4, 5, 6, 8, 9, 10, 12, 13, 14, 15, 17, 18, 19, 21, 22, 23, 24, 26, 27]),
        (5, 1, [4]),
        (1, 3, [0, 0, 0]),
    ],
)
def test_depth(teacher, student, expected):
    assert depth(teacher, student) == expected


@pytest.fixture(scope="module")
def data():
    xs = teacher_layers(1, 1200, LAYERS, WIDTH)
    return xs, planted(xs, SOURCES, 3, noise=0.5)


def chosen(data, **settings):
    return choose(sample_of(*data, FOLDS), 1.0, AlignSettings(**settings), no_progress)


def test_heldout_finds_the_layers_the_student_was_made_from(data):
    search = chosen(data, layers="heldout")
    for kind in KINDS:
        assert [c.overall for c in search.choices[kind]] == [(0,), (2, 4), (6,)]
        assert all(f == c.overall for c in search.choices[kind] for f in c.of_fold)


@pytest.mark.parametrize("share", [1.0, 12.0])
def test_no_layer_is_added_that_leaves_too_few_rows_per_feature(data, share):
    search = choose(sample_of(*data, FOLDS), share, AlignSettings(layers="heldout"), no_progress)
    rows = 1200 * 3 / 4 / share
    assert all(
        len(c.overall) * WIDTH * layers.ROWS_PER_FEATURE <= rows or len(c.overall) == 1 for c in search.choices["key"]
    )
    assert (max(len(c.overall) for c in search.choices["key"]) == 2) == (share == 1.0)


def test_cka_takes_the_most_similar_layer_and_its_null_is_nothing(data):
    search = chosen(data, layers="cka")
    assert [c.overall for c in search.choices["key"]][::2] == [(0,), (6,)]
    assert search.choices["key"][1].overall in ((2,), (4,))
    similar, null, own = (search.matrices[f"similarity.key.{name}"] for name in ("cka", "cka_shuffled", "own"))
    assert similar.shape == null.shape == (3, LAYERS) and own.shape == (3, 3)
    assert np.abs(null).max() < 0.02 < similar.max()
    np.testing.assert_allclose(own.diagonal(), 1)


@pytest.mark.parametrize("fold", [0, 3])
@pytest.mark.parametrize("share", [1.0, 12.0])  # two layers side by side, or one
@pytest.mark.parametrize("search", ["banded", "full"])
@pytest.mark.parametrize("rule", ["heldout", "cka"])
def test_what_is_chosen_for_a_fold_has_seen_nothing_of_it(data, rule, search, share, fold):
    xs, ys = data
    others = teacher_layers(9, 1200, LAYERS, WIDTH)
    changed = [x.clone() for x in xs], [y.clone() for y in ys]
    within_bands = [[3], [1, 5], [2]]
    rewritten = planted(others, within_bands, 3, noise=0.1)
    for mine, other in zip(changed[0] + changed[1], others + rewritten):
        mine[fold::FOLDS] = 30 * other[fold::FOLDS]
    before, after = (
        choose(sample_of(*each, FOLDS), share, AlignSettings(layers=rule, search=search), no_progress).choices["value"]
        for each in (data, changed)
    )
    assert [c.of_fold[fold] for c in before] == [c.of_fold[fold] for c in after]
    assert [c.overall for c in before] != [c.overall for c in after]


def test_a_search_of_all_layers_finds_what_the_band_cannot(data):
    xs, _ = data
    far = xs, planted(xs, [[6], [3], [0]], 3, noise=0.5)
    assert [c.overall for c in chosen(far, layers="heldout", search="full").choices["key"]] == [(6,), (3,), (0,)]
    banded = chosen(far, layers="heldout")
    assert all(abs(at - near) <= 4 for c, near in zip(banded.choices["key"], (0, 3, 6)) for at in c.overall)
    searched = banded.matrices["similarity.key.r2"]
    assert np.isnan(searched[0, 5:]).all() and np.isfinite(searched[0, :5]).all()


def test_depth_is_kept_where_two_folds_leave_nothing_to_choose_on(data):
    search = choose(sample_of(*data, 2), 1.0, AlignSettings(layers="heldout"), no_progress)
    assert [c.overall for c in search.choices["key"]] == [(at,) for at in depth(LAYERS, 3)]


def test_held_out_r2_is_that_of_explicit_fits_without_both_folds(data):
    xs, ys = data
    sample = sample_of(xs, ys, FOLDS)
    problem = HeldOut(sample.pairing("key", (2, 4), 1), [(0, WIDTH), (WIDTH, 2 * WIDTH)])
    fold = np.arange(1200) % FOLDS
    for without in (None, 2):
        rss, tss = np.zeros(len(layers.SEARCH_PENALTIES)), 0.0
        for f in range(FOLDS):
            for g in range(FOLDS):
                if (f - g) % FOLDS not in (1, FOLDS - 1) or without not in (None, f):
                    continue
                x, y = xs[4].numpy(), ys[1].numpy()
                train, test = (fold != f) & (fold != g), fold == g
                for i, relative in enumerate(layers.SEARCH_PENALTIES):
                    alpha = relative * ((x[train] - x[train].mean(0)) ** 2).sum() / WIDTH
                    model = Ridge(alpha=alpha).fit(x[train], y[train])
                    rss[i] += ((y[test] - model.predict(x[test])) ** 2).sum()
                tss += ((y[test] - y[train].mean(0)) ** 2).sum()
        assert problem.r2((1,), without) == pytest.approx(1 - rss.min() / tss)


def test_shuffled_targets_are_those_of_the_group_in_another_order(data):
    sample = sample_of(*data, FOLDS)
    group = (1, FIT_AND_SCORE)
    mixed, straight = sample.y("key", 0, group, shuffled=True), sample.y("key", 0, group)
    assert not torch.equal(mixed, straight)
    torch.testing.assert_close(mixed.sort(0).values, straight.sort(0).values)


def test_the_seed_decides_the_order_of_shuffled_targets(data):
    group = (1, FIT_AND_SCORE)
    first, again, other = (sample_of(*data, FOLDS, seed).y("key", 0, group, shuffled=True) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
