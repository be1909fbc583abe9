"""The layer rules on planted data: ends to ends, the layers a student was made from, nothing of the scored fold."""

from functools import cache

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


def chosen(data, folds=FOLDS, classes=1, **settings):
    return choose(sample_of(*data, folds, classes=range(classes)), AlignSettings(**settings), no_progress)


PAIRS = {4: ((0, 1), (2, 3)), 5: ((0, 1), (2, 3), (4, 0))}  # of folds left out together, each tested on the other


class Explicit:
    """Held-out R² of sets of teacher layers, by scikit-learn on the rows of each class."""

    def __init__(self, data, folds, classes):
        self.xs, self.ys = ([layer.numpy() for layer in side] for side in data)
        rows = np.arange(len(self.xs[0]))
        self.folds, self.fold, self.row_class = folds, rows % folds, rows // folds % classes
        self.squares = cache(self.squares)

    def squares(self, at, layer, f, g):
        """RSS of each penalty, and TSS, of a map fitted without f and g and tested on g."""
        x, y = np.hstack([self.xs[number] for number in at]), self.ys[layer]
        rss, tss = np.zeros(len(layers.SEARCH_PENALTIES)), 0.0
        for row_class in range(self.row_class.max() + 1):
            of_class = self.row_class == row_class
            train, test = of_class & (self.fold != f) & (self.fold != g), of_class & (self.fold == g)
            variance = ((x[train] - x[train].mean(0)) ** 2).sum() / x.shape[1]
            for i, relative in enumerate(layers.SEARCH_PENALTIES):
                model = Ridge(alpha=relative * variance, solver="cholesky").fit(x[train], y[train])
                rss[i] += ((y[test] - model.predict(x[test])) ** 2).sum()
            tss += ((y[test] - y[train].mean(0)) ** 2).sum()
        return rss, tss

    def r2(self, at, layer, without=None):
        """At the best penalty for all pairs, or for those in which the fold ``without`` is left out and not tested."""
        found = [
            self.squares(tuple(at), layer, f, g)
            for pair in PAIRS[self.folds]
            for f, g in (pair, pair[::-1])
            if without in (None, f)
        ]
        rss, tss = zip(*found)
        return 1 - sum(rss).min() / sum(tss)

    def order(self, layer, without):
        """All layers by what they explain alone; of those that explain as much, the first one first."""
        left, order = list(range(len(self.xs))), []
        while left:
            scores = {at: self.r2([at], layer, without) for at in left}
            order.append(next(at for at in left if scores[at] >= max(scores.values()) - 1e-4))
            left.remove(order[-1])
        return order

    def best(self, layer, without, order, most):
        """Of the first 1, 2, 4, ... layers and as many as may be, the fewest that explain as much as any."""
        sizes = sorted({1, 2, 4, most}.intersection(range(1, most + 1)))
        scores = {size: self.r2(sorted(order[:size]), layer, without) for size in sizes}
        size = next(size for size in sizes if scores[size] >= max(scores.values()) - 1e-4)
        return tuple(sorted(order[:size]))


NEAREST = ([0, 1, 2, 3, 4, 5, 6], [3, 4, 2, 5, 1, 6, 0], [6, 5, 4, 3, 2, 1, 0])  # of each student layer, deeper first


@pytest.mark.parametrize(("folds", "classes"), [(4, 1), (5, 1), (4, 2)])
@pytest.mark.parametrize("most", [LAYERS, 3])
@pytest.mark.parametrize("search", ["banded", "full"])
def test_layers_are_chosen_by_their_error_on_folds_left_out(data, search, most, folds, classes, monkeypatch):
    """The nearest in depth come first, or those that explain most alone; of a class its own map."""
    monkeypatch.setattr(layers, "MOST_FEATURES", most * WIDTH)
    xs, ys = data
    rounds = torch.arange(len(xs[0])) // folds % 2 == 1
    ys = [torch.where(rounds[:, None], 5 - y.flip(1), y) for y in ys] if classes == 2 else ys
    found = chosen((xs, ys), folds, classes, layers="heldout", search=search)
    explicit = Explicit((xs, ys), folds, classes)
    for layer, choice in enumerate(found.choices["key"]):
        for without in (None, *range(folds)):
            order = NEAREST[layer]
            if search == "full":
                order = explicit.order(layer, without)
            expected = explicit.best(layer, without, order, most)
            assert (choice.overall if without is None else choice.of_fold[without]) == expected
        singles = found.matrices["similarity.key.r2"][layer]
        searched = range(LAYERS) if search == "full" else ((0, 1, 2, 3, 4), (1, 2, 3, 4, 5), (2, 3, 4, 5, 6))[layer]
        for at in range(LAYERS):
            expected = explicit.r2([at], layer) if at in searched else np.nan
            assert singles[at] == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_one_layer_is_chosen_of_one_and_more_of_several(data):
    """A student layer made from one teacher layer at its depth, from two that others come before, and from all."""
    xs, _ = data
    sources = [[0], [2, 4], list(range(LAYERS))]
    ys = planted(xs, sources, 3, noise=0.5)
    for kind in KINDS:
        nearest = chosen((xs, ys), layers="heldout").choices[kind]
        assert [c.overall for c in nearest] == [(0,), (2, 3, 4, 5), tuple(range(LAYERS))]
        best = chosen((xs, ys), layers="heldout", search="full").choices[kind]
        assert [c.overall for c in best] == [(0,), (2, 4), tuple(range(LAYERS))]
        for choices in (nearest, best):
            assert all(set(of) <= set(f) for c, of in zip(choices, sources) for f in c.of_fold)


def test_more_layers_than_may_be_side_by_side_are_left_out(data, monkeypatch):
    xs, _ = data
    monkeypatch.setattr(layers, "MOST_FEATURES", 3 * WIDTH + WIDTH - 1)
    ys = planted(xs, [list(range(LAYERS))] * 3, 3, noise=0.1)
    found = chosen((xs, ys), layers="heldout").choices["value"]
    assert [c.overall for c in found] == [(0, 1, 2), (2, 3, 4), (4, 5, 6)]
    monkeypatch.setattr(layers, "MOST_FEATURES", 1)  # less than one layer has
    assert [c.overall for c in chosen((xs, ys), layers="heldout").choices["value"]] == [(0,), (3,), (6,)]


def test_cka_takes_the_most_similar_layer_and_its_null_is_nothing(data):
    search = chosen(data, layers="cka")
    assert [c.overall for c in search.choices["key"]][::2] == [(0,), (6,)]
    assert search.choices["key"][1].overall in ((2,), (4,))
    similar, null, own = (search.matrices[f"similarity.key.{name}"] for name in ("cka", "cka_shuffled", "own"))
    assert similar.shape == null.shape == (3, LAYERS) and own.shape == (3, 3)
    assert np.abs(null).max() < 0.02 < similar.max()
    np.testing.assert_allclose(own.diagonal(), 1)


@pytest.mark.parametrize("fold", [0, 3])
@pytest.mark.parametrize("most", [LAYERS, 4])
@pytest.mark.parametrize("search", ["banded", "full"])
@pytest.mark.parametrize("rule", ["heldout", "cka"])
def test_what_is_chosen_for_a_fold_has_seen_nothing_of_it(data, rule, search, most, fold, monkeypatch):
    monkeypatch.setattr(layers, "MOST_FEATURES", most * WIDTH)
    xs, ys = data
    others = teacher_layers(9, 1200, LAYERS, WIDTH)
    changed = [x.clone() for x in xs], [y.clone() for y in ys]
    within_bands = [[3], [1, 5], [2]]
    rewritten = planted(others, within_bands, 3, noise=0.1)
    for mine, other in zip(changed[0] + changed[1], others + rewritten):
        mine[fold::FOLDS] = 30 * other[fold::FOLDS]
    before, after = (chosen(each, layers=rule, search=search).choices["value"] for each in (data, changed))
    assert [c.of_fold[fold] for c in before] == [c.of_fold[fold] for c in after]
    assert [c.overall for c in before] != [c.overall for c in after]


def test_a_search_of_all_layers_finds_what_the_depth_hides(data):
    xs, _ = data
    far = xs, planted(xs, [[6], [3], [0]], 3, noise=0.5)
    full, banded = (chosen(far, layers="heldout", search=search).choices["key"] for search in ("full", "banded"))
    assert [c.overall for c in full] == [(6,), (3,), (0,)]
    assert [c.overall for c in banded] == [tuple(range(LAYERS)), (3,), tuple(range(LAYERS))]


def test_depth_is_kept_where_two_folds_leave_nothing_to_choose_on(data):
    assert [c.overall for c in chosen(data, 2, layers="heldout").choices["key"]] == [(at,) for at in depth(LAYERS, 3)]


def test_a_set_of_layers_is_scored_for_each_target_alike_alone_and_beside_others(data):
    sample, explicit = sample_of(*data, FOLDS, classes=(0, 1)), Explicit(data, FOLDS, 2)
    together = HeldOut.of(sample, "key", range(LAYERS), range(3))
    for chosen_layers, layer in (((2, 4), 1), (tuple(range(LAYERS)), 2)):
        alone = HeldOut.of(sample, "key", chosen_layers, [layer])
        for without in (None, 2):
            expected = explicit.r2(chosen_layers, layer, without)
            assert together.r2(chosen_layers, layer, without) == pytest.approx(expected)
            assert alone.r2(chosen_layers, layer, without) == pytest.approx(expected)


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
