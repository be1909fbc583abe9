"""The runs on the command line, as a person meets them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kvlab.cli import main
from kvlab.runs import locks, process, run_queue, store, training
from kvlab.runs.history import History
from kvlab.web.training import words
from tests.trainers import FAKE, SOON, launch, nothing_outlives, state, wait_for, wait_for_phase, wait_until_idle
from tests.waiting import wait_until


@pytest.fixture
def root(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(run_queue, "TRAINER", FAKE)
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def nothing_is_left_over(tmp_path: Path):
    with nothing_outlives(tmp_path / "runs"):
        yield


def runs(*arguments: str) -> int:
    return main.main(["runs", *arguments])


def test_a_run_from_the_queue_to_its_end(root, capsys):
    assert runs("list") == 0 and "No runs in" in capsys.readouterr().out
    first, second = launch(root, hang="training"), launch(root, steps=5)
    wait_for_phase(first, "training")
    metrics = first / store.METRICS  # not there before the first step
    wait_until(lambda: metrics.exists() and "1.0" in metrics.read_text(), 60, "the last step before it hangs")
    assert runs("list") == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0].startswith(second.name) and "waiting, 1 before it" in listed[0]
    assert listed[1].startswith(first.name) and "running (training " in listed[1]
    assert runs("show", first.name[-4:]) == 0
    shown = capsys.readouterr().out
    assert "loss 1.0000, at first 3.0000" in shown and "peak memory of the process: 3 B" in shown
    assert runs("stop", second.name) == 0 and "out of the queue" in capsys.readouterr().out
    assert runs("stop", first.name) == 0
    said = capsys.readouterr().out
    assert "finishes its step and saves" in said and "process is gone: stopped" in said
    assert not process.exists(*(store.read_status(first)[key] for key in ("pid", "process_started")))
    assert runs("resume", second.name) == 0 and "Queued." in capsys.readouterr().out
    wait_until_idle(root)
    assert state(second) == "done"


def test_a_stopped_process_is_said_to_be_silent(root, capsys):
    folder = launch(root, hang="training")
    pid = wait_for_phase(folder, "training")
    assert runs("list") == 0 and "no update" not in capsys.readouterr().out
    os.kill(pid, signal.SIGSTOP)
    late = {name: store.timestamp(datetime.now(UTC) - timedelta(minutes=1)) for name in ("heartbeat", "updated")}
    store.write_status(folder, **late, next_heartbeat_due=late["heartbeat"])  # as it is after a minute
    for command in (("list",), ("show", folder.name)):
        assert runs(*command) == 0
        said = capsys.readouterr().out
        assert "running (training " in said and re.search(r", no update for 6\d s: a long step, or stuck", said)
    (row,) = History(root).rows()
    assert row.overdue and words.state(row) == "running: no update, perhaps stuck"
    assert runs("kill", folder.name) == 0


def test_the_next_look_makes_the_report_that_a_killed_process_has_not_written(root, capsys):
    done, never = launch(root), store.create(root, "training", "x", {})
    wait_for(done, "done")  # the fake trainer ends without a report, as one killed meanwhile does
    wait_until_idle(root)
    store.write_status(never, state="cancelled")  # taken out of the queue
    with locks.held(done / run_queue.RUN_LOCK):  # as while its process still writes
        assert runs("list") == 0 and not list(done.glob("report.*"))
    for look in (("list",), ("show", done.name)):
        assert runs(*look) == 0
        assert (
            "State: finished." in (done / "report.md").read_text() and "</html>" in (done / "report.html").read_text()
        )
        (done / "report.html").unlink()
    assert runs("list") == 0 and (done / "report.html").exists()
    assert json.loads((done / "gathered.json").read_text())["run"]["state"] == "done"
    assert sorted(path.name for path in never.iterdir()) == ["config.yaml", "status.json"]


def test_kill_and_delete_confirm(root, capsys, monkeypatch):
    folder = launch(root, hang="training", stubborn=True)
    wait_for_phase(folder, "training")
    assert runs("delete", folder.name, "--yes") == 2 and "stop it first" in capsys.readouterr().err
    assert runs("kill", folder.name) == 0 and "are gone" in capsys.readouterr().out
    wait_until_idle(root)
    assert runs("delete", folder.name) == 2 and "--yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "")
    assert runs("delete", folder.name) == 1 and folder.exists()
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert runs("delete", folder.name) == 0 and not folder.exists()
    assert runs("show", folder.name) == 2 and "run-not-found" not in capsys.readouterr().out


def test_list_continues_a_queue_whose_keeper_was_killed(root, capsys):
    first, second = launch(root, hang="training"), launch(root, steps=1)
    wait_for_phase(first, "training")
    os.kill(run_queue.keeper(root), signal.SIGKILL)
    wait_until(lambda: run_queue.keeper(root) is None, SOON, "the keeper's death")
    training.stop(first)
    wait_for(first, "cancelled")
    assert state(second) == "queued" and run_queue.keeper(root) is None
    assert runs("list") == 0
    wait_until_idle(root)
    assert state(second) == "done"


def test_a_queue_that_cannot_be_continued_can_still_be_looked_at(root, capsys, monkeypatch):
    folder = store.create(root, "training", "x", {})
    run_queue.add(folder, "cpu")
    monkeypatch.setattr(run_queue, "KEEPER", ("/no/such/program",))
    monkeypatch.setattr(
        run_queue.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(OSError(12, "Cannot allocate"))
    )
    assert runs("list") == 0
    printed = capsys.readouterr()
    assert folder.name in printed.out and "run queue is not moving" in printed.err


@pytest.mark.parametrize("text", ["2", "", "../..", "nothing", "20"])
def test_an_id_must_name_one_run(root, capsys, text):
    for _ in range(2):
        store.create(root, "training", "x", {})
    assert runs("show", text) == 2
    assert "runs list" in capsys.readouterr().err


def test_the_report_goes_to_standard_output(root, capsys):
    folder = launch(root, steps=2)
    wait_until_idle(root)
    assert runs("report", folder.name[-4:]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"# Validation run `{folder.name}`") and "State: finished" in printed
    assert runs("report", folder.name, "--json") == 0
    assert json.loads(capsys.readouterr().out)["run"]["steps_done"] == 2


def test_the_report_in_every_form_and_language(root, capsys, tmp_path):
    folder = store.create(root, "training", "x", {"max_steps": 3})
    store.write_status(folder, state="failed")
    (folder / "report.json").write_text('{"before": {"ce": 2.5}}')
    assert runs("report", folder.name, "--language", "zh") == 0
    assert capsys.readouterr().out.startswith(f"# 验证训练 `{folder.name}`")
    assert runs("report", folder.name, "--format", "html", "--language", "zh") == 0
    assert capsys.readouterr().out.startswith('<!doctype html><html lang="zh-Hans">')
    assert runs("report", folder.name, "--format", "all", "--out", str(tmp_path / "out")) == 0
    assert capsys.readouterr().out.count("Written: ") == 3
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["run"]["id"] == folder.name and written["before"] == {"ce": 2.5}
    for _ in range(2):  # what the run told itself is still there, and read, after its report stands beside it
        assert runs("report", folder.name, "--format", "all") == 0
        assert json.loads((folder / "report.json").read_text()) == {"before": {"ce": 2.5}}
        assert json.loads((folder / "gathered.json").read_text())["before"] == {"ce": 2.5}
    assert (folder / "report.html").stat().st_size > 10**6
    assert (folder / "report.md").read_text().startswith("# Validation run")


def test_a_reader_that_has_seen_enough_is_no_error(root):
    store.create(root, "training", "x", {})
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "kvlab", "runs", "list"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=SOON, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.model
def test_the_seven_checks_can_be_run_for_the_report(root, capsys):
    folder = store.create(root, "training", "x", {})
    store.write_status(folder, state="failed")
    assert runs("report", folder.name, "--checks") == 0
    assert "| overall | ✓ passed |" in capsys.readouterr().out
