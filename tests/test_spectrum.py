"""The error spectrum from sums, against the same numbers from the rows themselves."""

import numpy as np
import pytest
import torch

from kvlab.align.align_sums import TEACHER_TOKEN, AlignSums
from kvlab.align.fold_sums import FIT_AND_SCORE, FIT_ONLY, SCORE_ONLY
from kvlab.align.layers import Choice
from kvlab.align.scoring import teacher_fits, token_fits
from kvlab.align.spectrum import spectrum
from kvlab.shapes import KINDS
from tests.rows import Block

FOLDS, HEADS, WIDTH = 4, 2, 3


PARTS = {
    "one map": {FIT_AND_SCORE: 40, SCORE_ONLY.of(1): 15, FIT_ONLY: 20},
    "by class": {FIT_AND_SCORE: 40, FIT_AND_SCORE.of(1): 30, FIT_ONLY: 20, FIT_ONLY.of(1): 9},
}


def blocks(parts):
    """Of every fold, rows of each use; the second channel of a head is only noise, the third a copy of the first.

    The token embeddings know of the teacher's features the first alone, which is of the first head, and that badly.
    Rows of class 1 that are fitted have another sign and mean.
    """
    g = torch.Generator().manual_seed(5)
    for fold in range(FOLDS):
        for part, n in parts.items():
            x = torch.randn(n, 5, generator=g, dtype=torch.float64) + 3
            y = torch.randn(n, HEADS * WIDTH, generator=g, dtype=torch.float64)
            y[:, 0::WIDTH] = 2 * x[:, :HEADS] + 0.3 * y[:, 0::WIDTH]
            if part.row_class == 1 and part != SCORE_ONLY.of(1):
                y = 40 - y
            y[:, 2::WIDTH] = y[:, 0::WIDTH] + 7
            embedded = x[:, :1] + torch.randn(n, 1, generator=g, dtype=torch.float64)
            yield Block(fold, [x], [y], (part,), embedded)


@pytest.fixture(scope="module", params=list(PARTS))
def measured(request):
    choices = {kind: [Choice.of((0,), [(0,)] * FOLDS, lambda layer: 5)] for kind in KINDS}
    sums = AlignSums(choices, FOLDS, {(WIDTH, None): [(kind, 0) for kind in KINDS]})
    rows = list(blocks(PARTS[request.param]))
    for block in rows:
        sums.add(block.fold, block.parts[0], block, block.parts[0])
    fit = teacher_fits(sums, {("key", 0): HEADS})["key", 0]
    assert [one.classes for one in fit.fits] == ([(0, 1)] if request.param == "one map" else [(0,), (1,)])
    identity = token_fits(sums, TEACHER_TOKEN)["key", 0]
    return rows, fit, identity, spectrum(fit, identity, [sums.spread("key", 0, one.classes) for one in fit.fits])


def teacher_features(block):
    """Behind them is the student's own token, of which a map from the teacher alone makes nothing."""
    return torch.cat([block.xs[0], torch.full((len(block.xs[0]), 1), 99.0)], dim=1)


def by_rows(rows, fit, features=teacher_features):
    """Per fold and head: targets about the training mean of their class and residuals, of the scored rows only."""
    for fold in range(FOLDS):
        scored = [b for b in rows if b.fold == fold and b.parts[0].use != FIT_ONLY.use]
        x, y = torch.cat([features(b) for b in scored]), torch.cat([b.ys[0] for b in scored])
        maps = [fit.of_class(b.parts[0].row_class) for b in scored for _ in b.xs[0]]
        centred = y - torch.stack([one.mean_y[fold] for one in maps])
        residual = y - torch.cat([one.predict(fold, row[None]) for one, row in zip(maps, x)])
        yield centred.unflatten(1, (HEADS, WIDTH)).numpy(), residual.unflatten(1, (HEADS, WIDTH)).numpy()


def test_shares_and_errors_are_those_of_the_rows(measured):
    rows, fit, identity, found = measured
    of_folds = list(by_rows(rows, fit))
    centred, residual = (np.concatenate(of_both) for of_both in zip(*of_folds))
    by_identity = np.concatenate([r for _, r in by_rows(rows, identity, lambda block: block.embedded)])
    for head in range(HEADS):
        values, vectors = np.linalg.eigh(centred[:, head].T @ centred[:, head])
        values, vectors = values[::-1], vectors[:, ::-1]
        np.testing.assert_allclose(found.share[head, :2], values[:2] / values.sum(), rtol=1e-9)
        errors = [((residual[:, head] @ v) ** 2).sum() / ((centred[:, head] @ v) ** 2).sum() for v in vectors.T]
        np.testing.assert_allclose(found.error[head, :2], errors[:2], rtol=1e-8)
        errors = [((by_identity[:, head] @ v) ** 2).sum() / ((centred[:, head] @ v) ** 2).sum() for v in vectors.T]
        np.testing.assert_allclose(found.error_identity[head, :2], errors[:2], rtol=1e-8)
        np.testing.assert_allclose(found.deviation[head, 0], (centred[:, head] @ vectors[:, 0]).std(), rtol=1e-2)
        left_out = [
            1
            - sum(((r[:, head] @ vectors[:, 0]) ** 2).sum() for n, (_, r) in enumerate(of_folds) if n != f)
            / sum(((c[:, head] @ vectors[:, 0]) ** 2).sum() for n, (c, _) in enumerate(of_folds) if n != f)
            for f in range(FOLDS)
        ]
        assert found.se[head, 0] == pytest.approx(np.sqrt((FOLDS - 1) * np.var(left_out)), rel=1e-6)


def test_the_large_direction_is_explained_the_noise_is_not_and_what_does_not_vary_has_no_number(measured):
    found = measured[-1]
    assert (found.error[:, 0] < 0.05).all() and (found.error[:, 1] > 0.9).all()
    assert found.share[:, 2].isnan().all() and found.error[:, 2].isnan().all()
    assert 0.3 < found.error_identity[0, 0] < 0.7 and found.error_identity[1, 0] > 0.95
    assert found.error_identity[:, 2].isnan().all()


def test_the_error_of_a_head_is_the_mean_over_directions_weighted_by_share(measured):
    _, fit, _, found = measured
    torch.testing.assert_close((found.share * found.error).nansum(-1), 1 - fit.r2)


def test_directions_have_one_sign(measured):
    directions = measured[-1].directions
    largest = directions.abs().argmax(-2, keepdim=True)
    assert (directions.gather(-2, largest) > 0).all()
