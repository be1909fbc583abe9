"""Scores, controls, contributions and the map that is handed on, of several layers, by explicit fits on the rows."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from kvlab.align.align_sums import AlignSums
from kvlab.align.controls import Controls, rows_apart, shuffled_rows
from kvlab.align.fold_sums import FIT_AND_SCORE, FIT_ONLY, SCORE_ONLY
from kvlab.align.layers import Choice
from kvlab.align.sample import Sample
from kvlab.align.scoring import identity_fits, score
from kvlab.shapes import KINDS, Geometry, Positions, no_progress
from tests.rows import Block, planted, teacher_layers

FOLDS, WIDTH, HEADS_T, HEADS_S = 4, 3, 4, 2
FEATURES = HEADS_T * WIDTH  # of one teacher layer
EMBEDDED = 7
PARTS = {FIT_AND_SCORE: 60, SCORE_ONLY: 15, FIT_ONLY: 20}  # rows of a fold
CHOSEN = (  # of each student layer: overall, and without each fold
    ((0, 2), [(0, 2)] * FOLDS),
    ((1,), [(1,), (0, 1), (1,), (1, 2)]),
)


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


def blocks():
    """Of every fold, rows of each use; the second head of the student is mostly noise, and wants a larger penalty.

    Token embeddings are a part of the first teacher layer.
    """
    count = sum(PARTS.values())
    xs = teacher_layers(1, FOLDS * count, 3, FEATURES)
    ys = planted(xs, [[0, 2], [1]], HEADS_S * WIDTH, noise=0.05)
    for y, noise in zip(ys, teacher_layers(2, len(xs[0]), len(ys), WIDTH), strict=True):
        y[:, WIDTH:] += 5 * noise
    for fold in range(FOLDS):
        first = fold * count
        for part, n in PARTS.items():
            of_part = slice(first, first + n)
            embedded = xs[0][of_part, :EMBEDDED]
            yield Block(fold, [x[of_part] + 1 for x in xs], [y[of_part] + 2 for y in ys], (part,), embedded)
            first += n


@pytest.fixture(scope="module")
def rows():
    return list(blocks())


@pytest.fixture(scope="module")
def sums(rows):
    choices = {kind: [Choice.of(*chosen, lambda layer: FEATURES) for chosen in CHOSEN] for kind in KINDS}
    found = AlignSums(choices, FOLDS, {WIDTH: [(kind, layer) for kind in KINDS for layer in range(len(CHOSEN))]})
    for block in rows:
        found.add(block.fold, block.parts[0], block, block.parts[0])
    return found


@pytest.fixture(scope="module", params=["ridge", "group-mean"])
def scored(request, rows, sums):
    choices = sums.choices
    sample = Sample(rows, 3, len(CHOSEN), FOLDS, seed=0)
    teacher, shuffled = shuffled_rows(sample, choices, [HEADS_S] * len(CHOSEN), False, no_progress)
    controls = Controls(teacher, shuffled, apart=rows_apart(sample, choices))
    models = geometry(3, HEADS_T), geometry(len(CHOSEN), HEADS_S)
    return request.param, score(sums, controls, True, *models, request.param, no_progress)


def used(rows, keep):
    """Teacher layers [Lt][N, P] and student layers [Ls][N, Q] of the blocks to keep."""
    kept = [block for block in rows if keep(block)]
    xs = [torch.cat(of_layer).numpy() for of_layer in zip(*(block.xs for block in kept))]
    ys = [torch.cat(of_layer).numpy() for of_layer in zip(*(block.ys for block in kept))]
    return xs, ys


def fitted_and_scored(rows, fold):
    """The rows that a fold's map is fitted on, and those that it is scored on."""
    fitted = used(rows, lambda b: b.fold != fold and b.parts[0] != SCORE_ONLY)
    return *fitted, *used(rows, lambda b: b.fold == fold and b.parts[0] != FIT_ONLY)


def ridge(x, y, relative_penalty):
    return Ridge(alpha=relative_penalty * ((x - x.mean(0)) ** 2).sum() / x.shape[1], solver="cholesky").fit(x, y)


def penalty_of(scored, kind, layer):
    """The geometric mean over folds and heads."""
    penalties = scored.ridges[kind, layer].penalties.numpy()
    assert penalties.max() > 10 * penalties.min()
    return np.exp(np.log(penalties).mean())


def squares_of_heads(residual):
    return (residual**2).reshape(-1, HEADS_S, WIDTH).sum((0, 2))


def group_mean(layers):
    """[N, Hs * D] from layers [N, Ht * D]: over the layers, and over the two teacher heads of each student head."""
    of_heads = np.mean(layers, axis=0).reshape(-1, HEADS_S, HEADS_T // HEADS_S, WIDTH)
    return of_heads.mean(2).reshape(len(of_heads), -1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_handed_on_is_fitted_on_every_row_from_the_layers_chosen_on_all_folds(rows, scored, kind):
    projector, found = scored
    xs, ys = used(rows, lambda b: b.parts[0] != SCORE_ONLY)
    for layer, (overall, _) in enumerate(CHOSEN):
        x, y = np.hstack([xs[at] for at in overall]), ys[layer]
        weights, bias = found.maps[kind].weights[layer].numpy(), found.maps[kind].biases[layer].numpy()
        if projector == "ridge":
            expected = ridge(x, y, penalty_of(found, kind, layer))
            np.testing.assert_allclose(weights, expected.coef_.T, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(bias, expected.intercept_, rtol=1e-5, atol=1e-6)
        else:
            mean = group_mean([xs[at] for at in overall])
            np.testing.assert_allclose(x @ weights + bias, mean - mean.mean(0) + y.mean(0), rtol=1e-5, atol=1e-5)


def test_the_group_mean_is_over_layers_and_neighbouring_heads(rows, scored):
    projector, found = scored
    for layer, (_, of_folds) in enumerate(CHOSEN):
        rss, tss = np.zeros((2, FOLDS, HEADS_S))
        for fold, layers in enumerate(of_folds):
            fit_x, fit_y, x, y = fitted_and_scored(rows, fold)
            means, centre = (group_mean([of[at] for at in layers]) for of in (x, fit_x))
            about_mean = y[layer] - fit_y[layer].mean(0)
            rss[fold] = squares_of_heads(about_mean - (means - centre.mean(0)))
            tss[fold] = squares_of_heads(about_mean)
        expected = 1 - rss.sum(0) / tss.sum(0)
        heads = [s for s in found.heads if (s.kind, s.layer) == ("value", layer)]
        np.testing.assert_allclose([s.r2_group_mean for s in heads], expected)
        if projector == "group-mean":
            np.testing.assert_allclose([s.r2 for s in heads], expected)


def test_the_control_by_token_identity_is_each_layers_own(rows, sums, scored):
    _, found = scored
    identity = identity_fits(sums)
    for kind, layer in ((kind, layer) for kind in KINDS for layer in range(len(CHOSEN))):
        fit = found.fits[kind, layer]
        rss, tss = np.zeros((2, FOLDS, HEADS_S))
        for fold in range(FOLDS):
            fit_x, fit_y, x, y = fitted_and_scored(rows, fold)
            embedded, of_scored = fit_x[0][:, :EMBEDDED], x[0][:, :EMBEDDED]
            about_mean = y[layer] - fit_y[layer].mean(0)
            tss[fold] = squares_of_heads(about_mean)
            for head in range(HEADS_S):
                model = ridge(embedded, fit_y[layer], float(identity[kind, layer].penalties[fold, head]))
                rss[fold, head] = squares_of_heads(y[layer] - model.predict(of_scored))[head]
        heads = [s for s in found.heads if (s.kind, s.layer) == (kind, layer)]
        by_identity = 1 - rss.sum(0) / tss.sum(0)
        np.testing.assert_allclose([s.r2_identity for s in heads], by_identity, rtol=1e-6)
        np.testing.assert_allclose([s.gain for s in heads], fit.r2.numpy() - by_identity, rtol=1e-6)
        np.testing.assert_allclose([s.identity_se for s in heads], standard_error(rss, tss), rtol=1e-6)
        np.testing.assert_allclose([s.gain_se for s in heads], standard_error(fit.rss.numpy() - rss, tss), rtol=1e-6)


def standard_error(rss, tss):
    """Jackknife [H] of 1 - RSS / TSS over folds, each left out in turn."""
    without = [1 - np.delete(rss, f, 0).sum(0) / np.delete(tss, f, 0).sum(0) for f in range(len(rss))]
    return np.sqrt((len(rss) - 1) * np.var(without, axis=0))


def test_shuffled_rows_explain_nothing_of_a_head_that_the_teacher_explains(scored):
    projector, found = scored
    explained = [s for s in found.heads if s.head == 0]
    assert projector != "ridge" or min(s.r2 for s in explained) > 0.9
    assert max(abs(s.r2_shuffled) for s in explained) < 0.1


def test_a_teacher_head_contributes_with_its_channels_in_every_layer(rows, scored):
    _, found = scored
    for layer, (_, of_folds) in enumerate(CHOSEN):
        rss, tss = np.zeros((HEADS_T, 3, HEADS_S)), np.zeros(HEADS_S)
        for fold, layers in enumerate(of_folds):
            fit_x, fit_y, x, y = fitted_and_scored(rows, fold)
            fit_x, x = (np.hstack([of[at] for at in layers]) for of in (fit_x, x))
            fit_y, y = fit_y[layer], y[layer]
            tss += squares_of_heads(y - fit_y.mean(0))
            penalty = penalty_of(found, "value", layer) * ((fit_x - fit_x.mean(0)) ** 2).sum() / fit_x.shape[1]
            head_of = np.arange(fit_x.shape[1]) // WIDTH % HEADS_T
            for head in range(HEADS_T):
                for case, columns in enumerate((head_of >= 0, head_of != head, head_of == head)):
                    model = Ridge(alpha=penalty, solver="cholesky").fit(fit_x[:, columns], fit_y)
                    rss[head, case] += squares_of_heads(y - model.predict(x[:, columns]))
        without, alone = (found.contributions[f"contribution.value.{name}"][layer] for name in ("without", "alone"))
        np.testing.assert_allclose(without, ((rss[:, 1] - rss[:, 0]) / tss).T, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(alone, (1 - rss[:, 2] / tss).T, rtol=1e-6, atol=1e-9)
