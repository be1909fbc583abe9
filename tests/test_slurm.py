"""Runs through a real Slurm of two pretended nodes (tests/cluster.py); without one they are skipped with the reason.

KVLAB_REQUIRE_SLURM makes a missing Slurm a failure.
"""

import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from kvlab.cli import main
from kvlab.errors import RunError
from kvlab.request.experiment import Experiment
from kvlab.request.settings import checked
from kvlab.runs import experiment, monitor, store, training, worker_client
from kvlab.runs.places import slurm
from kvlab.runs.places.slurm import SlurmSettings
from kvlab.train.process import perform
from tests import cluster
from tests.test_processes import numbers
from tests.training import forget_accelerate, metrics, written
from tests.waiting import wait_until

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("slurm")]
LONG = 300  # seconds for a job to import its libraries and train
ON_GPU = SlurmSettings(partition="gpu")


@pytest.fixture(scope="module")
def slurm_here(tmp_path_factory):
    if reason := cluster.missing():
        if os.environ.get("KVLAB_REQUIRE_SLURM"):
            pytest.fail(reason)
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch, cluster.running(tmp_path_factory.mktemp("slurm") / "c") as running:
        # The names of pretended nodes resolve to nothing.
        for name, value in (("MASTER_ADDR", "127.0.0.1"), ("GLOO_SOCKET_IFNAME", "lo")):
            patch.setenv(name, value)
        yield running


def launched(config, place=ON_GPU):
    return store.runs_root() / training.launch(config, "job", root=store.runs_root(), place=place)


def state(folder):
    slurm.look(folder.parent, every=0.5)
    return monitor.view(folder).state


def wait_for(folder, *states):
    return wait_until(lambda: (found := state(folder)) in states and found, LONG, f"{states} of {folder}")


def losses(folder):
    """The loss of every step; of one that was done again, the last."""
    return [*{line["step"]: line["loss"] for line in metrics(folder) if "step" in line}.values()]


def here(tmp_path, config):
    """The losses of the same run on this machine, uninterrupted."""
    forget_accelerate()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MASTER_ADDR", "GLOO_SOCKET_IFNAME"):
            patch.delenv(name, raising=False)
        perform(written(tmp_path / "here", config))
    return losses(tmp_path / "here")


def test_a_run_that_is_put_back_ends_with_the_losses_of_an_uninterrupted_one(slurm_here, pair, tmp_path):
    config = {**pair, "max_steps": 40, "checkpoint_every": 1000}
    folder = launched(config)
    wait_until(lambda: len(metrics(folder)) > 3, LONG, "some steps")
    cluster.call("scancel", "--signal=USR2", slurm.job_of(store.read_status(folder)))
    wait_for(folder, "queued")
    assert wait_for(folder, "done", "failed", "lost") == "done"
    resumed = [line["resumed_from"] for line in metrics(folder) if "resumed_from" in line]
    assert len(resumed) == 1 and resumed[0] >= 3
    assert losses(folder) == here(tmp_path, config)


def test_jobs_that_are_cancelled_in_slurm_or_here_are_over(slurm_here, pair):
    held = SlurmSettings(extra={"hold": True})
    one, other = launched(pair, held), launched(pair, held)
    assert state(one) == "queued"
    slurm.look(one.parent, every=0)
    assert "it is held" in str(slurm.reason_words(store.read_status(one)))
    cluster.call("scancel", slurm.job_of(store.read_status(one)))
    assert wait_for(one, "cancelled") == "cancelled"
    assert training.stop(other) == "cancelled"
    job = slurm.job_of(store.read_status(other))
    wait_until(lambda: slurm._squeue()[job].state == "CANCELLED", cluster.SOON, "scancel")
    assert not list((one.parent / ".queue" / "slurm").iterdir())


def test_kill_ends_a_job_at_work_and_resume_submits_it_again(slurm_here, pair):
    folder = launched({**pair, "max_steps": 4000, "checkpoint_every": 1000})
    wait_until(lambda: len(metrics(folder)) > 1, LONG, "some steps")
    training.kill(folder)
    assert monitor.view(folder).state == "cancelled"
    first = slurm.job_of(store.read_status(folder))
    training.resume(folder)
    wait_until(lambda: slurm.job_of(store.read_status(folder)) != first, cluster.SOON, "another job")
    training.stop(folder)
    wait_for(folder, "cancelled")


def test_two_nodes_train_as_one_process_does(slurm_here, pair, tmp_path):
    folder = launched(pair, SlurmSettings(partition="gpu", nodes=2))
    assert wait_for(folder, "done", "failed", "lost") == "done", (folder / "output.log").read_text()
    assert losses(folder) == pytest.approx(here(tmp_path, pair), rel=1e-5)


def test_a_run_that_must_make_room_saves_and_goes_on_afterwards(slurm_here, pair, tmp_path):
    folder = launched({**pair, "max_steps": 60, "checkpoint_every": 1000}, SlurmSettings(partition="gpu", nodes=1))
    wait_until(lambda: len(metrics(folder)) > 3, LONG, "some steps")
    script = tmp_path / "urgent.sh"
    script.write_text("#!/bin/bash\nsleep 5\n")
    cluster.call("sbatch", "--partition=urgent", "--nodes=2", "--ntasks=2", f"--output={tmp_path}/out", str(script))
    wait_for(folder, "queued")
    assert wait_for(folder, "done", "failed", "lost", "cancelled") == "done"
    assert len(losses(folder)) == 60 and any("resumed_from" in line for line in metrics(folder))


def test_an_experiment_is_a_job_array_with_a_limit_and_gives_the_same_losses(slurm_here, pair, tmp_path):
    fields = {"settings": pair, "arms": {"kv": {}, "ce-only": {"control": "ce-only"}}, "plans": [[0, 1]]}
    folder = experiment.create(store.runs_root(), checked(Experiment, fields))
    launched = experiment.launch(folder, SlurmSettings(partition="gpu", at_once=1))
    runs = [store.runs_root() / ids[seed] for ids in launched.runs.values() for seed in (0, 1)]
    jobs = [slurm.job_of(store.read_status(run)) for run in runs]
    assert len({job.partition("_")[0] for job in jobs}) == 1 and len(set(jobs)) == 4
    reasons = set()
    for run in runs:
        wait_until(lambda run=run: reasons.add(_reason(runs[-1])) or state(run) == "done", LONG, "the array")
    assert any("as many runs of its experiment" in reason for reason in reasons)
    assert experiment.complete(folder, launched)
    for run in runs:
        assert losses(run) == here(tmp_path / run.name, store.read_config(run))


def test_an_analysis_of_two_nodes_shares_its_documents_and_finds_what_one_process_finds(
    slurm_here, pair, tmp_path, capsys
):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(f"Apple {n} fell from tree {n * 7} into basket {n % 5}." for n in range(12)))
    command = ["align", "--teacher", pair["teachers"][0], "--student", pair["student"], "--prompts", str(texts)]
    command += ["--device", "cpu", "--batch-tokens", "64", "--time", "floor"]
    job = ["--submit", "slurm", "--partition", "gpu", "--nodes", "2", "--time", "0:30:00"]
    assert main.main([*command, "--out", str(tmp_path / "two"), *job]) == 0
    output = Path(capsys.readouterr().out.split("its output: ")[1].strip())
    submitted = output.name.partition("_")[0]
    assert cluster.call("squeue", "--noheader", "--job", submitted, "--format=%D %l").split() == ["2", "30:00"]
    wait_until(lambda: slurm._squeue()[submitted].state not in (*slurm.WAITING, *slurm.AT_WORK), LONG, "the job")
    assert slurm._squeue()[submitted].state == "COMPLETED", output.read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MASTER_ADDR", raising=False)
        assert main.main([*command, "--out", str(tmp_path / "one")]) == 0
    one, two = (json.loads((tmp_path / name / "alignment.json").read_text()) for name in ("one", "two"))
    assert numbers(one) == pytest.approx(numbers(two), rel=1e-9, abs=1e-9, nan_ok=True) and len(numbers(one)) > 20


@pytest.mark.parametrize(
    ("command", "asked", "tasks"),
    [
        ("align", ["--gpus", "4", "--nodes", "2"], 4),
        ("align", ["--gpus", "4", "--split-teacher"], 1),
        ("inject", ["--gpus", "1"], 1),
        ("inject", ["--gpus", "4"], None),
        ("align", ["--nodes", "2", "--split-teacher"], None),
    ],
)
def test_a_job_has_a_process_for_each_gpu_that_can_use_one(command, asked, tasks, tmp_path, monkeypatch, capsys):
    """Without a Slurm: of what submitit is asked for."""
    seen = {}

    class Executor:
        def __init__(self, folder):
            pass

        def update_parameters(self, **parameters):
            seen.update(parameters)

        batch = nullcontext

        def submit(self, call, arguments):
            return SimpleNamespace(job_id="7")

    monkeypatch.setattr("submitit.SlurmExecutor", Executor)
    models = ["--teacher", "demo/teacher", "--student", "demo/student", "--out", str(tmp_path)]
    code = main.main([command, *models, "--submit", "slurm", *asked])
    assert (code == 0) is (tasks is not None)
    if tasks:
        assert (seen["ntasks_per_node"], seen["gpus_per_node"]) == (tasks, int(asked[1]))
    else:
        assert not seen and "ask for what one process can use" in capsys.readouterr().err


def _reason(folder):
    return str(slurm.reason_words(store.read_status(folder)))


def test_without_an_answer_of_slurm_nothing_is_lost(slurm_here, pair):
    """The last one: it ends the controller for a while."""
    folder = launched(pair, SlurmSettings(extra={"hold": True}))
    slurm_here.end_control()
    problem = slurm.look(folder.parent, every=0)
    assert problem.kind == "slurm-unreachable" and monitor.view(folder).state == "queued"
    before = set(store.listing(folder.parent))
    with pytest.raises(RunError, match="Slurm to take the job"):
        launched(pair)
    assert set(store.listing(folder.parent)) == before
    slurm_here.control()
    wait_until(lambda: slurm.look(folder.parent, every=0) is None, cluster.SOON, "the controller")
    assert training.stop(folder) == "cancelled"


def test_the_worker_computes_in_an_allocation_and_gives_it_back(slurm_here, tmp_path, monkeypatch):
    monkeypatch.setenv(worker_client.LAUNCHER, "srun --partition=gpu --ntasks=1 --unbuffered")
    worker = worker_client.Worker(log=tmp_path / "worker.log")
    try:
        wait_until(worker.ready, LONG, "the worker behind srun")
        assert worker.allocation.state == "here"
        assert worker.ask("loaded", timeout=60) == []
        running = [job for job in slurm._squeue().values() if job.state == "RUNNING"]
        assert len(running) == 1
    finally:
        worker.stop()
    assert worker.allocation.state == "ended"
    wait_until(lambda: not [j for j in slurm._squeue().values() if j.state == "RUNNING"], cluster.SOON, "its end")


def test_one_question_for_all_runs_and_the_next_five_seconds_later(monkeypatch):
    """Without a Slurm."""
    root, asked, now = store.runs_root(), [], [1000.0]
    for _ in range(3):
        folder = store.create(root, "training", "job", {})
        slurm._enter(folder)
        store.write_status(folder, state="queued", job={"id": "7"}, queue={"host": "slurm"})
    monkeypatch.setattr(slurm, "_ask", lambda *command: asked.append(command[0]) or "7|PENDING|Priority")
    monkeypatch.setattr(slurm, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for seconds, questions in ((0.0, 1), (4.9, 1), (0.2, 2)):
        now[0] += seconds
        assert slurm.look(root) is None and asked == ["squeue"] * questions
    assert all("other jobs come first" in _reason(folder) for folder in store.listing(root))


def test_settings_of_the_site_stand_under_those_of_the_flags(tmp_path):
    (tmp_path / slurm.DEFAULTS).write_text("partition: long\ngpus: 2\ntime_limit: 1-00:00:00\n")
    asked = slurm.settings({"gpus": 4}, tmp_path)
    assert (asked.partition, asked.gpus, asked.minutes) == ("long", 4, 24 * 60)
    for text, minutes in (("90", 90), ("2:00:00", 120), ("90:30", 91), ("1-2:00", 26 * 60)):
        assert slurm.settings({"time_limit": text}, tmp_path).minutes == minutes
    for wrong in ({"time_limit": "soon"}, {"gpus": -1}, {"colour": "red"}):
        with pytest.raises(RunError, match="partition gpu"):
            slurm.settings(wrong, tmp_path)


@pytest.mark.parametrize(
    ("state", "squeue", "expected"),
    [
        ("queued", "7|PENDING|Resources", "queued"),
        ("queued", "7|CANCELLED|None", "cancelled"),
        ("queued", "", "cancelled"),
        ("running", "7|TIMEOUT|TimeLimit", "failed"),
        ("running", "7|OUT_OF_MEMORY|OutOfMemory", "failed"),
        ("running", "7|NODE_FAIL|None", "failed"),
        ("running", "7|COMPLETED|None", "failed"),
        ("running", "7|RUNNING|None", "running"),
        ("done", "7|COMPLETED|None", "done"),
    ],
)
def test_what_slurm_says_becomes_the_state_and_the_cause_of_a_run(state, squeue, expected, monkeypatch):
    """Without a Slurm: of its answers."""
    root = store.runs_root()
    folder = store.create(root, "training", "job", {})
    slurm._enter(folder)
    store.write_status(folder, state=state, job={"id": "7"}, queue={"host": "slurm"})
    monkeypatch.setattr(slurm, "_ask", lambda *_: squeue)
    assert slurm.look(root, every=0) is None
    status = store.read_status(folder)
    assert status["state"] == expected
    over = expected in store.FINAL
    assert over is not bool(list((root / ".queue" / "slurm").iterdir())) or state == "done"
    if expected == "failed":
        kinds = {"TIMEOUT": "slurm-timeout", "OUT_OF_MEMORY": "out-of-memory", "NODE_FAIL": "slurm-node"}
        assert status["error"]["kind"] == kinds.get(squeue.split("|")[1], "slurm-unsaid")
    if squeue.endswith("Resources"):
        assert "waits for free nodes" in str(slurm.reason_words(status))


def test_found_is_whether_there_is_an_sbatch():
    assert slurm.found() is (shutil.which("sbatch") is not None)
