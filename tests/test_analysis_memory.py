"""The forecast of an analysis: the numbers that its sums really hold, and what is refused and offered."""

from itertools import product

import pytest
import torch

from kvlab.align.align_sums import AlignSums, side_by_side
from kvlab.align.fold_sums import FIT_AND_SCORE
from kvlab.align.layers import Choice
from kvlab.errors import AlignError
from kvlab.host.memory import DeviceMemory
from kvlab.request import analysis_memory, sums_size
from kvlab.request.align import AlignSettings
from kvlab.request.analysis_memory import refuse_too_large
from kvlab.shapes import KINDS, Geometry, Positions
from tests.rows import Block

GIB = 2**30


def geometry(name, layers, heads, width, hidden, parameters=1_000_000):
    shapes = ((heads, width, width),) * layers
    rope = Positions("rope", 1e4, None, None)
    kv = tuple(range(layers))
    return Geometry(
        name,
        "llama",
        layers,
        kv,
        heads,
        heads,
        width,
        width,
        hidden,
        1000,
        rope,
        2048,
        parameters,
        shapes,
        linear=int(0.85 * parameters),
    )


QWEN2_7B = geometry("Qwen2-7B", 28, 4, 128, 3584, 7_615_616_512)
TINY_LLAMA = geometry("TinyLlama", 22, 4, 64, 2048, 1_100_048_384)


def held(sums: AlignSums) -> int:
    """Bytes of the sums' matrices."""
    count = 0
    for fold_sums in sums.all().values():
        for of_part in fold_sums.parts.values():
            count += sum(
                getattr(of_part, name).nbytes for name in of_part.names() if name in ("blocks", "gram", "cross")
            )
    return count


@pytest.mark.parametrize("most", [2048, 24])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_counts_the_sums_that_are_held(most, weighted, monkeypatch):
    monkeypatch.setattr(sums_size, "MOST_FEATURES", most)
    teacher, student = geometry("teacher", 7, 2, 4, 20), geometry("student", 3, 2, 6, 10)
    settings = AlignSettings(row_weights="attention" if weighted else "equal")
    n = 30
    xs = [torch.randn(n, 8) for _ in range(7)]
    ys = [torch.randn(n, 12) for _ in range(3)]
    weights = [torch.rand(n) for _ in ys] if weighted else None
    block = Block(0, xs, ys, (FIT_AND_SCORE,), torch.randn(n, 20), torch.randn(n, 30), weights)
    unions = {kind: sums_size.unions_of(teacher, student, kind, settings.layers) for kind in KINDS}
    choices = {kind: [Choice.of(u, [u] * 5, lambda layer: 8) for u in unions[kind]] for kind in KINDS}
    sums = AlignSums(choices, 5, side_by_side(student, weighted))
    for row_class in range(2):
        sums.add(0, FIT_AND_SCORE.of(row_class), block, FIT_AND_SCORE)
    # Where layers weigh rows otherwise, products of fitted and of scored rows are apart; both are counted.
    assert held(sums) == 2 * 8 * sum(analysis_memory._sums(teacher, student, settings))


def test_the_sums_of_a_true_pair_stay_within_a_few_gibibytes():
    forecast = analysis_memory.analysis_memory([QWEN2_7B], TINY_LLAMA, AlignSettings(), 1000, 600, "cuda:0")
    sizes = {part.name: part.bytes for part in forecast.device}
    assert sizes["fold"] < 2 * GIB
    host = {part.name: part.bytes for part in forecast.host}
    assert host["sums"] < 8 * GIB
    # A matrix of every set of layers, as many as student layers, would take several times as much.
    of_every_set = 2 * 2 * 5 * 22 * (4 * 512 + 512) ** 2 * 8
    assert of_every_set > 2.5 * host["sums"]


def memories(room):
    return DeviceMemory("cuda:0", room, room, "torch"), DeviceMemory("cpu", 64 * GIB, 60 * GIB, "psutil")


def test_what_does_not_fit_is_refused_with_what_takes_most():
    pair = [QWEN2_7B], TINY_LLAMA, AlignSettings(), 1000, 600
    refuse_too_large(*pair, *memories(24 * GIB))  # random weights of the same size are left out by the analysis itself
    with pytest.raises(AlignError) as refused:
        refuse_too_large(*pair, *memories(8 * GIB))
    assert refused.value.kind == "analysis-too-large"
    assert "weights of Qwen2-7B: 14.2 GiB" in str(refused.value.found)
    assert "smaller models" in str(refused.value.remedy)


def test_what_is_offered_fits_and_what_does_not_is_not_offered():
    def needed(**changes):
        settings = AlignSettings(random_teacher=False).model_copy(update=changes)
        return analysis_memory.analysis_memory([QWEN2_7B], TINY_LLAMA, settings, 1000, 600, "cuda:0").device_bytes

    room = needed() - 1
    with pytest.raises(AlignError) as refused:
        refuse_too_large([QWEN2_7B], TINY_LLAMA, AlignSettings(), 1000, 600, *memories(room))
    offered = [remedy.values["flag"] for remedy in refused.value.remedy.values["remedies"]]
    assert offered.pop() == "--load-in 4bit"
    assert offered == [flag for flag, changes in analysis_memory.SMALLER.items() if needed(**changes) <= room]
    assert offered


def test_every_part_has_a_name_and_every_flag_exists():
    for device, rows in product(("cpu", "cuda:0"), (True, False)):
        settings = AlignSettings(random_teacher=rows)
        forecast = analysis_memory.analysis_memory([QWEN2_7B, QWEN2_7B], TINY_LLAMA, settings, 3, 10, device)
        assert {part.name for part in (*forecast.device, *forecast.host)} <= set(analysis_memory.NAMES)
    for flags, changes in analysis_memory.SMALLER.items():
        assert AlignSettings.model_validate(AlignSettings().model_dump() | changes)
        assert flags.count("--") >= len(changes)
