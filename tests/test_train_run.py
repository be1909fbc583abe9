"""Whole runs in their folder: what they leave, how they stop, fail, and go on."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors import safe_open

from kvlab.cli import main
from kvlab.errors import RunError
from kvlab.results.training.verdict import in_force
from kvlab.runs import locks, run_queue, store, training
from kvlab.train import checkpoint
from kvlab.train.learner import cross_entropy
from kvlab.train.process import Stop, perform
from tests import two_trainers
from tests.spoken import spoken
from tests.test_privacy import opened_to_others
from tests.trainers import nothing_outlives
from tests.training import PROJECT, ended_behind, metrics, written
from tests.waiting import wait_until

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("train-run"), pytest.mark.usefixtures("fresh_accelerate")]


def report(folder):
    return json.loads((folder / "report.json").read_text())


def table(folder):
    return {c["name"]: c for c in json.loads((folder / "verdict.json").read_text())["checkpoints"]}


def numbers(lines):
    """Of the steps in force, what must not depend on how the run came to them."""
    timings = {"seconds", "tokens_per_s"}
    return [{name: value for name, value in line.items() if name not in timings} for line in in_force(lines)]


def test_a_run_leaves_its_whole_story(pair, tmp_path):
    folder = written(tmp_path / "run", pair | {"max_steps": 10, "thresholds": {"converged": 0.999}})
    assert perform(folder) == 0
    status = store.read_status(folder)
    assert (status["state"], status["error"], status["phase"]) == ("done", None, "reporting")
    lines = metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, 11))
    wanted = "loss ce kv_key kv_value entropy lr grad_norm tokens_per_s seconds variance_ratio_key effective_rank_value"
    assert set(wanted.split()) <= set(lines[0])
    assert {c["state"] for c in table(folder).values()} == {"pass"}
    samples = store.read_lines(folder / "memory.jsonl").records
    assert {"t", "phase", "process_rss", "device_used", "device_total", "torch_peak", "source"} <= set(samples[0])
    assert "process" in samples[0]["source"] and samples[0]["device_used"] == samples[0]["process_rss"] > 0
    told = report(folder)
    assert told["steps"] == 10 and told["verdict"] == "pass" and told["config"]["max_steps"] == 10
    assert told["before"]["documents"] == 3 and told["after"]["ce"] != told["before"]["ce"]
    assert {"torch", "accelerate"} <= set(told["versions"]) and told["memory"]["peak"] > 0
    log = (folder / "training.log").read_text()
    assert "step 10/10" in log and "VERDICT: PASS" in log and log.count("checkpoint loss converging") == 1
    assert [c["error"] for c in told["checks"]["outcomes"]] == [None] * 7
    gathered = json.loads((folder / "gathered.json").read_text())
    assert gathered["run"]["state"] == "done" and gathered["checks"]["passed"] and "report" not in told
    assert samples[-1]["process_peak"] >= max(s["process_rss"] for s in samples)
    assert gathered["run"]["peak_memory"]["bytes"] == max(s["process_peak"] for s in samples)
    assert {"report.md", "report.html"} <= {file.name for file in folder.iterdir()}
    assert "State: finished. Verdict: ✓ passed. Steps: 10 of 10." in (folder / "report.md").read_text()
    with safe_open(folder / "projector.safetensors", framework="pt") as file:
        assert len(list(file.keys())) == 2 * 2 * 3  # kinds, layers; weights, biases, and the map of each class of row
    assert checkpoint.saved_step(folder) == 10


@pytest.mark.parametrize(
    "settings", [{"map": "structured"}, {"map": "ridge", "trainable": "lora"}, {"kv_loss": "head-outputs"}]
)
def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(pair, tmp_path, settings):
    settings = pair | settings | {"max_steps": 6}
    whole, broken = (written(tmp_path / name, settings) for name in ("whole", "broken"))
    perform(whole)
    with ended_behind(5):  # which is behind a checkpoint
        perform(broken)
    assert store.read_status(broken)["state"] == "failed" and checkpoint.saved_step(broken) == 4
    before = report(broken)["before"]
    perform(broken)
    lines = metrics(broken)
    assert {"resumed_from": 4} in lines and sum(line.get("step") == 5 for line in lines) == 2
    assert numbers(lines) == numbers(metrics(whole))
    assert report(broken)["before"] == before == report(whole)["before"]
    assert report(broken)["after"] == report(whole)["after"]


def test_a_run_that_never_saved_begins_anew(pair, finished_run, tmp_path, monkeypatch):
    folder = written(tmp_path / "run", pair | {"checkpoint_every": 100})
    monkeypatch.setattr(checkpoint, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert perform(folder) == 1
    error = spoken(store.read_status(folder)["error"])
    assert error["kind"] == "disk-full" and "KVLAB_RUNS" in error["remedy"]
    monkeypatch.undo()
    perform(folder)
    assert {"resumed_from": 0} in metrics(folder) and numbers(metrics(folder)) == numbers(metrics(finished_run))


def test_a_nan_ends_the_run_with_advice_and_every_line_is_still_read(pair, tmp_path, monkeypatch):
    calls = []

    def poisoned(logits, ids, predicted, **how):
        calls.append(logits.requires_grad)
        found = cross_entropy(logits, ids, predicted, **how)
        return found * float("nan") if sum(calls) == 3 else found  # the third training step

    monkeypatch.setattr("kvlab.train.learner.cross_entropy", poisoned)
    folder = written(tmp_path / "run", pair)
    assert perform(folder) == 1
    status = store.read_status(folder)
    assert status["state"] == "failed" and status["error"]["kind"] == "not-finite"
    assert (
        status["error"]["changes"] == {"lr": pytest.approx(1e-4)} and "--lr 0.0001" in spoken(status["error"])["remedy"]
    )
    lines = metrics(folder)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[2]["loss"] is None and {"loss", "ce"} <= set(lines[2]["nonfinite"]) and lines[1]["loss"] > 0
    assert table(folder)["no NaN or Inf"]["state"] == "fail" and table(folder)["forward passes"]["state"] == "pass"
    assert "what to do: a smaller learning rate" in (folder / "training.log").read_text()


def test_out_of_memory_says_what_to_launch_instead(pair, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr("kvlab.train.learner.read_student", full)
    folder = written(tmp_path / "run", pair)
    assert perform(folder) == 1
    error = spoken(store.read_status(folder)["error"])
    assert error["kind"] == "out-of-memory" and "evaluating before" in error["expected"]
    assert error["changes"] == {"batch_size": 1, "gradient_accumulation_steps": 4}


def test_checkpoints_are_written_by_time_too(pair, tmp_path):
    settings = pair | {"max_steps": 3, "checkpoint_every": 1000, "eval_documents": 1, "layers": "depth"}
    for name, minutes, expected in (("soon", 1e-9, [1, 2, 3]), ("late", 1e9, [3])):
        folder = written(tmp_path / name, settings | {"checkpoint_minutes": minutes})
        perform(folder)
        said = (folder / "training.log").read_text()
        assert [int(step) for step in re.findall(r"saved the checkpoint of step (\d+)", said)] == expected


def test_a_stop_file_ends_after_the_step_it_appears_in(pair, tmp_path, monkeypatch):
    folder = written(tmp_path / "run", pair | {"max_steps": 50, "checkpoint_every": 1000})
    real = store.append_metrics

    def asked(at, record):
        real(at, record)
        if record.get("step") == 3:
            (folder / "stop").touch()

    monkeypatch.setattr(store, "append_metrics", asked)
    assert perform(folder) == 2
    assert metrics(folder)[-1]["step"] == checkpoint.saved_step(folder) == 3
    assert store.read_status(folder)["state"] == "cancelled" and not (folder / "stop").exists()


def test_a_kill_between_the_renames_of_a_checkpoint_leaves_one(tmp_path):
    for suffix, step in ((".old", 50), (".new", 100)):
        (tmp_path / f"checkpoint{suffix}").mkdir()
        (tmp_path / f"checkpoint{suffix}" / "step.json").write_text(json.dumps({"step": step}))
    assert checkpoint.saved_step(tmp_path) == 100
    (tmp_path / "checkpoint.new" / "step.json").write_text('{"st')
    assert checkpoint.saved_step(tmp_path) == 50
    (tmp_path / "checkpoint").mkdir()  # begun and not finished
    assert checkpoint.saved_step(tmp_path) == 50


def test_a_report_that_cannot_be_written_is_no_fault_of_the_run(pair, tmp_path):
    folder = written(tmp_path / "run", pair | {"max_steps": 2, "thresholds": {"converged": 0.999999, "stable": 9}})
    (folder / "report.html").mkdir()
    perform(folder)
    assert store.read_status(folder)["state"] == "done" and store.read_status(folder)["error"] is None
    assert "the report could not be written" in (folder / "training.log").read_text()
    assert not list(folder.glob(".report*.tmp"))


@pytest.mark.parametrize("text", ["", "- a list", "batch_size: [", "batch_size: 0", "no_such_setting: 1"])
def test_a_config_of_garbage_is_a_failed_run_with_words(tmp_path, text):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(text)
    assert perform(folder) == 2
    status = store.read_status(folder)
    assert status["state"] == "failed" and status["error"]["kind"] in ("config-invalid", "config-unreadable")


# --- the command line -----------------------------------------------------------------------------------------

PAIR = ["--teacher", "demo/teacher", "--student", "demo/student"]
SWITCHES = ["--use_kv_projector", "--use_safe_resample"]


def asked(*extra):
    options = main.parser().parse_args(["train", "--output_dir", "out", *extra])
    from kvlab.cli.train import config_of

    return config_of(options)


def test_the_checklists_flags_and_its_config_section(tmp_path):
    config = asked(*PAIR, "--use_kv_projector", "--use_safe_resample", "--max_steps", "100", "--batch_size", "2")
    assert (config.use_kv_projector, config.use_safe_resample, config.max_steps, config.batch_size) == (1, 1, 100, 2)
    more = asked(*PAIR, "--gradient_accumulation_steps", "4", "--gradient_checkpointing", "--bf16")
    assert (more.gradient_accumulation_steps, more.gradient_checkpointing, more.precision) == (4, True, "bf16")
    assert not more.use_kv_projector and not more.use_safe_resample
    file = tmp_path / "c.yaml"
    file.write_text(
        yaml.safe_dump({"kv_alignment": {"use_head_projector": True, "use_safe_resample": True}, "lr": 0.1})
    )
    both = asked(*PAIR, "--config", str(file), "--lr", "0.2")
    assert both.use_kv_projector and both.use_safe_resample and both.lr == 0.2
    assert asked(*PAIR, "--teacher", "demo/teacher-b").teachers == ("demo/teacher", "demo/teacher-b")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--use_safe_resample"], "--use_kv_projector"),
        (["--use_kv_projector"], "--use_safe_resample"),
        (["--use_kv_projector", "--use_safe_resample", "--teacher", "demo/nobody"], "demo/nobody"),
        (["--use_kv_projector", "--trainable", "projector"], "structured"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--batch_size", "0"], "batch_size"),
        (["--fp16", "--device", "cpu", "--use_kv_projector"], "--bf16"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(tmp_path, capsys, extra, message):
    assert main.main(["train", *PAIR, "--output_dir", str(tmp_path / "out"), *extra]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "What to do" in captured.err and "Traceback" not in captured.err


def test_a_folder_of_another_run_is_refused(tmp_path, capsys):
    folder = written(tmp_path / "run", {"max_steps": 7})
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    assert main.main(["train", *PAIR, "--output_dir", str(folder)]) == 2
    assert "another --output_dir" in capsys.readouterr().err


FOREIGN = ("checkpoint/weights.bin", "config.yaml", "report.html", "status.json", "stop", "notes.txt", ".hidden")


@pytest.mark.parametrize("names", [FOREIGN, *((name,) for name in FOREIGN)])
def test_a_folder_of_somebody_else_is_refused_and_nothing_in_it_changes(tmp_path, capsys, monkeypatch, names):
    folder = tmp_path / "theirs"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"kind": "job", "state": "done"}')
    before = everything(folder)
    assert main.main(["train", *PAIR, *SWITCHES, "--output_dir", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "a new or empty folder" in error and min(name.split("/")[0] for name in names) in error
    # The other processes of a launcher start although the first one is refused.
    monkeypatch.setenv("RANK", "1")
    with Stop(folder).heard():
        pass
    assert everything(folder) == before


def test_an_analysis_is_no_folder_for_a_training_run(tmp_path, capsys):
    folder = store.create(tmp_path / "runs", "analysis", "mine", {"teacher": "demo/teacher"})
    before = everything(folder)
    assert main.main(["train", *PAIR, *SWITCHES, "--output_dir", str(folder)]) == 2
    assert "a new or empty folder" in capsys.readouterr().err and everything(folder) == before


def everything(folder):
    return {path: path.is_file() and path.read_bytes() for path in (folder, *folder.rglob("*"))}


def test_a_second_train_in_a_folder_is_refused_and_sigterm_saves_the_first_for_a_later_one(pair, tmp_path, capsys):
    """Whichever way both were started."""
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(pair | {"max_steps": 1000, "checkpoint_every": 1000}))
    folder = tmp_path / "runs" / "20261201T000000.000Z-mine-0000"
    flags = ["train", *SWITCHES, "--config", str(tmp_path / "c.yaml"), "--output_dir", str(folder)]
    command = [sys.executable, "-P", "-m", "kvlab", *flags]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, umask=0)
    try:
        wait_until(lambda: len(metrics(folder)) >= 2, 120, "two steps")
        for second in (lambda: main.main(flags), lambda: perform(folder)):
            assert second() == 2
            said = capsys.readouterr()
            assert said.out == "" and said.err.startswith("kvlab: ") and said.err.count("\n") == 1
            assert f"Found process {first.pid} on {socket.gethostname()}, which has it" in said.err
            assert f"kill {first.pid}" in said.err
        with pytest.raises(RunError) as refused:
            training.resume(folder)
        assert refused.value.kind == "run-not-resumable"
        (folder / store.STATUS).unlink()  # it writes no state in a new one
        with pytest.raises(RunError) as refused:
            training.resume(folder)
        assert refused.value.kind == "run-busy" and str(first.pid) in str(refused.value)
        assert first.poll() is None
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == 2
    finally:
        first.kill()
        first.wait()
    with locks.held(folder / run_queue.RUN_LOCK) as free:
        assert free
    assert store.read_status(folder)["state"] == "cancelled"
    before = metrics(folder)
    assert [line["step"] for line in before] == list(range(1, len(before) + 1))
    assert 2 <= checkpoint.saved_step(folder) == len(before) < 1000 and opened_to_others(folder.parent) == []
    (folder / "stop").touch()  # the other way to ask, here at the next step
    assert perform(folder) == 2
    assert not (folder / "stop").exists() and metrics(folder)[: len(before)] == before


def test_a_failed_verdict_is_exit_code_1(pair, tmp_path, capsys):
    settings = pair | {"max_steps": 2, "thresholds": {"converged": 1e-9}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings))
    flags = [*SWITCHES, "--config", str(tmp_path / "c.yaml")]
    assert main.main(["train", *flags, "--output_dir", str(tmp_path / "run")]) == 1
    assert "VERDICT: FAIL" in capsys.readouterr().out


# --- several processes ----------------------------------------------------------------------------------------


def test_two_processes_have_the_losses_of_one_and_are_a_run_of_the_queue_like_any(pair, tmp_path, monkeypatch):
    teacher = pair["teachers"][0]
    settings = pair | {"teachers": [teacher, teacher.replace("teacher", "other")], "fusion": "learned", "max_steps": 3}
    settings |= {"gradient_accumulation_steps": 2, "device": "cpu", "thresholds": {"converged": 0.999, "stable": 2}}
    settings |= {"functional": True}
    one, root = written(tmp_path / "one", settings), tmp_path / "runs"
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setattr(run_queue, "TRAINER", (sys.executable, "-m", "tests.two_trainers"))
    with nothing_outlives(root):
        two = root / training.launch(settings, "two", "cpu", root)
        perform(one)
        wait_until(lambda: not run_queue.entries(root) and run_queue.keeper(root) is None, 300, "both processes' end")
    assert store.read_status(two)["state"] == "done", (two / "output.log").read_text()
    assert report(two)["device"]["processes"] == 2 and report(two)["verdict"] == "pass"
    assert (two / two_trainers.ENDED).read_text() == "0" and (two / "report.html").exists()
    assert (two / two_trainers.FITTED).read_text() == "0", "the first process fits, for all"
    for ours, theirs in zip(metrics(two), metrics(one), strict=True):
        for name in ("loss", "ce", "kv_key", "kv_value", "entropy", "grad_norm", "effective_rank_key"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), (ours["step"], name)
    for when in ("before", "after"):
        ours, theirs = (report(run)["functional"][when]["variants"]["projected"] for run in (two, one))
        assert ours == pytest.approx(theirs, rel=1e-2, abs=1e-6)


# --- the demo run ---------------------------------------------------------------------------------------------


def test_the_demo_run_of_two_teachers_passes_every_checkpoint(tmp_path):
    settings = {"teachers": ["demo/teacher", "demo/teacher-b"], "student": "demo/student", "fusion": "learned"}
    settings |= {"max_steps": 40, "fit_documents": 40, "eval_documents": 8, "layers": "depth"}
    folder = written(tmp_path / "run", settings)
    assert perform(folder) == 0, (folder / "training.log").read_text()
    assert {c["state"] for c in table(folder).values()} == {"pass"}
    told = report(folder)
    assert told["after"]["kv_key"] < told["before"]["kv_key"] and told["after"]["kv_value"] < told["before"]["kv_value"]
