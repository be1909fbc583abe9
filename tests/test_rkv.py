"""R-KV against loops written from the paper's equations, and what its parts must do on cases one can see through."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlab.align import rkv
from kvlab.errors import AlignError
from kvlab.shapes import Tokens


def tokens(special):
    ends = np.cumsum([0 if added else 1 for added in special])
    spans = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1) if len(ends) else np.zeros((0, 2), dtype=int)
    return Tokens(np.arange(len(special)), spans, np.array(special, dtype=bool), True)


def importance_of(attention, window):
    """One head, [A][T]: the mean over observers, then the maximum of the window (Eq. 4)."""
    mean = [sum(column) / len(attention) for column in zip(*attention)]
    reach = window // 2
    return [max(mean[max(i - reach, 0) : i + reach + 1]) for i in range(len(mean))]


def redundancy_of(keys, threshold, spared):
    """One head, [T][D]: Eq. 5, the retention of recent tokens, Eq. 6."""
    n = len(keys)
    cosine = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(n):
            if i != j:
                dot = sum(a * b for a, b in zip(keys[i], keys[j]))
                cosine[i][j] = dot / math.sqrt(sum(a * a for a in keys[i]) * sum(b * b for b in keys[j]))
    counted = [row[:] for row in cosine]
    for i in range(n):
        similar = [j for j in range(n) if cosine[i][j] > threshold]
        for j in sorted(similar)[-spared:] if spared else []:
            counted[i][j] = 0.0
    mean = [sum(counted[i][j] for i in range(n)) / n for j in range(n)]
    total = sum(math.exp(m) for m in mean)
    return [math.exp(m) / total for m in mean]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    special=st.lists(st.booleans(), min_size=1, max_size=14),
    count=st.integers(0, 10),
    window=st.sampled_from([1, 3, 7]),
    spared=st.integers(0, 3),
)
def test_kept_steps_against_loops_over_the_equations(seed, special, count, window, spared):
    generator = torch.Generator().manual_seed(seed)
    heads, length, content = 2, len(special), [i for i, added in enumerate(special) if not added]
    # Two directions and some noise, so that many keys are similar and some are not.
    keys = torch.eye(2, 4, dtype=torch.float64)[torch.randint(2, (heads, length), generator=generator)]
    keys = keys + 0.6 * torch.randn(heads, length, 4, generator=generator, dtype=torch.float64)
    attention = torch.rand(heads, length, generator=generator, dtype=torch.float64)
    parameters = rkv.RKV(balance=0.3, window=window, spared=spared)
    found = rkv.keep_steps([keys], [attention], tokens(special), count, parameters)
    for h in range(heads):
        on_content = sum(float(attention[h, i]) for i in content)
        shares = [float(attention[h, i]) / on_content for i in content]
        important = importance_of([shares], window)
        redundant = redundancy_of(keys[h, content].tolist(), 0.5, spared)
        total = [0.3 * a - 0.7 * b for a, b in zip(important, redundant)]
        for tensor, expected in ((found.importance, important), (found.redundancy, redundant), (found.score, total)):
            torch.testing.assert_close(tensor[0][h, content], torch.tensor(expected).float(), rtol=1e-4, atol=1e-6)
            assert tensor[0][h].isnan().tolist() == special
        best = sorted(range(len(content)), key=lambda i: found.score[0][h, content[i]].item(), reverse=True)[:count]
        expected = sorted(content[i] for i in best)
        assert found.steps[0][h].tolist() == expected + [-1] * (count - len(expected))


def test_importance_is_the_mean_of_the_observers_then_the_maximum_around():
    attention = torch.tensor([[[0.0, 0.0, 0.8, 0.0, 0.2, 0.0], [0.0, 0.0, 0.4, 0.0, 0.6, 0.0]]])
    torch.testing.assert_close(rkv.importance(attention, 3), torch.tensor([[0.0, 0.6, 0.6, 0.6, 0.4, 0.4]]))
    torch.testing.assert_close(rkv.importance(attention, 1), attention.mean(1))


def test_of_steps_that_repeat_each_other_the_latest_is_kept():
    directions = torch.eye(4)
    keys = torch.stack([directions[[0, 1, 0, 2, 0, 3, 0]]])  # one direction at steps 0, 2, 4 and 6
    redundant = rkv.redundancy(keys)[0]
    assert redundant.sum() == pytest.approx(1)
    assert redundant[6] < redundant[4] < redundant[2] == redundant[0]
    kept = rkv.select(rkv.score(torch.zeros(1, 7), redundant[None]), 4)
    assert kept.tolist() == [[1, 3, 5, 6]]
    # With nobody spared they are all alike, and the earlier of equals is kept.
    alike = rkv.redundancy(keys, rkv.RKV(spared=0))
    assert rkv.select(rkv.score(torch.zeros(1, 7), alike), 4).tolist() == [[0, 1, 3, 5]]


def test_the_balance_goes_from_importance_to_redundancy():
    important, redundant = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.6, 0.1, 0.3]])
    assert torch.equal(rkv.score(important, redundant, 1.0), important)
    assert torch.equal(rkv.score(important, redundant, 0.0), -redundant)
    torch.testing.assert_close(rkv.score(important, redundant), 0.1 * important - 0.9 * redundant)


def test_special_tokens_are_never_kept_however_much_they_are_looked_at():
    attention = torch.tensor([[0.9, 0.05, 0.03, 0.02]])
    found = rkv.keep_steps([torch.randn(1, 4, 8)], [attention], tokens([True, False, False, False]), 4)
    assert found.steps[0].tolist() == [[1, 2, 3, -1]]
    # What falls on the sink is no part of the shares, and does not leak into its neighbour.
    torch.testing.assert_close(found.importance[0][0, 1:], torch.full((3,), 0.5))


def test_a_document_of_special_tokens_keeps_nothing():
    found = rkv.keep_steps([torch.randn(2, 2, 8)], [torch.rand(2, 2)], tokens([True, True]), 3)
    assert found.steps[0].tolist() == [[-1] * 3] * 2 and found.score[0].isnan().all()


def test_padding_is_refused():
    with pytest.raises(AlignError, match=r"2 teacher tokens.*keys of 5 and attention of 2 steps"):
        rkv.keep_steps([torch.randn(1, 5, 8)], [torch.rand(1, 2)], tokens([False, False]), 1)
