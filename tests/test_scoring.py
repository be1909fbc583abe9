"""Scores, controls, contributions and the maps that are handed on, of several layers, by explicit fits on the rows."""

from itertools import product

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from kvlab.align.align_sums import OWN_TOKENS, TEACHER_TOKEN, AlignSums
from kvlab.align.controls import Controls, rows_apart, teacher_and_shuffled
from kvlab.align.fold_sums import FIT_AND_SCORE, FIT_ONLY, FITTED, SCORE_ONLY, SCORED, SINK
from kvlab.align.layers import Choice
from kvlab.align.sample import Sample
from kvlab.align.scoring import difference, score, teacher_fits, token_fits
from kvlab.shapes import KINDS, Geometry, Positions, no_progress
from tests.rows import Block, planted, teacher_layers

FOLDS, WIDTH, HEADS_T, HEADS_S = 4, 3, 4, 2
FEATURES = HEADS_T * WIDTH  # of one teacher layer
EMBEDDED, OWN = 7, 2  # features of the teacher's token, and of the student's own
PARTS = {  # rows of a fold
    "one map": {FIT_AND_SCORE: 60, SCORE_ONLY.of(1): 15, FIT_ONLY: 20, SINK: 3},
    "by class": {FIT_AND_SCORE: 60, FIT_AND_SCORE.of(1): 40, FIT_ONLY: 20, FIT_ONLY.of(1): 9, SINK: 3, SINK.of(1): 2},
}
CLASSES = {"one map": [(0, 1)], "by class": [(0,), (1,)]}  # that share a map
CHOSEN = (  # of each student layer: overall, and without each fold
    ((0, 2), [(0, 2)] * FOLDS),
    ((1,), [(1,), (0, 1), (1,), (1, 2)]),
    ((0, 2), [(0, 2)] * FOLDS),
)
ALIKE = {0: (0, 2), 1: (1,), 2: (0, 2)}  # student layers with the same features
HEADS = [HEADS_S] * len(CHOSEN)
PROBLEMS = list(product(KINDS, range(len(CHOSEN))))


def geometry(layers, heads):
    return Geometry(
        name="made up",
        architecture="llama",
        layers=layers,
        kv_layers=tuple(range(layers)),
        kv_heads=heads,
        query_heads=heads,
        key_width=WIDTH,
        value_width=WIDTH,
        hidden=heads * WIDTH,
        vocabulary=400,
        positions=Positions("rope"),
        max_positions=None,
        parameters=1,
    )


def blocks(parts):
    """Of every fold, rows of each use; the second head of the student is mostly noise, and wants a larger penalty.

    The teacher's token embeddings are a part of its first layer, and the student's own tokens are a noisy part of the
    first head. Rows of class 1 that are fitted follow another map about another mean.
    """
    count = sum(parts.values())
    xs = teacher_layers(1, FOLDS * count, 3, FEATURES)
    ys = planted(xs, [[0, 2], [1], [0]], HEADS_S * WIDTH, noise=0.05)
    others = planted(xs, [[0, 2], [1], [0]], HEADS_S * WIDTH, noise=0.05, seed=3)
    own = ys[0][:, :OWN] + 0.5 * teacher_layers(4, len(xs[0]), 1, OWN)[0]
    for y, noise in zip((*ys, *others), teacher_layers(2, len(xs[0]), 2 * len(ys), WIDTH), strict=True):
        y[:, WIDTH:] += 5 * noise
    for fold in range(FOLDS):
        first = fold * count
        for part, n in parts.items():
            of_part = slice(first, first + n)
            of_class, mean = (others, -3) if part in (FIT_AND_SCORE.of(1), FIT_ONLY.of(1)) else (ys, 2)
            before = own[of_part].flip(0)
            own_tokens = torch.cat([own[of_part], before, before**2], dim=1)
            embedded = xs[0][of_part, :EMBEDDED]
            yield Block(
                fold, [x[of_part] + 1 for x in xs], [y[of_part] + mean for y in of_class], (part,), embedded, own_tokens
            )
            first += n


@pytest.fixture(scope="module", params=list(PARTS))
def case(request):
    return request.param


@pytest.fixture(scope="module")
def rows(case):
    return list(blocks(PARTS[case]))


@pytest.fixture(scope="module")
def sums(rows):
    choices = {kind: [Choice.of(*chosen, lambda layer: FEATURES) for chosen in CHOSEN] for kind in KINDS}
    found = AlignSums(choices, FOLDS, {(WIDTH, None): PROBLEMS})
    for block in rows:
        if block.parts[0].use != SINK.use:
            found.add(block.fold, block.parts[0], block, block.parts[0])
    return found


@pytest.fixture(scope="module", params=["ridge", "group-mean"])
def scored(request, rows, sums):
    sample = Sample(rows, 3, len(CHOSEN), FOLDS, seed=0)
    teacher, shuffled = teacher_and_shuffled(sums, sample, HEADS, no_progress)
    controls = Controls(teacher, shuffled, apart=rows_apart(sample, sums))
    models = geometry(3, HEADS_T), geometry(len(CHOSEN), HEADS_S)
    return request.param, score(sums, controls, True, *models, request.param, no_progress)


def stacked(rows, keep, read):
    """[Lt or Ls][N, ...] of the blocks to keep."""
    kept = [block for block in rows if keep(block)]
    return [torch.cat(of_layer).numpy() for of_layer in zip(*(read(block) for block in kept))]


def used(rows, keep):
    """Teacher layers [Lt][N, P] and student layers [Ls][N, Q] of the blocks to keep."""
    return stacked(rows, keep, lambda b: b.xs), stacked(rows, keep, lambda b: b.ys)


def of_use(uses, classes, fold=None, without=None):
    def keep(block):
        (part,) = block.parts
        in_fold = block.fold == fold if fold is not None else block.fold != without
        return part.use in uses and part.row_class in classes and in_fold

    return keep


def fitted_and_scored(rows, fold, classes, read=None):
    """The rows that a fold's map of some classes is fitted on, and those that it is scored on."""
    some = of_use(FITTED, classes, without=fold), of_use(SCORED, classes, fold=fold)
    if read:
        return [stacked(rows, keep, read) for keep in some]
    return *used(rows, some[0]), *used(rows, some[1])


def ridge(x, y, relative_penalty):
    return Ridge(alpha=relative_penalty * ((x - x.mean(0)) ** 2).sum() / x.shape[1], solver="cholesky").fit(x, y)


def squares_of_heads(residual):
    return (residual**2).reshape(-1, HEADS_S, WIDTH).sum((0, 2))


def group_mean(layers):
    """[N, Hs * D] from layers [N, Ht * D]: over the layers, and over the two teacher heads of each student head."""
    of_heads = np.mean(layers, axis=0).reshape(-1, HEADS_S, HEADS_T // HEADS_S, WIDTH)
    return of_heads.mean(2).reshape(len(of_heads), -1)


def standard_error(rss, tss):
    """Jackknife [H] of 1 - RSS / TSS over folds, each left out in turn."""
    without = [1 - np.delete(rss, f, 0).sum(0) / np.delete(tss, f, 0).sum(0) for f in range(len(rss))]
    return np.sqrt((len(rss) - 1) * np.var(without, axis=0))


def explicit(rows, layer, fits, features):
    """RSS and TSS [classes, F, H] of ridges with the penalties of ``fits`` [classes].

    ``features`` of a block and a fold: what maps that have not seen that fold use.
    """
    rss, tss = np.zeros((2, len(fits), FOLDS, HEADS_S))
    for number, fit in enumerate(fits):
        for fold in range(FOLDS):
            fit_x, x = (f[0] for f in fitted_and_scored(rows, fold, fit.classes, lambda b, f=fold: [features(b, f)]))
            _, fit_y, _, y = fitted_and_scored(rows, fold, fit.classes)
            tss[number, fold] = squares_of_heads(y[layer] - fit_y[layer].mean(0))
            for head in range(HEADS_S):
                model = ridge(fit_x, fit_y[layer], float(fit.penalties[fold, head]))
                rss[number, fold, head] = squares_of_heads(y[layer] - model.predict(x))[head]
    return rss, tss


def of_teacher(layer):
    return lambda block, fold: torch.cat([block.xs[at] for at in CHOSEN[layer][1][fold]], dim=1)


def with_own_token(layer):
    return lambda block, fold: torch.cat([of_teacher(layer)(block, fold), block.own_tokens[:, :OWN]], dim=1)


def heads_of(scored, kind, layer):
    return [s for s in scored.heads if (s.kind, s.layer) == (kind, layer)]


def values(heads, name):
    return [getattr(s, name) for s in heads]


def check(heads, name, error, rss, tss):
    """Rows of ``rss`` and ``tss`` [F, H]: less than 1 by their ratio, and its jackknife."""
    np.testing.assert_allclose(values(heads, name), 1 - rss.sum(0) / tss.sum(0), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(values(heads, error), standard_error(rss, tss), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_maps_handed_on_are_fitted_on_every_row_of_a_class_from_the_layers_chosen_on_all_folds(
    rows, scored, case, kind
):
    projector, found = scored
    for layer, (overall, _) in enumerate(CHOSEN):
        maps = found.maps[kind].layers[layer]
        assert maps.classes == CLASSES[case]
        for number, classes in enumerate(maps.classes):
            xs, ys = used(rows, of_use(FITTED, classes))
            x, y = np.hstack([xs[at] for at in overall]), ys[layer]
            weights, bias = maps.weights[number].numpy(), maps.biases[number].numpy()
            np.testing.assert_allclose(maps.means[number], y.mean(0), rtol=1e-5)
            if projector == "ridge":
                penalties = found.ridges[kind, layer].fits[number].whole_penalties
                for head, penalty in enumerate(penalties.tolist()):
                    channels = slice(head * WIDTH, (head + 1) * WIDTH)
                    expected = ridge(x, y[:, channels], penalty)
                    np.testing.assert_allclose(weights[:, channels], expected.coef_.T, rtol=1e-5, atol=1e-6)
                    np.testing.assert_allclose(bias[channels], expected.intercept_, rtol=1e-5, atol=2e-6)
            else:
                mean = group_mean([xs[at] for at in overall])
                np.testing.assert_allclose(x @ weights + bias, mean - mean.mean(0) + y.mean(0), rtol=1e-5, atol=1e-5)


def test_heads_have_penalties_of_their_own(scored):
    penalties = torch.cat([fit.penalties for fits in scored[1].ridges.values() for fit in fits.fits])
    assert (penalties[:, 1] > penalties[:, 0]).all()


def test_a_map_predicts_each_row_by_its_class(rows, scored, case):
    _, found = scored
    keep = of_use(SCORED, (0, 1), fold=0)
    xs, _ = used(rows, keep)
    classes = torch.cat([torch.full((len(b.xs[0]),), b.parts[0].row_class) for b in rows if keep(b)])
    for kind, layer in PROBLEMS:
        x = torch.from_numpy(np.hstack([xs[at] for at in CHOSEN[layer][0]]))
        maps = found.maps[kind].layers[layer]
        predicted, means = maps.predict(x, classes), maps.mean(classes)
        for row in (0, 59, 60, 74):
            number = min(int(classes[row]), len(CLASSES[case]) - 1)
            expected = x[row] @ maps.weights[number].double() + maps.biases[number].double()
            torch.testing.assert_close(predicted[row], expected)
            torch.testing.assert_close(means[row], maps.means[number])
        one_head = maps.channels(slice(WIDTH, 2 * WIDTH))
        torch.testing.assert_close(one_head.predict(x, classes), predicted[:, WIDTH:])
        torch.testing.assert_close(one_head.mean(classes), means[:, WIDTH:])


def test_the_group_mean_is_over_layers_and_neighbouring_heads(rows, scored, case):
    projector, found = scored
    for layer, (_, of_folds) in enumerate(CHOSEN):
        rss, tss = np.zeros((2, FOLDS, HEADS_S))
        for (fold, layers), classes in product(enumerate(of_folds), CLASSES[case]):
            fit_x, fit_y, x, y = fitted_and_scored(rows, fold, classes)
            means, centre = (group_mean([of[at] for at in layers]) for of in (x, fit_x))
            about_mean = y[layer] - fit_y[layer].mean(0)
            rss[fold] += squares_of_heads(about_mean - (means - centre.mean(0)))
            tss[fold] += squares_of_heads(about_mean)
        expected = 1 - rss.sum(0) / tss.sum(0)
        heads = heads_of(found, "value", layer)
        np.testing.assert_allclose(values(heads, "r2_group_mean"), expected)
        if projector == "group-mean":
            check(heads, "r2", "se", rss, tss)


def test_scores_of_the_teacher_are_of_both_classes_and_of_each(rows, scored, case):
    projector, found = scored
    scored_rows = [
        sum(n for part, n in PARTS[case].items() if part.use in SCORED and part.row_class == c) for c in (0, 1)
    ]
    for kind, layer in PROBLEMS:
        heads = heads_of(found, kind, layer)
        assert set(values(heads, "n")) == {FOLDS * sum(scored_rows)}
        assert set(values(heads, "n_inside")) == {FOLDS * scored_rows[1] if case == "by class" else 0}
        if projector != "ridge":
            continue
        rss, tss = explicit(rows, layer, found.ridges[kind, layer].fits, of_teacher(layer))
        check(heads, "r2", "se", rss.sum(0), tss.sum(0))
        if case == "by class":
            check(heads, "r2_exact", "exact_se", rss[0], tss[0])
            check(heads, "r2_inside", "inside_se", rss[1], tss[1])
        else:
            names = ("r2_exact", "exact_se", "r2_inside", "inside_se")
            assert all(np.isnan(values(heads, name)).all() for name in names)


def test_token_controls_are_each_layers_own_and_the_teacher_adds_to_the_students_own_tokens(rows, sums, scored):
    projector, found = scored
    fits = {name: token_fits(sums, name) for name in (TEACHER_TOKEN, OWN_TOKENS)}
    both = teacher_fits(sums, dict.fromkeys(PROBLEMS, HEADS_S), with_own_token=True)
    for kind, layer in PROBLEMS:
        heads, fit = heads_of(found, kind, layer), found.fits[kind, layer]
        rss, tss = explicit(rows, layer, fits[TEACHER_TOKEN][kind, layer].fits, lambda b, _: b.embedded)
        rss, tss = rss.sum(0), tss.sum(0)
        check(heads, "r2_identity", "identity_se", rss, tss)
        by_identity = 1 - rss.sum(0) / tss.sum(0)
        np.testing.assert_allclose(values(heads, "gain"), fit.r2.numpy() - by_identity, rtol=1e-6)
        np.testing.assert_allclose(values(heads, "gain_se"), standard_error(fit.rss.numpy() - rss, tss), rtol=1e-6)
        own, _ = explicit(rows, layer, fits[OWN_TOKENS][kind, layer].fits, lambda b, _: b.own_tokens)
        check(heads, "r2_own", "own_se", own.sum(0), tss)
        if projector == "ridge":
            more, _ = explicit(rows, layer, both[kind, layer].fits, with_own_token(layer))
            check(heads, "r2_with_own", "with_own_se", more.sum(0), tss)
            less_rss = own.sum(0) - more.sum(0)
            np.testing.assert_allclose(values(heads, "added"), less_rss.sum(0) / tss.sum(0), rtol=1e-6)
            np.testing.assert_allclose(values(heads, "added_se"), standard_error(less_rss, tss), rtol=1e-6)
        else:
            assert np.isnan([values(heads, n) for n in ("r2_with_own", "with_own_se", "added", "added_se")]).all()


def test_rows_apart_are_scored_by_the_map_of_their_class(rows, scored):
    projector, found = scored
    if projector != "ridge":
        return
    for kind, layer in PROBLEMS:
        rss, tss = np.zeros((2, HEADS_S))
        for block in rows:
            if block.parts[0].use == SINK.use:
                fit = found.ridges[kind, layer].of_class(block.parts[0].row_class)
                fit_x, fit_y, _, _ = fitted_and_scored(rows, block.fold, fit.classes)
                fit_x = np.hstack([fit_x[at] for at in CHOSEN[layer][1][block.fold]])
                x, y = of_teacher(layer)(block, block.fold).numpy(), block.ys[layer].numpy()
                tss += squares_of_heads(y - fit_y[layer].mean(0))
                for head in range(HEADS_S):
                    model = ridge(fit_x, fit_y[layer], float(fit.penalties[block.fold, head]))
                    rss[head] += squares_of_heads(y - model.predict(x))[head]
        heads = heads_of(found, kind, layer)
        np.testing.assert_allclose(values(heads, "error_sink"), rss / tss, rtol=1e-6)


def test_shuffled_rows_explain_nothing_of_a_head_that_the_teacher_explains(scored):
    projector, found = scored
    explained = [s for s in found.heads if s.head == 0]
    assert projector != "ridge" or min(s.r2 for s in explained) > 0.9
    assert max(abs(s.r2_shuffled) for s in explained) < 0.1


def penalty_of(scored, kind, layers, number):
    """The geometric mean over layers that are solved together, folds and heads, of one class."""
    penalties = [scored.ridges[kind, layer].fits[number].penalties.numpy() for layer in layers]
    return np.exp(np.mean([np.log(of_layer).mean() for of_layer in penalties]))


def test_a_teacher_head_contributes_with_its_channels_in_every_layer(rows, scored, case):
    _, found = scored
    for layer, (_, of_folds) in enumerate(CHOSEN):
        rss, tss = np.zeros((HEADS_T, 3, HEADS_S)), np.zeros(HEADS_S)
        for (fold, layers), (number, classes) in product(enumerate(of_folds), enumerate(CLASSES[case])):
            fit_x, fit_y, x, y = fitted_and_scored(rows, fold, classes)
            fit_x, x = (np.hstack([of[at] for at in layers]) for of in (fit_x, x))
            fit_y, y = fit_y[layer], y[layer]
            tss += squares_of_heads(y - fit_y.mean(0))
            relative = penalty_of(found, "value", ALIKE[layer], number)
            penalty = relative * ((fit_x - fit_x.mean(0)) ** 2).sum() / fit_x.shape[1]
            head_of = np.arange(fit_x.shape[1]) // WIDTH % HEADS_T
            for head in range(HEADS_T):
                for which, columns in enumerate((head_of >= 0, head_of != head, head_of == head)):
                    model = Ridge(alpha=penalty, solver="cholesky").fit(fit_x[:, columns], fit_y)
                    rss[head, which] += squares_of_heads(y - model.predict(x[:, columns]))
        without, alone = (found.contributions[f"contribution.value.{name}"][layer] for name in ("without", "alone"))
        np.testing.assert_allclose(without, ((rss[:, 1] - rss[:, 0]) / tss).T, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(alone, (1 - rss[:, 2] / tss).T, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("knows", [True, False])
def test_what_knows_nothing_adds_nothing_to_the_students_own_tokens(rows, case, knows):
    """A teacher that has read other documents: its rows in the order of other folds' rows of the same use."""
    if case != "by class":
        return
    found = AlignSums(
        {kind: [Choice.of(*CHOSEN[0], lambda layer: FEATURES)] for kind in KINDS},
        FOLDS,
        {(WIDTH, None): [(k, 0) for k in KINDS]},
    )
    for block in rows:
        if block.parts[0].use == SINK.use:
            continue
        (other,) = [b for b in rows if b.parts == block.parts and b.fold == (block.fold + 1) % FOLDS]
        xs = block.xs if knows else other.xs
        block = Block(block.fold, xs, block.ys, block.parts, block.embedded, block.own_tokens)
        found.add(block.fold, block.parts[0], block, block.parts[0])
    for kind in KINDS:
        both = teacher_fits(found, {(kind, 0): HEADS_S}, with_own_token=True)[kind, 0]
        own = token_fits(found, OWN_TOKENS)[kind, 0]
        added, se = difference(both, own)
        assert own.r2[0] > 0.1
        assert (added[0] > 2 * se[0]) == knows and (knows or not (added > 2 * se).any())
