"""Shared sums of many layers: every problem gathers what its own rows give, and nothing else is kept."""

import pytest
import torch

from kvlab.align import fold_sums
from kvlab.align.blocks import BlockInputs, Layout
from kvlab.align.fold_sums import FIT_AND_SCORE, FIT_ONLY, FoldSums
from kvlab.align.fusion import FusionSums
from kvlab.align.layer_sums import Gathered, SomeSources
from kvlab.align.layers import Choice
from kvlab.align.moments import Inputs
from kvlab.align.unfinished import Unfinished
from kvlab.shapes import KINDS
from tests.rows import Block

WIDTHS = {0: 3, 1: 200, 2: 5, 4: 130, "own": 2}  # wider and narrower than a block of columns
TOGETHER = [(0, 1, "own"), (1, 2, "own"), (0, 4, "own")]


@pytest.fixture
def rows():
    return torch.randn(700, sum(WIDTHS.values()), generator=torch.Generator().manual_seed(0))


def of(rows, sources):
    """The columns of some sources."""
    return torch.cat(
        [part for part, name in zip(rows.split(list(WIDTHS.values()), dim=1), WIDTHS) if name in sources], 1
    )


@pytest.mark.parametrize("sources", [*TOGETHER, (0, "own"), (1,)])
def test_a_problem_gathers_the_sums_of_its_own_rows(rows, sources, monkeypatch):
    monkeypatch.setattr("kvlab.align.blocks.ROWS_IN_DOUBLE", 100 * sum(WIDTHS.values()))  # a hundred rows at a time
    sums = BlockInputs.empty(torch.zeros(rows.shape[1]), Layout.of(WIDTHS, TOGETHER))
    sums.add_shifted(rows[:500])
    sums.add_shifted(rows[500:])
    found, x = sums.select(sources), of(rows, sources).double()
    torch.testing.assert_close(found.gram, x.T @ x, rtol=1e-12, atol=1e-10)
    assert torch.equal(found.gram, found.gram.T)
    torch.testing.assert_close(found.total, x.sum(0))
    assert (found.n, found.weight) == (700, 700)


def test_only_layers_that_a_problem_combines_have_a_block():
    layout = Layout.of(WIDTHS, TOGETHER)
    assert layout.partners == ((0, 1, 3, 4), (1, 2, 4), (2, 4), (3, 4), (4,))
    assert layout.size == 3 * (3 + 200 + 130 + 2) + 200 * (200 + 5 + 2) + 5 * (5 + 2) + 130 * (130 + 2) + 2 * 2


def test_memory_grows_with_the_band_and_not_with_the_square_of_the_layers():
    def size(layers, band):
        unions = [range(first, first + band) for first in range(layers - band + 1)]
        return Layout.of(dict.fromkeys(range(layers), 4), unions).size

    assert size(64, 4) < 2.1 * size(32, 4)
    assert size(32, 32) == 16 * 32 * 33 / 2


def test_folds_and_classes_are_those_of_plain_sums(rows):
    kept = Gathered()
    shared = FoldSums((rows.mean(0).double(),), 3, layout=Layout.of(WIDTHS, TOGETHER))
    problems = [SomeSources(shared, sources, kept) for sources in TOGETHER]
    plain = [FoldSums(problem.pilots, 3) for problem in problems]
    for number, part in enumerate((FIT_AND_SCORE, FIT_AND_SCORE.of(1), FIT_ONLY, FIT_AND_SCORE)):
        some = rows[number * 150 :][:150]
        shared.add(number % 3, part, some)
        for sums, sources in zip(plain, TOGETHER):
            sums.add(number % 3, part, of(some, sources))
    for problem, expected in zip(problems, plain):
        for ask in ("fit", "score"):
            for classes in (None, (0,), (1,)):
                for one, other in zip(getattr(problem, ask)(classes), getattr(expected, ask)(classes), strict=True):
                    assert one.n == other.n
                    torch.testing.assert_close(one.gram, other.gram, rtol=1e-9, atol=1e-5)
                    torch.testing.assert_close(one.total, other.total, rtol=1e-5, atol=1e-4)
    assert kept.sources[1] == TOGETHER[-1]  # of the last problem alone
    kept.clear()
    assert not kept.inputs


def test_sums_of_other_folds_lie_on_the_host_and_come_back(monkeypatch):
    """A device that stands for a GPU; nothing is computed on it."""
    gpu = torch.device("meta")
    sums = FoldSums((torch.zeros(4, dtype=torch.float64, device=gpu),), 2)
    sums.add(0, FIT_AND_SCORE, torch.zeros(5, 4, device=gpu))
    moved = []

    def to(self, device):
        moved.append(device)
        return self

    monkeypatch.setattr(Inputs, "to", to)
    sums.put_away(but=1)
    assert moved == [fold_sums.HOST] and sums.away
    sums.add(0, FIT_AND_SCORE, torch.zeros(5, 4, device=gpu))
    assert moved[1:] == [gpu]
    assert sums.fit()[0].n == 10 and moved[2:] == [gpu]


def test_the_common_sums_of_several_teachers_hold_one_fold_on_the_device(monkeypatch):
    one = Choice.of((0,), [(0,)] * 3, lambda layer: 4)
    sums = FusionSums([{kind: [one] for kind in KINDS}] * 2, 3)
    put_away = []
    monkeypatch.setattr(FoldSums, "put_away", lambda self, but=None: put_away.append((id(self), but)))
    x, y = torch.randn(6, 4), torch.randn(6, 2)
    for fold in (0, 0, 1):
        sums.add(fold, FIT_AND_SCORE, [Block(fold, [x], [y])] * 2, FIT_AND_SCORE)
    every = {id(found) for found in sums.all().values()}
    assert len(every) == 4 and {at for at in put_away if at[1] == 1} == {(found, 1) for found in every}
    assert not [at for at in put_away if at[1] == 0]  # nothing was held before the first fold


def test_what_is_taken_up_again_lies_on_the_host_until_it_is_needed(tmp_path):
    """Loaded for a device that stands for a GPU."""
    rows = torch.randn(9, 4), torch.randn(9, 2)
    saved = FoldSums((torch.zeros(4).double(), torch.zeros(2).double()), 2)
    for fold in range(2):
        saved.add(fold, FIT_AND_SCORE, *rows)
    unfinished = Unfinished(tmp_path, "this")
    unfinished._save({"sums": saved}, 7, "print")
    gpu = torch.device("meta")
    found = FoldSums(tuple(pilot.to(gpu) for pilot in saved.pilots), 2)
    assert unfinished._load({"sums": found}, "print") == 7
    assert found.device == gpu and found.away
    for part, sums in found.parts.items():
        assert all(getattr(sums, name).device == fold_sums.HOST for name in ("cross", "total", "squares"))
        torch.testing.assert_close(sums.cross, saved.parts[part].cross)
    assert [sums.cross.device for sums in found.fit()] == [gpu] * 2  # solved there
