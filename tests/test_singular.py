"""Ridge where features have fewer directions than numbers, as keys of a first layer: one for each distinct token."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kvlab.align.crossfit import RELATIVE_PENALTIES, ByClass, crossfit_ridge, pairs, ridge_by_class
from kvlab.align.fold_sums import FIT_AND_SCORE, FITTED, Pairing
from kvlab.align.items import Reader
from kvlab.align.moments import Centred, pilot_of
from kvlab.align.outcome import unstable
from kvlab.align.pipeline import _Work
from kvlab.align.projectors import ridge_path
from kvlab.models.loading import load
from kvlab.request.align import AlignSettings
from kvlab.shapes import KINDS, Document, no_progress
from tests.tiny import TEXT, tiny_model

FOLDS, HEADS, WIDTH, FEATURES = 5, 2, 8, 96


def _rows(seed: int, tokens: int = 60, rows: int = 300) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Features and targets [N, ...] of each fold, which follow from the token: no more directions than tokens.

    One direction is 100 times as large as the others, as in real keys, and some tokens are in one fold only.
    """
    rng = np.random.default_rng(seed)
    embedding, target = rng.normal(size=(tokens, FEATURES)), rng.normal(size=(tokens, HEADS * WIDTH))
    embedding[:, 0] *= 100
    embedding = embedding @ np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))[0]
    ids = [np.r_[rng.integers(0, tokens - FOLDS, rows), np.full(9, tokens - FOLDS + f)] for f in range(FOLDS)]
    noise = [0.5 * rng.normal(size=(len(i), HEADS * WIDTH)) for i in ids]
    return [embedding[i].astype(np.float32) for i in ids], [
        (target[i] + n).astype(np.float32) for i, n in zip(ids, noise)
    ]


def _reference(x: list[np.ndarray], y: list[np.ndarray], heads: int = HEADS) -> np.ndarray:
    """R^2 [H] from the rows themselves, in float64, by singular values; nested penalties."""
    x, y = [f.astype(np.float64) for f in x], [f.astype(np.float64) for f in y]

    def fitted(without: tuple[int, ...]) -> tuple:
        rows, targets = (np.concatenate([f for n, f in enumerate(of) if n not in without]) for of in (x, y))
        mean_x, mean_y = rows.mean(0), targets.mean(0)
        u, s, vt = np.linalg.svd(rows - mean_x, full_matrices=False)
        scale = (s**2).sum() / rows.shape[1]

        def residuals(fold: int, penalty: float) -> np.ndarray:
            w = vt.T @ ((s / (s**2 + penalty * scale))[:, None] * (u.T @ (targets - mean_y)))
            return (y[fold] - mean_y - (x[fold] - mean_x) @ w) ** 2

        return residuals, mean_y

    rss, tss = np.zeros(heads), np.zeros(heads)

    def per_head(squares: np.ndarray) -> np.ndarray:
        return squares.reshape(len(squares), heads, -1).sum((0, 2))

    for fold in range(FOLDS):
        of_pairs = [(set(pair) - {fold}).pop() for pair in pairs(FOLDS) if fold in pair]
        tests = [(fitted((fold, other))[0], other) for other in of_pairs]
        errors = [sum(per_head(test(other, penalty)) for test, other in tests) for penalty in RELATIVE_PENALTIES]
        residuals, mean = fitted((fold,))
        for head, best in enumerate(np.argmin(errors, axis=0)):
            rss[head] += per_head(residuals(fold, RELATIVE_PENALTIES[best]))[head]
        tss += per_head((y[fold] - mean) ** 2)
    return 1 - rss / tss


def _product(x: list[np.ndarray], y: list[np.ndarray]):
    x, y = [torch.from_numpy(f) for f in x], [torch.from_numpy(f) for f in y]
    pairing = Pairing.begin(pilot_of(x[0]), pilot_of(y[0]), FOLDS)
    for fold in range(FOLDS):
        pairing.add(fold, FIT_AND_SCORE, x[fold], y[fold])
    return crossfit_ridge(pairing, HEADS)


@pytest.mark.parametrize("seed", range(10))
def test_scores_from_sums_are_those_of_the_rows_in_double_precision(seed):
    x, y = _rows(seed)
    assert np.linalg.matrix_rank(np.concatenate(x)) < FEATURES
    r2 = _product(x, y).r2.numpy()
    assert np.abs(r2 - _reference(x, y)).max() < 1e-3
    assert r2.min() > -0.1


@pytest.mark.model
@pytest.mark.parametrize("seed", range(2))
def test_heads_of_a_pair_with_fewer_distinct_tokens_than_features_are_those_of_the_rows(pair, seed):
    """Keys of a first layer are functions of the token, up to the position that is taken out of them."""
    documents, settings = few_words(seed), AlignSettings(seed=seed, layers="depth", random_teacher=False)
    teacher, student = pair
    work = _Work([teacher], student, settings, Reader([teacher], student, documents, (), settings), no_progress)
    work.read_sample()
    sample, choices, sums = work.samples[0], work.layers[0].choices, work.sums[0]
    for kind in KINDS:
        target, heads = (kind, 0), work.heads[0]
        fit = ridge_by_class({target: sums.pairing(*target)}, {target: heads})[target]
        x, y = [], []
        for fold in range(sample.folds):
            groups = [group for group in sample.groups if group[0] == fold and group[1].use in FITTED]
            x.append(np.concatenate([sample.side_by_side(kind, choices[kind][0].union, group) for group in groups]))
            y.append(np.concatenate([sample.y(kind, 0, group) for group in groups]))
        values = np.linalg.svd(np.concatenate(x) - np.concatenate(x).mean(0), compute_uv=False)
        assert len(fit.fits) == 1 and (kind == "value" or values[-1] < 1e-6 * values[0])
        r2 = fit.r2.numpy()
        assert np.abs(r2 - _reference(x, y, heads)).max() < 1e-3 and r2.min() > -0.1


def few_words(seed: int) -> list[Document]:
    rng, words = np.random.default_rng(seed), TEXT.split()[:24]
    return [Document(f"d{n}", " ".join(rng.choice(words, 40))) for n in range(20)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Both cut text alike; one direction of the teacher's keys is 1000 times as large as the others."""
    loaded = []
    for seed, sizes in ((1, {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 32}), (2, {})):
        folder = tmp_path_factory.mktemp("model")
        tiny_model("qwen2", folder, seed=seed, num_hidden_layers=1, **sizes)
        loaded.append(load(str(folder), "cpu", "float32"))
    keys = loaded[0].model.model.layers[0].self_attn.k_proj.weight.data
    keys[5] *= 1000
    keys.copy_(torch.linalg.qr(torch.randn(len(keys), len(keys), generator=torch.Generator().manual_seed(0)))[0] @ keys)
    return loaded


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("condition", [1e2, 1e6, 1e9, 1e12])
def test_ridge_of_ill_conditioned_sums_predicts_as_its_definition_does(dtype, condition):
    """(XX + penalty I)^-1 XY in the basis that the matrix was made of; predictions of rows of the same kind."""
    rng = np.random.default_rng(int(np.log10(condition)))
    values, basis = np.logspace(0, -np.log10(condition), FEATURES), np.linalg.qr(rng.normal(size=(FEATURES,) * 2))[0]
    xx = torch.tensor((basis * values) @ basis.T)
    w = rng.normal(size=(FEATURES, 6))
    xy = torch.tensor((basis * values) @ basis.T @ w)
    zero = torch.zeros(FEATURES, dtype=torch.float64)
    train = Centred(1000, zero, zero[:6], xx, xy, zero[:6])
    train = train.single() if dtype == torch.float32 else train
    least = 1e-6 if dtype == torch.float64 else torch.finfo(dtype).eps * FEATURES  # as the penalty search has it
    for relative in (r for r in RELATIVE_PENALTIES if r >= least):
        penalty = relative * float(np.trace((basis * values) @ basis.T)) / FEATURES
        expected = basis @ ((values / (values + penalty))[:, None] * (basis.T @ w))
        found = ridge_path(train, [relative])[0].double().numpy()
        rows = np.sqrt(values)[:, None] * (basis.T @ (found - expected))  # rows of which XX is the Gram matrix
        size = np.sqrt(values)[:, None] * (basis.T @ expected)
        assert np.linalg.norm(rows) < (1e-3 if dtype == torch.float32 else 1e-9) * np.linalg.norm(size)


def test_a_fold_unlike_the_others_is_seen_and_said():
    x, y = _rows(0)
    layers = [7, 9]
    usual = {("key", n): ByClass.of([_product(x, y)]) for n in range(2)}
    assert unstable(usual, layers) == []
    x[3] *= 10
    odd = usual | {("key", 1): ByClass.of([_product(x, y)])}
    (note,) = unstable(odd, layers)
    errors = (odd["key", 1].rss / odd["key", 1].tss).numpy()
    values = SimpleNamespace(**note.values)
    assert (values.kind, values.layer, values.n, values.folds) == ("K", 9, (errors > 2).any(0).sum(), FOLDS)
    assert values.head == errors.max(0).argmax() and values.error == f"{errors.max():.1f}"
