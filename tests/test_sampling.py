"""The one loop that reads documents until a sample is there, of align, inject and train: on batches made by hand."""

import re
from types import SimpleNamespace

import pytest

from kvlab import PACKAGE
from kvlab.align import compare_rules
from kvlab.align import pipeline as align
from kvlab.align.sample import announced, read_sample
from kvlab.errors import AlignError
from kvlab.inject import fit, refine
from kvlab.inject import pipeline as inject
from kvlab.shapes import PHASES

TOKENS_AND_FOLDS = [(10, 0), (10, 0), (10, 1), (10, 1), (10, 0)]


class FakeRead:
    """A batch as two teachers read it; its rows say who kept them."""

    def __init__(self, number):
        self.teachers = [SimpleNamespace(keep=lambda t=t: f"{number} of {t}") for t in range(2)]
        self.common = [SimpleNamespace(keep=lambda t=t: f"common {number} of {t}") for t in range(2)]
        self.checked = 0

    def check(self):
        self.checked += 1


def sampled(tokens, folds=2):
    """The sample, whether the batches after it are left, and what was read."""
    batches = [[SimpleNamespace(student=range(n), fold=fold)] for n, fold in TOKENS_AND_FOLDS]
    stream, reads = iter(batches), []

    def read(batch):
        assert batch is batches[len(reads)]
        reads.append(FakeRead(len(reads)))
        return reads[-1]

    return read_sample(stream, read, tokens, folds), list(stream) == batches[len(reads) :], reads


@pytest.mark.parametrize(
    ("tokens", "count", "whole"),
    [
        (5, 3, False),  # enough tokens in the first batch, but the second fold comes in the third
        (30, 3, False),
        (31, 4, False),
        (50, 5, False),  # more batches might have been there
        (51, 5, True),
    ],
)
def test_it_reads_until_there_are_enough_tokens_of_every_fold(tokens, count, whole):
    sample, left, reads = sampled(tokens)
    assert [batch[0].fold for batch in sample.batches] == [fold for _, fold in TOKENS_AND_FOLDS[:count]]
    assert left and [read.checked for read in reads] == [1] * count
    assert sample.rows == [[f"{n} of {t}" for n in range(count)] for t in range(2)]
    assert sample.common == [[f"common {n} of {t}" for n in range(count)] for t in range(2)]
    assert sample.whole == whole


def test_a_fold_that_never_comes_makes_the_sample_everything():
    sample, left, _ = sampled(1, folds=3)
    assert left and (len(sample.batches), sample.whole) == (5, True)


def test_a_cache_that_is_not_finite_is_in_no_sample():
    def read(_):
        broken = FakeRead(0)
        broken.check = lambda: (_ for _ in ()).throw(AlignError("cache-not-finite", expected="", found="", remedy=""))
        return broken

    with pytest.raises(AlignError):
        read_sample(iter([[SimpleNamespace(student=range(9), fold=0)]]), read, 1, 1)


def test_batches_are_announced_before_they_are_read():
    said = []
    stream = announced([["a"], ["b"]], "reading", lambda *progress: said.append(progress))
    assert next(stream) == ["a"] and said == [("reading", 0, 2)]
    assert list(stream) == [["b"]] and said[1:] == [("reading", 1, 2)]


def test_every_stage_of_an_analysis_and_of_a_functional_test_has_words():
    written = "".join(path.read_text() for room in ("align", "inject") for path in (PACKAGE / room).rglob("*.py"))
    stages = set(re.findall(r'progress\(\s*"([^"]+)"', written))
    stages |= {compare_rules.STAGE, align.READING, fit.FITTING, fit.READING_RANDOM, refine.STAGE}
    stages |= {inject.INJECTING, inject.SWAPPING_HEADS, inject.CONTINUING}
    assert len(stages) > 10 and stages <= PHASES
