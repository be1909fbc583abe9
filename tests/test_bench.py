"""The bench runs every row, its two sides agree where they must, and its verdict is its exit code. No speed here."""

import json
import subprocess
import sys
from math import isnan

import pytest
import torch

from kvlab.bench import (
    ROWS,
    layers,
    memory,
    overhead,
    pair,
    processes,
    ridge,
    row,
    run,
    seeds,
    steps,
    timelines,
    training,
    true_shapes,
)
from kvlab.bench.pair import TINY, documents, random_pair, tokenizers
from kvlab.cli import main
from kvlab.runs import store
from kvlab.train.process import perform

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("bench"), pytest.mark.usefixtures("fresh_accelerate")]
CPU = torch.device("cpu")
FIELDS = {"name", "against", "ratio", "low", "high", "bar", "holds", "unit", "detail"}


def test_quick_runs_every_row_without_verdicts_and_writes_json(tmp_path, monkeypatch, capsys):
    # The process itself is measured below.
    for module in (memory, true_shapes):
        monkeypatch.setattr(
            module, "in_own_process", lambda count, _: {"before": 1, "peak": 1000 + count, "forecast": 900}
        )
    result = {"timings": {"read_rest_s": 2.0}, "heads": [{"r2": 0.5, "gain": 0.1, "cosine": 0.9}]}
    monkeypatch.setattr(processes, "_align", lambda *_: result)  # test_processes runs it
    out = tmp_path / "bench.json"
    assert main.main(["bench", "--quick", "--out", str(out)]) == 0
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["quick"] and {"date", "device", "torch", "transformers", "python", "load"} <= set(written)
    assert len(written["rows"]) == len(ROWS)
    for found in written["rows"]:
        assert set(found) == FIELDS and found["bar"] is None and found["holds"] is None
        assert 0 < found["low"] <= found["ratio"] <= found["high"]
    # As a trained pair: all layers that there are, though random weights do not need them.
    assert {n for row in (0, 6) for of in _chosen(written["rows"][row]) for n in of} == {2}
    printed = capsys.readouterr().out
    assert "✓" not in printed and "✗" not in printed and len(printed.splitlines()) == 1 + len(ROWS)


def _chosen(row):
    return row["detail"]["teacher_layers_chosen"].values()


def test_so_many_layers_as_asked_for_are_read_and_counted(tmp_path):
    out = tmp_path / "bench.json"
    command = ["bench", "--quick", "--rows", "7,11", "--layers-per-student", "1", "--out", str(out)]
    assert main.main(command) == 0
    few, counted = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert {n for of in _chosen(few) for n in of} == {1}
    assert counted["detail"]["teacher_layers_a_student_layer"] == 1
    assert counted["detail"]["device_gib"] < 0.5 * true_shapes.sums(CPU, True).detail["device_gib"]


HELD_FOR_A_MOMENT = 2**30  # bytes
ALIGN_AND_MORE = f"""
import runpy
import numpy
from kvlab.align import pipeline

real = pipeline.align

def align(teacher, student, texts, settings):
    found = real(teacher, student, texts, settings.model_copy(update={{"layers": "depth", "random_teacher": False}}))
    numpy.ones({HELD_FOR_A_MOMENT}, numpy.int8)
    return found

pipeline.align = align
runpy.run_module("kvlab.bench.memory", run_name="__main__")
"""


def test_peak_memory_is_measured_in_a_process_of_its_own(monkeypatch):
    """A quick ``align`` also takes a known number of bytes and lets go of them: the peak has them, all else has not."""
    real = subprocess.run

    def run_more(command, **options):
        assert command[:3] == [sys.executable, "-m", "kvlab.bench.memory"]
        return real([sys.executable, "-c", ALIGN_AND_MORE, *command[3:]], **options)

    monkeypatch.setattr(subprocess, "run", run_more)
    found = memory.in_own_process(6, CPU)
    assert 0 < found["before"] <= found["peak"] and found["student_tokens"] > 0
    assert 0.98 < (found["peak"] - found["before"]) / HELD_FOR_A_MOMENT < 1.5


def test_layer_similarity_from_sums_equals_dense_grams():
    teacher, student = layers.layered_rows(150, [12, 20, 8], [10, 14], CPU)
    found = layers.by_sums(student, teacher)
    assert found.shape == (2, 3) and found.max() > 0.1
    torch.testing.assert_close(found, layers.dense_cka(student, teacher), rtol=0, atol=1e-6)


def test_ridge_from_sums_equals_scikit_learn():
    pytest.importorskip("sklearn")
    (x,), (y,) = layers.layered_rows(300, [24], [8], CPU)
    fold = torch.arange(300) % ridge.FOLDS
    ours = ridge.by_sums(x, y, fold, 2)
    assert (ours > 0.2).all()
    assert abs(ours - ridge.by_sklearn(x.numpy(), y.numpy(), fold.numpy(), 2)).max() < 1e-6


def test_without_scikit_learn_its_row_says_how_to_get_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    out = tmp_path / "bench.json"
    assert main.main(["bench", "--rows", "5", "--quick", "--out", str(out)]) == 0
    assert "not measured: pip install scikit-learn" in capsys.readouterr().out
    assert json.loads(out.read_text())["rows"][0]["ratio"] is None


def test_bare_forwards_read_the_tokens_that_align_reads():
    texts = documents(6, 60)
    teacher, student = random_pair(CPU, TINY)
    batches = overhead._batches(teacher, student, texts, overhead.AlignSettings(batch_tokens=128))
    for model in (teacher, student):
        read = sum(int(mask.sum()) for loaded, _, mask in batches if loaded is model)
        assert read == sum(len(timelines.tokenize(model.tokenizer, document.text)) for document in texts)


def test_reencoding_gives_every_student_token_a_teacher_token():
    teacher, student = tokenizers()
    text = "The boats reach the bridge. 河水流过。"
    ids, places = timelines.reencoded(teacher, student, text)
    assert len(ids) == len(places) == len(student(text)["input_ids"])
    assert (places[1:] >= places[:-1]).all()
    assert (ids >= 0).mean() > 0.8  # a space decodes to nothing


@pytest.mark.parametrize(("ratio", "code"), [(1.2, 0), (1.3, 1)])
def test_a_bar_that_does_not_hold_is_exit_code_1(ratio, code, monkeypatch, capsys):
    monkeypatch.setitem(run.MEASURES, 1, lambda *_: row.judged("a", "b", [ratio, 0.1, 9.0], row.TIME, 1.25))
    assert main.main(["bench", "--rows", "1"]) == code
    assert "✓✗"[code] in capsys.readouterr().out


def test_verdicts_need_the_same_result_too():
    assert row.judged("a", "b", [9.0], row.FASTER, 5.0).holds
    assert not row.judged("a", "b", [4.0], row.FASTER, 5.0).holds
    assert not row.judged("a", "b", [9.0], row.FASTER, 5.0, equal=False).holds
    assert isnan(row.not_measured("a", "b", row.FASTER, 5.0, "no").ratio)


@pytest.mark.parametrize("rows", ["0", f"1,{max(ROWS) + 1}", "x", "1,,2", ""])
def test_rows_that_do_not_exist_are_refused(rows, capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main(["bench", "--rows", rows])
    assert stopped.value.code == 2 and "not a list of numbers" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_exit_code_2(capsys):
    assert main.main(["bench", "--rows", "4", "--quick", "--device", "cuda"]) == 2
    assert "cuda" in capsys.readouterr().err


def test_a_hundred_steps_leave_a_run_whose_memory_is_the_rows(tmp_path):
    found = steps.hundred_steps(CPU, quick=True)
    folder = store.runs_root() / found.detail["run"]
    lines = [json.loads(line) for line in (folder / "memory.jsonl").read_text().splitlines()]
    assert found.detail["peak_bytes"] == max(line["process_peak"] for line in lines)
    assert found.ratio == found.detail["peak_bytes"] / lines[-1]["device_total"]
    assert [used for _, used in found.detail["memory_curve"]] == [line["process_rss"] for line in lines]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4 and (folder / "report.html").exists()
    assert not (folder / "checkpoint").exists()  # 13 GB in the true shapes
    others = [c["state"] for c in found.detail["checkpoints"] if c["name"] != "no collapse"]
    assert found.holds is all(state == "pass" for state in others)


def test_rows_of_one_process_may_differ_in_precision(tmp_path):
    texts = documents(12, 60)
    for name, dtype, precision in (("half", torch.bfloat16, "bf16"), ("full", torch.float32, "fp32")):
        teacher = pair.random_model("teacher", TINY[0], tokenizers()[0], CPU, dtype)
        student = pair.random_model("student", TINY[1], tokenizers()[1], CPU, torch.float32)
        (tmp_path / name).mkdir()
        assert training.prepared(tmp_path / name, teacher, student, texts, 2, 1).config.precision == precision


def test_the_floor_of_a_training_step_reads_the_same_tokens_and_trains_the_same_student(tmp_path):
    teacher, student = random_pair(CPU, TINY)
    texts = documents(12, 60)
    run = training.prepared(tmp_path, teacher, student, texts, batch=2, steps=4)
    loop, seen = run.loop(), {"teacher": [], "student": []}
    hooks = [
        model.register_forward_pre_hook(lambda _, __, k, to=to: to.append(k["input_ids"].tolist()), with_kwargs=True)
        for model, to in ((teacher.model.base_model, seen["teacher"]), (student.model, seen["student"]))
    ]
    for number in (1, 2):
        before = loop.step(number)["ce"]
        weights = next(student.model.parameters()).detach().clone()
        after = training.floor_step(run, loop, teacher, number)
        assert after < before  # one step further on the same documents
        assert not torch.equal(next(student.model.parameters()), weights)
    for hook in hooks:
        hook.remove()
    for read in seen.values():
        assert len(read) == 4 and read[0] == read[1] != read[2] == read[3]


def test_a_training_step_over_its_bar_fails_the_bench(monkeypatch, capsys):
    monkeypatch.setitem(training.BARS, "cpu", 0.01)
    monkeypatch.setattr(training, "ON_CPU", training.QUICK)
    monkeypatch.setattr(training, "true_shapes", lambda _: TINY)
    assert main.main(["bench", "--rows", "8"]) == 1
    assert "✗ training step, against student step + bare teacher forward" in capsys.readouterr().out


def test_on_a_gpu_the_training_step_has_the_true_shapes_in_bfloat16(monkeypatch):
    gpu, made = torch.device("cuda"), []

    def measure(name, teacher, student, texts, size, bar):
        return name, bar, size.batch

    monkeypatch.setattr(training, "random_model", lambda role, shape, _, __, dtype: made.append((shape, dtype)))
    monkeypatch.setattr(training, "_measure", measure)
    assert training.wide_pair(gpu, quick=False)[1] == 1.10
    assert made == [(pair.QWEN2_7B, torch.bfloat16), (pair.TINY_LLAMA, torch.float32)]


def test_mixed_precision_is_measured_with_a_teacher_in_bfloat16(tmp_path):
    shape_t, shape_s = TINY
    names = tokenizers()
    teacher = pair.random_model("teacher", shape_t, names[0], CPU, torch.bfloat16)
    student = pair.random_model("student", shape_s, names[1], CPU, torch.float32)
    run = training.prepared(tmp_path, teacher, student, documents(12, 60), batch=2, steps=2)
    assert run.config.precision == "bf16" and run.accelerator.mixed_precision == "bf16"
    loop = run.loop()
    assert loop.step(1)["ce"] == pytest.approx(training.floor_step(run, loop, teacher, 1), rel=0.05)


def test_the_table_of_seeds_tells_what_each_run_reported(pair, tmp_path, capsys):
    settings = pair | {"device": "cpu", "max_steps": 2, "eval_documents": 2, "fit_documents": 8}
    (found,) = seeds.measure(["head outputs"], [3], settings)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(json.dumps({**settings, "seed": 3, "kv_loss": "head-outputs"}))
    perform(folder)
    told = json.loads((folder / "report.json").read_text())
    assert (found["before"], found["after"]) == (told["before"], told["after"])
    before, after = told["before"]["ce"], told["after"]["ce"]
    assert f"| head outputs | 3 | {before:.3f} → {after:.3f} |" in capsys.readouterr().out
    assert found["failed"] == ["loss converging"]  # two steps are too few


def test_a_run_that_breaks_off_is_no_row_of_the_table():
    with pytest.raises(SystemExit, match="broke off"):
        seeds.measure(["kv"], [0], {"device": "cpu", "student": "demo/nobody"})
