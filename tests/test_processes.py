"""One analysis by two processes: each reads its share, the sums meet in the first, which alone writes."""

import json
import subprocess
import sys

import pytest
import torch
from torch import distributed

from kvlab.align import processes, unfinished
from kvlab.align.fold_sums import FIT_AND_SCORE, FIT_ONLY, FoldSums
from kvlab.align.unfinished import Unfinished
from kvlab.cli import main
from kvlab.errors import AlignError, RunError
from kvlab.host import launched
from kvlab.models import loading
from tests.tiny import tiny_model
from tests.training import PROJECT

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("processes")]
LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def test_two_processes_have_the_numbers_of_one(tmp_path, monkeypatch):
    """Of two teachers, their fusion, and rows with weights."""
    teacher = tiny_model("qwen3", tmp_path / "teacher", seed=1, num_hidden_layers=2)
    student = tiny_model("llama", tmp_path / "student", tokenizer_style="sentencepiece", num_hidden_layers=1, vocab=500)
    command = ["align", "--teacher", teacher, "--student", student, "--prompts", str(tmp_path / "p.txt")]
    command += ["--calibration", "none", "--folds", "2", "--sample-tokens", "100", "--batch-tokens", "64"]
    command += ["--teacher", tiny_model("qwen2", tmp_path / "other", seed=2, num_hidden_layers=1)]
    command += ["--row-weights", "attention"]
    texts = [f"The river runs past mill {n}, and {n * 7} children of the village build boats." for n in range(16)]
    (tmp_path / "p.txt").write_text("\n\n".join(texts))
    counts = tmp_path / "counts"
    counts.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    two = subprocess.Popen(
        [*LAUNCHER, "-m", "tests.two_readers", str(counts), *command, "--out", str(tmp_path / "two")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert main.main([*command, "--out", str(tmp_path / "one")]) == 0
    said, errors = two.communicate(timeout=600)
    assert two.returncode == 0, errors
    assert said.count("Written:") == 1 and errors.count("was read as") == 1, "the first process speaks"
    one, of_two = (json.loads((tmp_path / name / "alignment.json").read_text()) for name in ("one", "two"))
    assert numbers(one) == pytest.approx(numbers(of_two), rel=1e-9, abs=1e-9, nan_ok=True)
    assert len(numbers(one)) > 50 and one["data"] == of_two["data"]
    first, second = (int((counts / rank).read_text()) for rank in "01")
    assert 0 < second < first + second, "each read a share"
    assert not list((tmp_path / "two").glob("unfinished*"))


def numbers(result):
    """Every number of the heads and of the fusion."""
    rows = [*result["heads"], *result.get("fusion", [])]
    values = [value for row in rows for value in row.values()]
    values += [inner for value in values if isinstance(value, list) for inner in value]
    return [float(value) for value in values if isinstance(value, int | float)]


@pytest.fixture
def two(monkeypatch):
    """This is the second of two processes, and the first has the same sums."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(distributed, "broadcast", lambda pilot, src: pilot.fill_(7))
    monkeypatch.setattr(distributed, "reduce", lambda tensor, dst: tensor.mul_(2))

    def both(values, value):
        values[:] = [value, value]

    monkeypatch.setattr(distributed, "all_gather_object", both)
    return both


def sums_of(*parts):
    sums = FoldSums((torch.zeros(2), torch.zeros(3)), 2)
    for part, weights in parts:
        sums.add(0, part, torch.ones(4, 2), torch.full((4, 3), 2.0), weights=weights)
    return sums


def test_pilots_are_those_of_the_first_which_keeps_the_sample(two):
    sums = {"a": sums_of((FIT_AND_SCORE, None))}
    processes.begin(sums)
    assert sums["a"].parts == {} and all((pilot == 7).all() for pilot in sums["a"].pilots)


def test_every_sum_is_added_also_of_rows_that_one_process_has_not_met(two, monkeypatch):
    plain, weighted = (FIT_AND_SCORE, 0), (FIT_ONLY, 0)
    sums = sums_of((FIT_AND_SCORE, None), (FIT_ONLY, torch.full((4,), 0.5)))
    processes.add_up({"a": sums})
    assert (sums.parts[plain].n, float(sums.parts[plain].weight)) == (8, 8.0)
    assert float(sums.parts[weighted].weight) == 4.0 and (sums.parts[plain].cross == 16).all()
    assert (sums.parts[plain].squares == 32).all() and (sums.parts[weighted].total == 8).all()
    monkeypatch.setattr(
        distributed, "all_gather_object", lambda values, value: values.__setitem__(slice(None), [value, {"a": [plain]}])
    )
    empty = {"a": FoldSums((torch.zeros(2), torch.zeros(3)), 2)}
    monkeypatch.setattr(processes, "_of_all", lambda names: None)
    processes.add_up(empty)
    assert empty["a"].parts[plain].n == 0


def test_processes_that_chose_other_layers_end_in_words(two, monkeypatch):
    monkeypatch.setattr(distributed, "all_gather_object", lambda values, value: values.__setitem__(0, ["other"]))
    with pytest.raises(AlignError) as refused:
        processes.begin({"a": sums_of()})
    assert refused.value.kind == "processes-differ"


def test_each_process_keeps_what_it_has_read_and_the_first_clears_up(tmp_path):
    files = [unfinished.name_of(process) for process in range(3)]
    for name in (*files, unfinished.REFINEMENT):
        (tmp_path / name).touch()
    Unfinished(tmp_path, None).remove()
    assert [file.name for file in tmp_path.iterdir()] == [unfinished.REFINEMENT] and len(set(files)) == 3


def test_each_process_has_its_gpu_and_a_functional_test_is_of_one(two, monkeypatch):
    monkeypatch.setattr(loading.memory, "device_memory", lambda device: loading.memory.DeviceMemory(device, 1, 1, "x"))
    assert str(loading.pick_device("cuda")) == "cuda:1" and launched.local_rank() == 1
    with pytest.raises(RunError) as refused:
        launched.check_alone("inject")
    assert refused.value.kind == "one-process-only"
