"""A run is judged by its process, not by what its status claims."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from kvlab.runs import monitor, process, store
from tests.spoken import spoken
from tests.waiting import wait_until

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def iso(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat()


@pytest.fixture
def child():
    started = subprocess.Popen(["sleep", "1000"])
    yield started
    started.kill()
    started.wait()


def running(pid: int | None = None) -> dict:
    return {"state": "running", **process.identity(pid)}


def test_a_live_process_is_believed(child):
    assert monitor.judge(running()) == "running"
    assert monitor.judge(running(child.pid)) == "running"
    assert monitor.judge({**running(child.pid), "state": "queued"}) == "queued"


def test_a_killed_process_is_lost_as_zombie_and_after(child):
    status = running(child.pid)
    child.send_signal(signal.SIGKILL)
    wait_until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, 10, "the zombie")
    os.kill(child.pid, 0)  # the system itself still calls it alive
    assert monitor.judge(status) == "lost"
    child.wait()
    assert monitor.judge(status) == "lost"


def test_another_process_with_the_same_pid_is_not_it(child):
    status = running(child.pid)
    assert monitor.judge({**status, "process_started": status["process_started"] - 60}) == "lost"
    assert monitor.judge({**status, "process_started": status["process_started"] + 60}) == "lost"


@pytest.mark.parametrize("state", store.FINAL)
def test_an_end_is_final_whatever_the_process_does(state: str):
    assert monitor.judge({**running(), "state": state}) == state
    assert monitor.judge({"state": state}) == state


@pytest.mark.parametrize("pid", [None, 0, -1, 2**40, "17", 1.5, True])
@pytest.mark.parametrize("started", [None, "yesterday"])
def test_a_process_that_cannot_be_one_is_lost(pid, started):
    status = {"state": "running", "host": socket.gethostname(), "pid": pid, "process_started": started}
    assert monitor.judge(status) == "lost"


@pytest.mark.parametrize("status", [{}, {"state": None}, {"state": "lost"}, {"state": 3}, {"state": ["done"]}])
def test_a_status_without_a_known_state_is_lost(status: dict):
    assert monitor.judge(status) == "lost"


def test_another_host_is_judged_by_its_heartbeat_with_slack():
    status = {"state": "running", "host": "another-node", "pid": os.getpid(), "process_started": 0.0}
    slack = monitor.SLACK.total_seconds()
    assert monitor.judge({**status, "next_heartbeat_due": iso(10)}, NOW) == "running"
    assert monitor.judge({**status, "next_heartbeat_due": iso(1 - slack)}, NOW) == "running"
    assert monitor.judge({**status, "next_heartbeat_due": iso(-1 - slack)}, NOW) == "lost"
    assert monitor.judge({**status, "next_heartbeat_due": "soon"}, NOW) == "lost"
    assert monitor.judge(status, NOW) == "lost"


def test_a_queued_run_that_nobody_took_waits_until_its_deadline():
    assert monitor.judge({"state": "queued"}, NOW) == "queued"
    assert monitor.judge({"state": "queued", "next_heartbeat_due": iso(1)}, NOW) == "queued"
    assert monitor.judge({"state": "queued", "next_heartbeat_due": iso(-1)}, NOW) == "lost"


def test_a_new_analysis_is_queued_and_lost_when_left_behind(tmp_path: Path):
    status = store.read_status(store.create(tmp_path, "analysis", "x", {}))
    assert monitor.judge(status) == "queued"
    assert monitor.judge(status, datetime.now(UTC) + timedelta(hours=1)) == "lost"
    training = store.read_status(store.create(tmp_path, "training", "x", {}))
    assert monitor.judge(training, datetime.now(UTC) + timedelta(days=30)) == "queued"


def test_a_view_holds_what_a_page_needs(tmp_path: Path):
    folder = store.create(tmp_path, "analysis", "我的 run", {"teacher": "demo/teacher"})
    store.write_status(
        folder,
        **running(),
        phase="reading",
        done=25,
        total=100,
        started=iso(-60),
        phase_started=iso(-50),
        elapsed_s=40.0,
        heartbeat=iso(-20),
        next_heartbeat_due=iso(-5),
    )
    (folder / "report.html").touch()
    (folder / ".hidden").touch()
    (folder / "outside").symlink_to("/etc/passwd")
    (folder / "checkpoint").mkdir()
    view = monitor.view(folder, NOW)
    assert (view.id, view.kind, view.name, view.state, view.active) == (
        folder.name,
        "analysis",
        "我的 run",
        "running",
        True,
    )
    assert (view.phase, view.done, view.total, view.share) == ("reading", 25, 100, 0.25)
    assert (view.elapsed_s, view.phase_remaining_s, view.silent_s, view.overdue) == (60.0, 150.0, 20.0, True)
    assert view.config == {"teacher": "demo/teacher"}
    assert view.files == ("config.yaml", "report.html", "status.json")
    assert view.error is None and view.pid == os.getpid()


def test_the_time_of_an_ended_run_stands_still(tmp_path: Path):
    folder = store.create(tmp_path, "analysis", "x", {})
    error = {"kind": "k", "expected": "e", "found": "f", "remedy": "r"}
    store.write_status(folder, state="failed", started=iso(-3600), elapsed_s=12.5, error=error)
    view = monitor.view(folder, NOW)
    assert (view.elapsed_s, view.phase_remaining_s, view.silent_s, view.overdue) == (12.5, None, None, False)
    assert view.error == error and not view.active


def test_a_lost_run_says_what_to_do(tmp_path: Path, child):
    folder = store.create(tmp_path, "analysis", "x", {})
    store.write_status(folder, **running(child.pid), heartbeat=iso(0))
    child.kill()
    child.wait()
    view = monitor.view(folder)
    assert view.state == "lost"
    assert view.error["kind"] == "run-lost" and str(child.pid) in spoken(view.error)["expected"]
    assert set(view.error) == {"kind", "expected", "found", "remedy"}


@pytest.mark.parametrize(
    "status",
    [
        b"",
        b"nonsense",
        b'{"state": "running", "done": "many", "total": -3, "started": 5, "elapsed_s": "x", "error": 7, "phase": []}',
        b'{"state": "done", "name": 7, "kind": null, "elapsed_s": null, "pid": "1", "error": "text"}',
        b'{"state": "running", "host": 3, "pid": {}, "next_heartbeat_due": "2026-13-45", "phase_started": "x"}',
    ],
)
def test_damaged_folders_can_be_looked_at(tmp_path: Path, status: bytes):
    folder = tmp_path / "20260131T120000.000Z-x-0000"
    folder.mkdir()
    (folder / "status.json").write_bytes(status)
    (folder / "config.yaml").write_bytes(b"{{{")
    view = monitor.view(folder)
    assert view.state in ("lost", "done") and view.config == {}
    assert view.share is None and view.name == folder.name


def test_a_folder_that_is_gone_can_be_looked_at(tmp_path: Path):
    view = monitor.view(tmp_path / "20260131T120000.000Z-x-0000")
    assert view.state == "lost" and view.files == ()


def test_the_web_side_imports_neither_torch_nor_streamlit():
    code = (
        "import sys, kvlab.runs.store, kvlab.runs.monitor, kvlab.runs.worker_client, kvlab.worker;"
        "print([name for name in ('torch', 'transformers', 'streamlit') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_an_ended_process_left_in_its_group_is_ended_but_no_group_with_a_reused_number():
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '1000']).pid, flush=True); sys.stdin.read()"
    leader = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    child = int(leader.stdout.readline())
    identity = process.identity(leader.pid)
    process.end_leftovers(identity["pid"], identity["process_started"])
    assert leader.poll() is None, "it has not ended"
    leader.stdin.close()
    leader.wait()
    leader.stdout.close()
    assert process.group_members(leader.pid) == [child]
    process.end_leftovers(identity["pid"], identity["process_started"])
    assert process.group_members(leader.pid) == []
    other = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    process.end_leftovers(other.pid, process.identity(other.pid)["process_started"] - 60)
    for pid in (None, "1", 1, 0, -1, 2**40):
        process.end_leftovers(pid, 0.0)
    assert other.poll() is None
    other.kill()
    other.wait()


def test_a_launcher_ends_with_the_processes_to_which_it_gave_groups_of_their_own():
    code = "import subprocess as s; print(s.Popen(['sleep', '1000'], start_new_session=True).pid, flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    launcher = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **pipes)
    child = int(launcher.stdout.readline())
    started = process.identity(child)["process_started"]
    assert process.end(launcher.pid) and launcher.wait() == -signal.SIGKILL
    assert not process.exists(child, started)
    launcher.communicate()


def test_a_process_in_a_strangers_group_ends_with_its_children_and_the_group_lives_on():
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '1000']).pid, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code]
    script = subprocess.Popen(["sleep", "1000"], process_group=0)
    member = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=script.pid
    )
    child = int(member.stdout.readline())
    child_started = process.identity(child)["process_started"]
    ended = process.end(member.pid)
    assert member.wait() == -signal.SIGKILL and ended
    assert not process.exists(child, child_started) and script.poll() is None
    assert process.end(member.pid)
    member.stdin.close()
    member.stdout.close()
    script.kill()
    script.wait()


def test_the_work_of_a_resumed_run_counts_from_its_first_start(tmp_path: Path):
    folder = store.create(tmp_path, "training", "x", {})
    ends = [{"elapsed_s": 100.0}, {"started": iso(-900), "updated": iso(-850)}, {"state": "lost"}]  # the second is old
    store.write_status(folder, state="done", started=iso(-30), elapsed_s=30.0, history=ends)
    assert monitor.view(folder, NOW).elapsed_s == pytest.approx(180)
