"""Rows weighted by the attention that they receive: a weight of k is k equal rows in every fit, and in no score."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from kvlab.align.align_sums import OWN_TOKENS, TEACHER_TOKEN, AlignSums
from kvlab.align.class_maps import class_maps
from kvlab.align.controls import teacher_and_shuffled
from kvlab.align.crossfit import crossfit_ridge, ridge_by_class, teacher_head_contributions
from kvlab.align.fold_sums import FIT_AND_SCORE, FIT_ONLY, SCORE_ONLY, Pairing
from kvlab.align.fusion import fuse, over_random
from kvlab.align.layers import Choice
from kvlab.align.sample import Sample
from kvlab.align.scoring import teacher_fits, token_fits
from kvlab.align.spectrum import spectrum
from kvlab.align.stacking import CommonRows
from kvlab.align.unfinished import Unfinished
from kvlab.errors import AlignError
from kvlab.models.attention import received_attention
from kvlab.models.loading import load
from kvlab.models.tokens import tokenize
from kvlab.request.align import AlignSettings
from kvlab.request.train import TrainConfig
from kvlab.shapes import KINDS, no_progress
from kvlab.train.data import align_settings
from tests.rows import Block, planted, teacher_layers
from tests.tiny import tiny_model

FOLDS, N, P, HEADS, WIDTH, LAYERS = 4, 240, 6, 2, 3, 2
FOLD = torch.arange(N) % FOLDS
CLASS = torch.arange(N) // FOLDS % 2
G = torch.Generator().manual_seed(5)
# Zero, one and more: rows far from the mean of y have the large ones, so that the weighted mean is another.
WEIGHTS = [torch.randint(0, 4, (N,), generator=G).double() for _ in range(LAYERS)]


def of(fold, row_class):
    """[N] bool"""
    return (fold == FOLD) & (row_class == CLASS)


@pytest.fixture(scope="module")
def rows():
    xs = teacher_layers(1, N, 1, P)
    ys = planted(xs, [[0], [0]], HEADS * WIDTH, noise=0.8)
    for y, weights in zip(ys, WEIGHTS):
        y += 0.7 * weights[:, None]
    return xs[0] + 1, ys


def paired(x, y, weights):
    pairing = Pairing.begin(x[:9].mean(0), y[:9].mean(0), FOLDS)
    for fold in range(FOLDS):
        for row_class in (0, 1):
            here = of(fold, row_class)
            pairing.add(fold, FIT_AND_SCORE.of(row_class), x[here], y[here], None if weights is None else weights[here])
    return pairing


def repeated(x, y, weights):
    """Each row as often as its weight says, to be fitted, and once to be scored."""
    pairing = Pairing.begin(x[:9].mean(0), y[:9].mean(0), FOLDS)
    for fold in range(FOLDS):
        for row_class in (0, 1):
            here = of(fold, row_class)
            often = torch.arange(N)[here].repeat_interleave(weights[here].long())
            pairing.add(fold, FIT_ONLY.of(row_class), x[often], y[often])
            pairing.add(fold, SCORE_ONLY.of(row_class), x[here], y[here])
    return pairing


def equal_maps(found, expected):
    for one, other in zip(found.fits, expected.fits, strict=True):
        torch.testing.assert_close(one.penalties, other.penalties)
        for fold in range(FOLDS):
            torch.testing.assert_close(one.weights[fold], other.weights[fold], rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(one.fitted_y[fold], other.fitted_y[fold])
    torch.testing.assert_close(found.rss, expected.rss)


def test_a_row_of_weight_k_is_k_equal_rows_in_the_fit_and_one_in_the_score(rows):
    x, (y, _) = rows
    key = {0: HEADS}
    found = ridge_by_class({0: paired(x, y, WEIGHTS[0])}, key)[0]
    equal_maps(found, ridge_by_class({0: repeated(x, y, WEIGHTS[0])}, key)[0])
    rss, tss = np.zeros(HEADS), np.zeros(HEADS)
    for fold in range(FOLDS):
        for row_class, one in enumerate(found.fits):
            of_class = (row_class == CLASS).numpy()
            train, test = of_class & (fold != FOLD).numpy(), of_class & (fold == FOLD).numpy()
            w = WEIGHTS[0].numpy()[train]
            centred = x.numpy()[train] - np.average(x.numpy()[train], axis=0, weights=w)
            variance = (w[:, None] * centred**2).sum() / P
            for head in range(HEADS):
                channels = slice(head * WIDTH, (head + 1) * WIDTH)
                alpha = float(one.penalties[fold, head]) * variance
                model = Ridge(alpha=alpha, solver="cholesky").fit(x.numpy()[train], y.numpy()[train, channels], w)
                np.testing.assert_allclose(one.weights[fold][:, channels].T, model.coef_, rtol=1e-7, atol=1e-9)
                rss[head] += ((y.numpy()[test, channels] - model.predict(x.numpy()[test])) ** 2).sum()
                mean = y.numpy()[train, channels].mean(0)  # of rows that count alike
                tss[head] += ((y.numpy()[test, channels] - mean) ** 2).sum()
    np.testing.assert_allclose(found.rss.sum(0), rss)
    np.testing.assert_allclose(found.tss.sum(0), tss)
    assert found.n.sum() == N


def test_weights_of_one_change_nothing_and_a_common_factor_little_more_than_rounding(rows):
    x, (y, _) = rows
    equal, of_ones = (ridge_by_class({0: paired(x, y, w)}, {0: HEADS})[0] for w in (None, torch.ones(N)))
    for one, other in zip(equal.fits, of_ones.fits, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.weights, other.weights))
        assert all(torch.equal(a, b) for a, b in zip(one.mean_y, other.mean_y))
    assert torch.equal(equal.rss, of_ones.rss) and torch.equal(equal.tss, of_ones.tss)
    small, large = (ridge_by_class({0: paired(x, y, f * WEIGHTS[0])}, {0: HEADS})[0] for f in (1e-3, 10.0))
    torch.testing.assert_close(small.fits[0].weights[0], large.fits[0].weights[0], rtol=1e-6, atol=1e-8)


def test_the_maps_handed_on_are_weighted_and_their_means_are_not(rows):
    x, (y, _) = rows
    maps = []
    for pairing in (paired(x, y, WEIGHTS[0]), repeated(x, y, WEIGHTS[0])):
        fits = ridge_by_class({0: pairing}, {0: HEADS})[0].fits
        maps.append(class_maps(pairing, torch.arange(P), fits))
    for place in (0, 1):
        torch.testing.assert_close(maps[0].weights[place], maps[1].weights[place])
        torch.testing.assert_close(maps[0].biases[place], maps[1].biases[place])
        torch.testing.assert_close(maps[0].means[place].double(), y[place == CLASS].mean(0), rtol=1e-6, atol=1e-6)
    assert (maps[1].means[0] - maps[0].means[0]).abs().max() > 0.1


def aligned(x, ys, received):
    """The sums and the sample of two student layers that read the same teacher layer and the same tokens."""
    choice = Choice.of((0,), [(0,)] * FOLDS, lambda layer: P)
    sums = AlignSums(
        {kind: [choice] * LAYERS for kind in KINDS},
        FOLDS,
        {(WIDTH, n if received else None): [(k, n) for k in KINDS] for n in range(LAYERS)}
        if received
        else {(WIDTH, None): [(k, n) for k in KINDS for n in range(LAYERS)]},
    )
    blocks = []
    for fold in range(FOLDS):
        for row_class in (0, 1):
            here = of(fold, row_class)
            tokens = torch.cat([x[here, :2], x[here, 1:3], x[here, :2] ** 2], dim=1)
            weights = [w[here] for w in received] if received else None
            part = FIT_AND_SCORE.of(row_class)
            blocks.append(Block(fold, [x[here]], [y[here] for y in ys], (part,), x[here, 2:5], tokens, weights))
            sums.add(fold, part, blocks[-1], part)
    return sums, Sample(blocks, 1, LAYERS, FOLDS, seed=0)


def test_each_student_layer_has_its_own_weights_in_the_fits_of_all_sources_and_layers_share_the_scored_rows(rows):
    x, ys = rows
    sums, sample = aligned(x, ys, WEIGHTS)
    heads = {(kind, layer): HEADS for kind in KINDS for layer in range(LAYERS)}
    tokens = torch.cat([x[:, :2], x[:, 1:3], x[:, :2] ** 2], dim=1)
    features = {"teacher": x, OWN_TOKENS: tokens, TEACHER_TOKEN: x[:, 2:5]}
    fits = {"teacher": teacher_fits(sums, heads)} | {name: token_fits(sums, name) for name in list(features)[1:]}
    fits["own"] = teacher_fits(sums, heads, with_own_token=True)
    features["own"] = torch.cat([x, tokens[:, :2]], dim=1)
    for kind, layer in heads:
        for name, source in features.items():
            expected = ridge_by_class({0: repeated(source, ys[layer], WEIGHTS[layer])}, {0: HEADS})[0]
            torch.testing.assert_close(fits[name][kind, layer].rss, expected.rss)
    shared = sums.problems["key", (0,)]
    assert {part.use for part, _ in shared.sums.parts} == {SCORE_ONLY.use}
    assert all(sums.pairing("key", layer).features is shared for layer in range(LAYERS))
    assert {part.use for part, _ in sums.weighted["value", 1].parts} == {FIT_ONLY.use}
    teacher, shuffled = teacher_and_shuffled(sums, sample, [HEADS] * LAYERS, no_progress)
    pairings = sample.sums(lambda g: sample.x("key", 0, g), [lambda g: sample.y("key", 1, g)], [1])
    found = ridge_by_class({0: pairings[0]}, {0: HEADS})[0]
    torch.testing.assert_close(found.rss, teacher["key", 1].rss)
    assert (shuffled["key", 1].r2 < 0.1).all() and (teacher["key", 1].r2 > 0.2).all()
    # Layers are chosen on rows that count alike, as without weights.
    unweighted, plain = aligned(x, ys, None)
    chosen = [ridge_by_class({0: one.pairing("key", [0], [0])}, {0: HEADS})[0].rss for one in (sample, plain)]
    assert torch.equal(*chosen) and not torch.equal(chosen[0], teacher["key", 0].rss)
    assert not unweighted.weighted and not unweighted.tokens[OWN_TOKENS].weighted


def test_weighted_sums_of_an_interrupted_analysis_are_read_back(rows, tmp_path):
    x, ys = rows
    (sums, _), kept = aligned(x, ys, WEIGHTS), Unfinished(tmp_path, "this")
    kept._save(sums.all(), 3, "print")
    again = {name: replace(fold_sums, parts={}) for name, fold_sums in sums.all().items()}
    assert "weighted key 1" in again and kept._load(again, "print") == 3
    for name, fold_sums in sums.all().items():
        assert again[name].parts.keys() == fold_sums.parts.keys()
        for at, sums_of in fold_sums.parts.items():
            for field in sums_of.names():
                found, value = (getattr(sums.parts[at], field) for sums in (again[name], fold_sums))
                torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(value), rtol=0, atol=0)


def test_spectrum_and_contributions_are_errors_of_rows_that_count_alike(rows):
    x, ys = rows
    sums, _ = aligned(x, ys, WEIGHTS)
    fit = teacher_fits(sums, {("key", 0): HEADS})["key", 0]
    identity = token_fits(sums, TEACHER_TOKEN)["key", 0]
    found = spectrum(fit, identity, [sums.spread("key", 0, one.classes) for one in fit.fits])
    for error, of in ((found.error, fit), (found.error_identity, identity)):
        torch.testing.assert_close((found.share * error).sum(1), of.rss.sum(0) / of.tss.sum(0))
    pairing = paired(x, ys[0], WEIGHTS[0])
    parts = teacher_head_contributions(pairing.by_class(), HEADS, [torch.arange(P)], [1e-2, 1e-2])
    assert (parts.alone[:, 0] > 0.2).all()
    torch.testing.assert_close(parts.without, parts.alone - _mean_predictor(ys[0]), rtol=0, atol=1e-6)


def _mean_predictor(y):
    """R^2 [H, 1] of the weighted training mean, about the plain one."""
    rss, tss = torch.zeros(HEADS).double(), torch.zeros(HEADS).double()
    for fold in range(FOLDS):
        for row_class in (0, 1):
            train, test = ~(fold == FOLD) & (row_class == CLASS), of(fold, row_class)
            weighted = (WEIGHTS[0][train, None] * y[train]).sum(0) / WEIGHTS[0][train].sum()
            rss += (y[test] - weighted).square().sum(0).unflatten(0, (HEADS, -1)).sum(1)
            tss += (y[test] - y[train].mean(0)).square().sum(0).unflatten(0, (HEADS, -1)).sum(1)
    return (1 - rss / tss)[:, None]


def test_teachers_are_fused_with_weights_as_with_repeated_rows_from_sums_and_from_rows(rows):
    x, (y, _) = rows
    xs, joint, results = [x[:, :3], x[:, 3:]], [(f, (c, c)) for f in range(FOLDS) for c in (0, 1)], []
    for make, uses in ((paired, [FIT_AND_SCORE]), (repeated, [FIT_ONLY, SCORE_ONLY])):
        alone = [make(one, y, WEIGHTS[0]) for one in xs]
        fits = [[crossfit_ridge(p, HEADS) for p in one.by_class()] for one in alone]
        common = make(x, y, WEIGHTS[0])
        for sums in (common.features, common.targets):
            sums.parts = {(part.of((part.row_class,) * 2), fold): s for (part, fold), s in sums.parts.items()}

        def at(source, often):
            def of_group(group):
                fold, part = group
                chosen = torch.arange(N)[of(fold, part.row_class[0])]
                if often and part.use == FIT_ONLY.use:
                    chosen = chosen.repeat_interleave(WEIGHTS[0][chosen].long())
                return source[chosen]

            return of_group

        often = make is repeated
        groups = [(fold, use.of(classes)) for fold, classes in joint for use in uses]
        weights = () if often else (at(WEIGHTS[0], often=False),)
        by_rows = CommonRows(groups, FOLDS, [at(xs[a], often) for a in (0, 1, 1, 0)], at(y, often), *weights)
        members, of_members = ([found[a] for a in (0, 1, 1, 0)] for found in (alone, fits))
        results.append(fuse(common, alone, fits, [3, 3], HEADS))
        results.append(over_random(by_rows, members, of_members, [3] * 4, HEADS))
    by_sums, by_rows, of_repeated, of_repeated_rows = results
    # Scores are about the mean of rows that count alike, which repeated rows have with their weights.
    share = 1 - _mean_predictor(y)[:, 0]
    torch.testing.assert_close(1 - by_sums.r2, (1 - of_repeated.r2) * share)
    torch.testing.assert_close(by_sums.weights, of_repeated.weights)
    torch.testing.assert_close(by_rows.gain, of_repeated_rows.gain * share)
    # Each teacher beside itself is the control here.
    torch.testing.assert_close(by_rows.gain, by_sums.r2 - by_sums.r2_alone, rtol=0, atol=1e-3)
    assert (by_rows.gain > 0.05).all()


@pytest.mark.parametrize("by", ["equal", "attention"])
def test_a_run_fits_its_maps_with_the_weights_that_it_is_asked_for(by):
    assert align_settings(TrainConfig(row_weights=by)).row_weights == by
    assert AlignSettings().row_weights == TrainConfig().row_weights == "equal"


TEXTS = ["Three boats leave the mill and one turns over.", "老师慢慢地读这一页。", "12 boats"]
STUDENTS = {"llama": {}, "gpt2": {}, "gemma3_text": {"sliding_window": 4}, "jamba": {}}


def loaded_of(architecture, folder, **fields):
    tiny_model(architecture, folder, tokenizer_style="sentencepiece", **fields)
    return load(str(folder), device="cpu", dtype="float32")


@pytest.mark.model
@pytest.mark.parametrize("architecture", STUDENTS)
def test_what_a_step_receives_is_the_sum_over_later_steps_and_the_mean_over_query_heads(architecture, tmp_path):
    loaded = loaded_of(architecture, tmp_path, **STUDENTS[architecture])
    batch = [tokenize(loaded.tokenizer, text) for text in TEXTS]
    found = received_attention(loaded, batch)
    assert len(found) == len(loaded.geometry.kv_layers)
    loaded.model.set_attn_implementation("eager")
    for b, tokens in enumerate(batch):
        with torch.inference_mode():
            returned = loaded.model(torch.from_numpy(tokens.ids)[None], output_attentions=True).attentions
        by_layer = [p[0].double().numpy() for p in returned if p is not None]
        layers = by_layer if len(by_layer) == len(found) else [by_layer[n] for n in loaded.geometry.kv_layers]
        for of_layer, probabilities in zip(found, layers, strict=True):
            expected = np.zeros(len(tokens))
            for head in probabilities:
                for query in range(len(tokens)):
                    for step in range(query):  # what a step gives itself does not count
                        expected[step] += head[query, step] / len(probabilities)
            np.testing.assert_allclose(of_layer[b, : len(tokens)], expected, rtol=1e-3, atol=1e-5)
            assert not of_layer[b, len(tokens) - 1 :].any()  # nor does what padding gives


@pytest.mark.model
def test_a_student_that_hands_out_no_probabilities_is_refused_by_name(tmp_path, monkeypatch):
    loaded = loaded_of("llama", tmp_path)
    attention = type(loaded.model.model.layers[0].self_attn)
    forward = attention.forward
    monkeypatch.setattr(attention, "forward", lambda self, *a, **k: (forward(self, *a, **k)[0], None))
    with pytest.raises(AlignError, match="attention probabilities from layer 0") as refused:
        received_attention(loaded, [tokenize(loaded.tokenizer, TEXTS[0])])
    assert refused.value.kind == "attention-unavailable" and "--row-weights equal" in str(refused.value.remedy)
