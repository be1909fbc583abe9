"""The prefix whose cache is replaced: where it ends, what the teachers have read of it, and its controls."""

import numpy as np
import pytest
import torch

from kvlab.align.items import Item
from kvlab.inject.fit import fit
from kvlab.inject.prefix import Models, cut_at, first_tokens, prefix_of, read_document, with_controls
from kvlab.inject.split import split
from kvlab.models import cache_names
from kvlab.models.loading import load
from kvlab.request import prompts
from kvlab.request.align import AlignSettings
from kvlab.shapes import KINDS, Document, Tokens
from tests.tiny import tiny_tokens


def tokens_of(*ends):
    """Tokens that end at these bytes."""
    spans = np.array(list(zip((0, *ends), ends)))
    return Tokens(np.arange(len(ends)), spans, np.zeros(len(ends), dtype=bool), lossless=True)


def item_of(teacher, student, repeated=0):
    text = "x" * int(student.spans[-1, 1])
    return Item(Document("d", text), (teacher,), student, (None,), fold=0, scored=True, repeated=repeated)


@pytest.mark.parametrize(("own", "share", "cut"), [(4, 1.0, 2), (4, 0.01, 1), (10, 0.5, 5), (10, 0.99, 8), (3, 0.5, 0)])
def test_a_cut_leaves_two_tokens_to_go_on_with_and_one_before_it(own, share, cut):
    alone, known = item_of(tokens_of(1), tiny_tokens(own)), 6
    shared = item_of(tokens_of(1), tiny_tokens(known + own), repeated=known)
    assert cut_at(share, alone) == cut
    assert cut_at(share, shared) == (known + cut if cut else 0)


def test_teachers_read_what_ends_within_the_prefix():
    item = item_of(tokens_of(2, 4, 6, 8), tokens_of(1, 3, 5, 6, 7, 8), repeated=3)
    for cut, known in ((1, 0), (2, 1), (3, 2), (4, 3), (5, 3), (6, 4)):
        first = first_tokens(item, cut, "floor")
        assert len(first.student) == cut and first.teachers[0].spans[:, 1].tolist() == [2, 4, 6, 8][:known]
        # Of the beginning that other documents have too, nothing stays the student's own.
        assert first.repeated == 0
    assert first.maps[0].columns.tolist() == [0, 1, 2, 2, 3] and first.maps[0].rows.tolist() == [1, 2, 3, 4, 5]


def test_controls_are_the_students_mean_and_the_projected_rows_in_other_orders():
    generator = torch.Generator().manual_seed(0)
    problems = [(kind, layer) for kind in KINDS for layer in (0, 1)]
    projected = {p: torch.randn(50, 8, generator=generator) for p in problems}
    mean = {p: torch.randn(8, generator=generator) for p in problems}
    tokens, cut = tiny_tokens(90), 60

    def shuffles(seed=0, tokens=tokens, cut=cut):
        """Where each shuffled row is from, by kind; both layers of a kind are in one order."""
        found = with_controls(projected, mean, seed, tokens, cut)
        orders = {p: (x[:, None] == projected[p]).all(2).int().argmax(1) for p, x in found["shuffled"].items()}
        for (kind, layer), order in orders.items():
            torch.testing.assert_close(found["shuffled"][kind, layer], projected[kind, layer][order])
            assert order.sort().values.tolist() == list(range(50)) and order.tolist() == orders[kind, 0].tolist()
        return [orders[kind, 0].tolist() for kind in KINDS]

    found = with_controls(projected, mean, 0, tokens, cut)
    assert found["projected"] is projected
    for problem in problems:
        assert (found["mean"][problem] == mean[problem]).all() and found["mean"][problem].shape == (50, 8)
    keys, values = shuffles()
    assert keys != values and shuffles() == [keys, values]
    others = [*shuffles(seed=1), *shuffles(tokens=tiny_tokens(91)), *shuffles(cut=61)]
    assert keys not in others and values not in others


@pytest.mark.model
def test_keys_compared_as_cached_are_read_fitted_and_put_in_as_cached():
    """A student that is its own teacher: what is put in is what was there."""
    student = load("demo/student", "cpu", "float32")
    settings = AlignSettings(layers="depth", keys="post-rope", folds=3)
    parts = split([student], student, prompts.samples()[:12], (), settings, 8)
    fitted = fit([student], [], student, parts, settings, lambda *_: None)
    models, item = Models([student], [], student, settings), parts.judged[0]
    own = read_document(models, item).own
    with torch.inference_mode():
        cache = cache_names.returned(student.model(own.ids, use_cache=True))
    for layer, of in enumerate(cache.layers):
        for kind, x in zip(KINDS, (of.keys[0], of.values[0])):
            torch.testing.assert_close(own.compared[kind, layer], x)
    prefix = prefix_of(models, fitted, read_document(models, item), cut_at(0.5, item))
    assert len(prefix.rows) > 10
    for problem, x in prefix.cached["projected"].items():
        target = own.stored[problem][:, prefix.rows]
        variance = (target - target.mean(1, keepdim=True)).square().mean()
        assert (x - target).square().mean() < 1e-3 * variance
        assert (prefix.cached["shuffled"][problem] - target).square().mean() > 0.5 * variance
