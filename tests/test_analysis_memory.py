"""The forecast of an analysis: the numbers that its sums really hold, and what is refused and offered."""

import re
from itertools import product

import pytest
import torch

from kvlab.align import run
from kvlab.align.align_sums import AlignSums, side_by_side
from kvlab.align.fold_sums import FIT_AND_SCORE
from kvlab.align.layers import Choice
from kvlab.cli import main
from kvlab.errors import AlignError
from kvlab.host.memory import DeviceMemory, readable
from kvlab.request import analysis_memory, prompts, sums_size
from kvlab.request.align import AlignSettings, AnalysisRequest
from kvlab.request.analysis_memory import refuse_too_large
from kvlab.runs.failures import ALLOCATED
from kvlab.shapes import KINDS, Geometry, Positions
from kvlab.web import backend, pair
from kvlab.web.alignment import form_memory
from kvlab.web.widgets import plain
from tests.rows import Block
from tests.test_pages import open_page

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


@pytest.mark.parametrize(
    ("phase", "what", "helps"),
    [
        ("reading caches", "the caches of one batch", "--batch-tokens"),
        ("reading with random weights", "of random weights", "--no-random-teacher"),
        ("measuring controls", "squares of all features", "--layers depth"),
        ("writing results", "while writing results.", "a smaller model"),
    ],
)
def test_a_lack_of_memory_names_what_was_being_allocated(phase, what, helps, tmp_path, monkeypatch, capsys):
    def compute(request, documents, cache, progress, folder):
        progress(phase, 0, 1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has\nmore")

    monkeypatch.setattr(run, "compute", compute)
    models = ["--teacher", "demo/teacher", "--student", "demo/student"]
    assert main.main(["align", *models, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"while {phase}" in said and what in said and "Tried to allocate 2.00 GiB" in said and helps in said


def test_every_flag_that_helps_with_memory_exists():
    parser = main.parser()
    for _, smaller in ALLOCATED.values():
        for flag in re.findall(r"--[a-z-]+(?: \w+)?", str(smaller)):
            words = flag.split() + (["5"] if flag in ("--batch-tokens", "--max-tokens", "--sample-tokens") else [])
            parser.parse_args(["align", "--teacher", "a", "--student", "b", *words])


@pytest.mark.page
@pytest.mark.xdist_group("pages")
@pytest.mark.usefixtures("worker_of_pages")
@pytest.mark.parametrize("page", ["alignment", "function"])
def test_the_form_says_what_an_analysis_takes_and_offers_what_makes_it_fit(page, monkeypatch):
    request = AnalysisRequest(teacher="demo/teacher", student="demo/student")
    *shapes, student = (backend.geometry(name) for name in (request.teacher, request.student))
    size = analysis_memory.size_of(request, prompts.samples(), shapes, student)
    needed = analysis_memory.analysis_memory(**size, device="cpu").host_bytes
    without = size | {"settings": request.settings.model_copy(update={"folds": 3})}
    smaller = analysis_memory.analysis_memory(**without, device="cpu").host_bytes
    assert smaller < 0.9 * needed
    room = DeviceMemory("cpu", 64 * GIB, (needed + smaller) // 2, "psutil")
    monkeypatch.setattr(form_memory, "device_memory", lambda name: room)
    app = open_page(page, run="sample")
    app.button(key="form-toggle" if page == "alignment" else "function-form-toggle").click().run()

    def captions():
        return "\n".join(caption.value for caption in app.caption)

    assert "does not fit:** about " + readable(needed) in captions() and "With these settings it fits:" in captions()
    offered = {button.label: button for button in app.button if (button.key or "").startswith("form-fits-")}
    (label,) = [label for label in offered if plain("--folds 3") in label and "layers" not in label]
    assert readable(smaller) in label
    offered[label].click().run()
    assert app.number_input(key="form-folds").value == 3 and not app.exception
    assert "The pair fits: about " + readable(smaller) in captions() and "With these settings" not in captions()


def test_what_fits_counts_what_others_hold():
    def says(needed, free, limit=0.8):
        return pair.fits(needed, DeviceMemory("cuda:0", 100 * GIB, free * GIB, "nvml"), limit)

    assert "The pair fits: about 10.0 GiB of 31.0 GiB free" in says(10 * GIB, 31)
    assert "does not fit" in says(10 * GIB, 30)  # at the limit
    assert "The pair fits" in says(10 * GIB, 30, limit=0.81)
    assert "takes about 10.0 GiB of its device" in pair.fits(10 * GIB, None)
