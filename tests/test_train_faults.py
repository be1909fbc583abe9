"""The real trainer meets real faults: killed in every phase, a disk that is full, models and numbers that go wrong."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kvlab.errors import RunError
from kvlab.results.training.verdict import in_force
from kvlab.runs import monitor, run_queue, store, training
from kvlab.train import checkpoint
from kvlab.train.process import perform
from kvlab.train.student import read_student
from tests.spoken import spoken
from tests.trainers import nothing_outlives, state, wait_until_idle
from tests.training import PROJECT, forget_accelerate, metrics, written
from tests.waiting import wait_until

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("train-faults"), pytest.mark.usefixtures("fresh_accelerate")]
KILLED = Path(__file__).with_name("killed_trainer.py")


@pytest.fixture(scope="module")
def whole(finished_run):
    """The losses of a run that nothing happened to."""
    return losses(finished_run)


def losses(folder):
    return [line["loss"] for line in in_force(metrics(folder))]


def error(folder):
    status = store.read_status(folder)
    assert status["state"] == "failed"
    return spoken(status["error"])


def test_the_real_trainer_killed_while_it_saves_says_lost_keeps_its_lines_and_resumes(
    pair, whole, tmp_path, monkeypatch
):
    """The other phases: killed below without a queue, and of the fake trainer in test_training."""
    root = tmp_path / "runs"
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setattr(run_queue, "TRAINER", (sys.executable, str(KILLED)))
    with nothing_outlives(root):
        folder = root / training.launch(pair, "killed", "cpu", root)
        wait_until(lambda: state(folder) == "lost", 300, "the trainer's death")
        wait_until_idle(root)
    view = monitor.view(folder)
    assert (view.state, view.phase) == ("lost", "saving")
    assert view.error["kind"] == "run-killed" and "SIGKILL" in spoken(view.error)["found"]
    keeps_its_lines_and_resumes(folder, whole, logged=4, saved=2)


def test_ten_kills_one_in_each_phase_are_survived():
    command = [sys.executable, "-P", "-m", "tests.kills", "10"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "10 kills, 0 not survived" in done.stdout, done.stdout + done.stderr


def keeps_its_lines_and_resumes(folder, whole, logged, saved):
    before = metrics(folder)
    assert (len(before), checkpoint.saved_step(folder)) == (logged, saved)
    perform(folder)  # takes it up where it was, as a resumed run does
    assert store.read_status(folder)["state"] == "done" and metrics(folder)[: len(before)] == before
    assert losses(folder) == pytest.approx(whole, rel=1e-6)


# --- a disk that is really full -------------------------------------------------------------------------------

LINES = {"700k": 2, "40k": 0}  # size of a disk with room for no checkpoint, or not even for the map -> lines logged
ON_SMALL_DISKS = """
for size in $4; do
    mkdir "$1/$size" && mount -t tmpfs -o size=$size small "$1/$size" || exit 77
    cp -r "$2" "$1/$size/run"
done
{python} -P -c "$5" "$1"/*/run; code=$?
for size in $4; do cp -r "$1/$size/run" "$3/$size" || exit; done
exit $code
"""
TRAIN_EACH = """
import sys
from pathlib import Path
from kvlab.train.process import perform
from tests.training import forget_accelerate
for folder in sys.argv[1:]:
    forget_accelerate()
    assert perform(Path(folder)) == 1
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no namespaces to mount a small disk in")
def test_a_really_full_disk_is_named_and_every_line_before_it_is_read(pair, whole, tmp_path):
    folder, disks, copies = written(tmp_path / "run", pair), tmp_path / "disks", tmp_path / "copies"
    disks.mkdir()
    copies.mkdir()
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", ON_SMALL_DISKS.format(python=sys.executable), "sh"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    arguments = [disks, folder, copies, " ".join(LINES), TRAIN_EACH]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    for size, lines in LINES.items():
        after = copies / size
        found = error(after)
        assert found["kind"] == "disk-full" and "KVLAB_RUNS" in found["remedy"]
        assert losses(after) == pytest.approx(whole[:lines], rel=1e-6)
        assert "(disk-full)" in (after / "training.log").read_text()
        assert not (after / "checkpoint.new").exists(), "a half-written checkpoint leaves no room for the reason"
        forget_accelerate()
        perform(after)  # on a disk with room
        assert losses(after) == pytest.approx(whole, rel=1e-6)


def test_a_folder_that_cannot_be_written_is_refused_in_words(pair, tmp_path):
    folder = tmp_path / "file"
    folder.write_text("no folder")
    with pytest.raises(RunError) as refused:
        training.launch(pair, "x", "cpu", folder)
    assert refused.value.kind == "runs-unwritable" and "KVLAB_RUNS" in refused.value.remedy


# --- failures that are really provoked ------------------------------------------------------------------------


def test_a_rate_that_is_far_too_high_ends_in_nan_with_a_smaller_one_to_launch(pair, tmp_path):
    folder = written(tmp_path / "run", pair | {"lr": 1e30})
    assert perform(folder) == 1
    found = error(folder)
    assert found["kind"] == "not-finite" and found["changes"] == {"lr": pytest.approx(1e29)}
    lines = metrics(folder)
    assert lines[0]["loss"] > 0 and lines[-1]["nonfinite"] and len(lines) == 2


def test_memory_that_the_allocator_refuses(pair, tmp_path, monkeypatch):
    def greedy(*args):
        torch.empty(1 << 50)  # a pebibyte: the allocator's own error
        return read_student(*args)

    monkeypatch.setattr("kvlab.train.learner.read_student", greedy)
    folder = written(tmp_path / "run", pair)
    assert perform(folder) == 1
    found = error(folder)
    assert found["kind"] == "out-of-memory" and "allocate" in found["found"]
    assert found["changes"] == {"batch_size": 1, "gradient_accumulation_steps": 4}


def test_a_clash_of_shapes_asks_for_the_switch_that_is_off(pair, tmp_path, monkeypatch):
    monkeypatch.setattr("kvlab.train.learner.read_student", lambda *_: torch.zeros(2, 3) + torch.zeros(2, 4))
    settings = pair | {"use_safe_resample": False, "teachers": [pair["student"]]}
    folder = written(tmp_path / "run", settings)
    assert perform(folder) == 1
    found = error(folder)
    assert found["kind"] == "shape" and found["changes"] == {"use_safe_resample": True}
    assert "kv_alignment: use_safe_resample: true" in found["remedy"]
    assert "Traceback" in (folder / "training.log").read_text()


def test_a_package_that_is_not_there_gets_its_install_line(pair, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # as Python finds what is not installed
    folder = written(tmp_path / "run", pair | {"trainable": "lora"})
    assert perform(folder) == 1
    assert error(folder)["kind"] == "module-missing" and "pip install peft" in error(folder)["remedy"]


@pytest.mark.parametrize("name", ["demo/nobody", "/no/such/folder", "nobody/no-such-model"])
def test_a_model_that_is_not_found_is_named(pair, tmp_path, name):
    folder = written(tmp_path / "run", pair | {"teachers": [name]})
    assert perform(folder) == 2
    found = error(folder)
    assert found["kind"].startswith("model-") and name in found["expected"] + found["found"] + found["remedy"]
