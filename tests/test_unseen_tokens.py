"""The control by the teacher's token, on tokens that no fitted document has: by brute force, and over folds."""

from functools import partial

import numpy as np
import pytest
import torch

from kvlab.align import crossfit, pipeline
from kvlab.align.align_sums import TEACHER_TOKEN
from kvlab.align.crossfit import RELATIVE_PENALTIES, crossfit_ridge, pairs
from kvlab.align.fold_sums import FIT_AND_SCORE, FITTED, Pairing
from kvlab.align.items import Reader
from kvlab.align.scoring import token_fits
from kvlab.align.unseen_tokens import unseen_tokens
from kvlab.models.loading import load
from kvlab.request import prompts
from kvlab.request.align import AlignSettings
from kvlab.shapes import no_progress
from tests.reference import Rows

pytestmark = pytest.mark.model


class TokenRows(Rows):
    """Rows of the embedding of the teacher's token, and which token it is."""

    def __init__(self, sample, kind, layer, row_classes):
        self.ids = []
        self.sample = sample
        super().__init__(_Embedded(sample), kind, layer, (), row_classes)
        for fold in range(sample.folds):
            groups = [g for g in sample.groups if g[0] == fold and g[1].use in FITTED]
            mine = [group for group in groups if group[1].row_class in row_classes]
            self.ids.append([row.tobytes() for group in mine for row in sample.e(group).numpy()])

    def unseen(self, without, tested):
        seen = set().union(*(self.ids[fold] for fold in range(self.sample.folds) if fold not in without))
        return np.array([token not in seen for token in self.ids[tested]], dtype=bool)


class _Embedded:
    """A sample whose features are those of the teacher's token."""

    def __init__(self, sample):
        self.folds, self.groups, self.y = sample.folds, sample.groups, sample.y
        self.side_by_side = lambda kind, layers, group: sample.e(group)


def by_brute_force(sample, kind, layer, heads, fits):
    """Held-out R² [H] with the rule for unseen tokens, from the rows, with the penalties of the fits."""
    rss, tss = np.zeros(heads), np.zeros(heads)

    def by_head(values):
        return (values**2).sum(0).reshape(heads, -1).sum(1)

    for of_class in fits:
        rows = TokenRows(sample, kind, layer, of_class.classes)
        columns = np.arange(rows.x[0].shape[1])
        explained = np.zeros((sample.folds, len(RELATIVE_PENALTIES), heads))  # of unseen tokens, beyond the mean
        for f, g in pairs(sample.folds):
            for chosen_for, tested in ((f, g), (g, f)):
                new = rows.unseen((f, g), tested)
                for at, (y, left) in enumerate(rows.residuals((f, g), tested, columns, RELATIVE_PENALTIES)):
                    explained[chosen_for, at] += by_head(y[new]) - by_head(left[new])
        chosen = np.searchsorted(RELATIVE_PENALTIES, of_class.penalties.numpy())
        for fold in range(sample.folds):
            new = rows.unseen((fold,), fold)
            for head in range(heads):
                place = chosen[fold, head]
                ((y, left),) = rows.residuals((fold,), fold, columns, RELATIVE_PENALTIES[place : place + 1])
                told = explained[fold, place, head] > 0
                rss[head] += by_head(left[~new])[head] + by_head(left[new] if told else y[new])[head]
                tss[head] += by_head(y)[head]
    return 1 - rss / tss


def test_the_control_is_that_of_brute_force_with_its_rule_for_unseen_tokens():
    teacher, student = load("demo/teacher"), load("demo/student")
    settings = AlignSettings(layers="depth", random_teacher=False, inspect=0, folds=4)
    reader = Reader([teacher], student, prompts.samples()[:24], (), settings)
    work = pipeline._Work([teacher], student, settings, reader, no_progress)
    work.read_sample()
    sample, sums = work.samples[0], work.sums[0]
    assert work.whole_sample
    unseen = unseen_tokens(sample, sums)
    with_rule, without = token_fits(sums, TEACHER_TOKEN, unseen), token_fits(sums, TEACHER_TOKEN)
    differ = 0
    for kind, layer in (("key", 0), ("value", 2)):
        fit = with_rule[kind, layer]
        expected = by_brute_force(sample, kind, layer, work.heads[layer], fit.fits)
        assert fit.r2.numpy() == pytest.approx(expected, abs=1e-5)
        differ += abs(fit.r2 - without[kind, layer].r2).max() > 1e-3
    assert differ  # the rule is at work
    # What the fits say of their residuals is of the same rows.
    for fit in with_rule.values():
        squares = fit.residual_grams.diagonal(dim1=-2, dim2=-1).flatten(1).sum(0)
        about_fitted = torch.stack([(of.channel_rss - of.channel_tss).sum(0) for of in fit.fits]).sum(0)
        assert squares.numpy() == pytest.approx(about_fitted.numpy(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("told", [False, True])
def test_a_few_tokens_of_one_fold_only_do_not_turn_the_control_over(told):
    """Tokens whose embeddings say nothing of the target, but for ``told``; of three seeds of the folds."""
    generator = torch.Generator().manual_seed(0)
    tokens, width, each = 60, 40, 30
    embeddings = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    embeddings[-4:] *= 6  # rare ones lie far off
    slope = torch.randn(width, 4, generator=generator, dtype=torch.float64) / width**0.5
    means = embeddings @ slope if told else torch.randn(tokens, 4, generator=generator, dtype=torch.float64)
    found = []
    for seed in range(3):
        generator.manual_seed(1 + seed)
        ids = torch.arange(tokens - 4).repeat_interleave(each)
        fold = torch.randint(5, (len(ids),), generator=generator)
        ids, fold = torch.cat([ids, torch.arange(tokens - 4, tokens)]), torch.cat([fold, torch.arange(4)])
        y = means[ids] + 0.3 * torch.randn(len(ids), 4, generator=generator, dtype=torch.float64)
        x = embeddings[ids]
        pairing = Pairing.begin(x.mean(0), y.mean(0), 5)
        for f in range(5):
            pairing.add(f, FIT_AND_SCORE, x[fold == f], y[fold == f])
        new = [(f, (f,), f) for f in range(5)] + [(f, (f, g), g) for a, b in pairs(5) for f, g in ((a, b), (b, a))]
        rows = {}
        for other, without, tested in new:
            known = ids[~torch.isin(fold, torch.tensor(without))]
            mine = (fold == tested) & ~torch.isin(ids, known)
            rows[other, tested] = [(FIT_AND_SCORE, x[mine], y[mine], None)]
        unseen = crossfit.Unseen(partial(Pairing.begin, x.mean(0), y.mean(0), 1), rows)
        plain, ruled = crossfit_ridge(pairing, 2), crossfit_ridge(pairing, 2, unseen)
        found.append((plain.r2.mean().item(), ruled.r2.mean().item(), ruled.with_error()[1].max().item()))
        # Rows of unseen tokens ask for a larger penalty, and have no say.
        assert told or ruled.penalties.log10().mean() < plain.penalties.log10().mean() - 0.5
    plain, ruled, errors = map(np.array, zip(*found))
    if told:  # where embeddings generalise, the map says what it knows
        assert ruled == pytest.approx(plain, abs=0.01) and ruled.min() > 0.8
    else:
        assert np.ptp(ruled) < 2 * errors.max() < 0.1 and (ruled > plain + 0.02).all()
