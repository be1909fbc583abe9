"""The warm worker and its launcher, with real processes that are really killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from kvlab.errors import KvlabError, RunError
from kvlab.runs import monitor, process, store, worker_client, worker_process
from tests.spoken import spoken
from tests.waiting import wait_until

FAKE = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))
SOON = 30  # seconds; the machine may be busy


@pytest.fixture(autouse=True)
def nothing_is_left_over():
    me = psutil.Process()
    before = set(me.children(recursive=True))
    yield
    wait_until(lambda: not set(me.children(recursive=True)) - before, SOON, "all child processes to be gone")


@pytest.fixture
def worker(tmp_path: Path):
    worker = worker_client.Worker(FAKE, tmp_path / "runs" / "worker.log")
    yield worker
    worker.stop()


@pytest.fixture
def make(tmp_path: Path):
    def make_run(do: str) -> Path:
        return store.create(tmp_path / "runs", "analysis", do, {"do": do})

    return make_run


def state(folder: Path) -> str:
    return monitor.judge(store.read_status(folder))


def error(folder: Path) -> dict[str, str]:
    return spoken(store.read_status(folder)["error"])


def wait_for_end(folder: Path) -> str:
    """Waits for the record: a killed worker's run is "lost" for the moment until its death is noticed."""
    return wait_until(lambda: state(folder) in store.FINAL and state(folder), SOON, f"{folder.name} to end")


def wait_for_file(path: Path) -> str:
    wait_until(path.exists, SOON, path.name)
    return path.read_text()


def wait_for_phase(folder: Path, phase: str) -> None:
    wait_until(lambda: store.read_status(folder).get("phase") == phase, SOON, f"the phase {phase}")


def test_an_analysis_runs_to_its_end(worker, make):
    folder = make("finish")
    worker.submit(folder)
    assert wait_for_end(folder) == "done"
    status = store.read_status(folder)
    assert (status["phase"], status["done"], status["total"]) == ("thinking", 2, 2)
    assert status["pid"] == worker.pid != os.getpid()
    assert status["elapsed_s"] >= 0 and status["error"] is None
    assert (folder / "alignment.json").exists()


def test_questions_are_answered_while_an_analysis_computes(worker, make):
    folder = make("obey")
    worker.submit(folder)
    wait_for_phase(folder, "working")
    assert worker.ask("add", SOON, a=2, b=3) == 5
    assert worker.ask("ping", SOON) == {"ready": True, "pid": worker.pid, "torch": None}
    assert state(folder) == "running"
    assert worker.cancel(folder) == "cancelled"


def test_ping_and_cancel_do_not_wait_for_the_imports(worker, make, tmp_path: Path, monkeypatch):
    hold = tmp_path / "hold"
    hold.touch()
    monkeypatch.setenv("KVLAB_TEST_HOLD", str(hold))
    folder, other = make("finish"), make("finish")
    worker.submit(folder)
    worker.submit(other)
    assert worker.ask("ping", SOON)["ready"] is False
    with pytest.raises(RunError) as caught:
        worker.ask("add", 0.05, a=1, b=1)
    assert caught.value.kind == "worker-timeout"
    pid = worker.pid
    assert worker.cancel(folder) == "cancelled"
    hold.unlink()
    assert wait_for_end(other) == "done"
    assert worker.ask("ping", SOON) == {"ready": True, "pid": pid, "torch": None}
    assert not (folder / "picked-up").exists()


def test_who_draws_a_page_learns_whether_the_worker_is_ready_and_waits_for_none_that_is_stuck(worker):
    worker.start()
    first = worker.pid
    os.kill(first, signal.SIGSTOP)
    assert not any(worker.ready(0) for _ in range(5_000))  # as many questions would fill the pipe, and block
    os.kill(first, signal.SIGCONT)
    wait_until(worker.ready, SOON, "the worker to be ready")
    os.kill(first, signal.SIGSTOP)
    assert worker.ready(0)  # it has its imports, whatever it does now
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: worker.pid != first, SOON, "the end of the worker")
    wait_until(worker.ready, SOON, "the next worker to be ready")


def test_a_warm_worker_takes_up_every_analysis_in_the_process_that_has_its_imports(worker, make):
    pid = worker.ask("ping", SOON)["pid"]
    for _ in range(3):
        folder = make("finish")
        worker.submit(folder)
        assert wait_for_end(folder) == "done"
        assert store.read_status(folder)["pid"] == pid
    assert worker.ask("ping", SOON)["pid"] == pid


@pytest.mark.parametrize(
    ("do", "kind", "words"),
    [
        ("refuse", "too-few-rows", "3 rows"),
        ("divide", "unexpected", "ZeroDivisionError: division by zero"),
        ("leave", "unexpected", "SystemExit"),
        ("run_out_of_memory", "out-of-memory", "no 80 GiB here"),
        ("run_out_of_gpu_memory", "out-of-memory", "Tried to allocate"),
    ],
)
def test_a_failure_is_in_the_record_with_advice_and_the_worker_lives_on(worker, make, do, kind, words):
    folder = make(do)
    worker.submit(folder)
    assert wait_for_end(folder) == "failed"
    assert error(folder)["kind"] == kind and words in error(folder)["found"]
    assert error(folder)["remedy"] and "more lines" not in error(folder)["found"]
    assert (folder / "worker.log").exists() == (do != "refuse")
    if do == "run_out_of_gpu_memory":  # what was being allocated, and what makes just that smaller
        assert "fitting and scoring heads, for the sums of one problem" in error(folder)["expected"]
        assert "--layers depth" in error(folder)["remedy"] and "batch" not in error(folder)["remedy"]
    if do == "divide":
        assert "1 / 0" in (folder / "worker.log").read_text()
    pid = worker.pid
    after = make("finish")
    worker.submit(after)
    assert wait_for_end(after) == "done"
    assert worker.pid == pid


def test_an_analysis_without_a_folder_fails_without_harm(worker, make, tmp_path: Path):
    folder = make("finish")
    folder.rename(tmp_path / "moved")
    with pytest.raises(RunError) as caught:
        worker.submit(folder)
    assert caught.value.kind == "runs-unwritable"
    assert worker.ask("add", SOON, a=1, b=1) == 2


def test_prints_do_not_corrupt_the_protocol(worker, make, tmp_path: Path):
    folder = make("print_much")
    worker.submit(folder)
    assert wait_for_end(folder) == "done", error(folder)
    assert worker.ask("add", SOON, a=1, b=1) == 2
    log = (tmp_path / "runs" / "worker.log").read_text()
    assert "a library prints" in log and "C code" in log and "child process" in log and "forged" in log


def test_phases_are_written_at_once_and_steps_at_most_four_times_a_second(worker, make):
    folder = make("change_phases")
    worker.submit(folder)
    assert wait_for_end(folder) == "done"
    one, two, three, versions = (folder / "seen").read_text().split()
    assert (one, two, three) == ("one", "two", "three")
    assert 2 <= int(versions) <= 6


def test_cancel_asks_first(worker, make):
    folder = make("obey")
    worker.submit(folder)
    wait_for_phase(folder, "working")
    pid = worker.pid
    assert worker.cancel(folder) == "cancelled"
    assert store.read_status(folder)["state"] == "cancelled"
    assert worker.pid == pid and worker.ask("add", SOON, a=1, b=1) == 2


def test_cancel_takes_a_waiting_analysis_out_of_the_queue(worker, make):
    first, second, third = make("obey"), make("obey"), make("finish")
    for folder in (first, second, third):
        worker.submit(folder)
    wait_for_phase(first, "working")
    assert state(second) == "queued"
    assert worker.cancel(second) == "cancelled"
    assert state(first) == "running"
    assert worker.cancel(first) == "cancelled"
    assert wait_for_end(third) == "done"
    assert not (second / "picked-up").exists()


def test_cancel_kills_what_does_not_listen_and_the_queue_goes_on(worker, make):
    deaf, waiting = make("ignore_everything"), make("finish")
    worker.submit(deaf)
    worker.submit(waiting)
    child = int(wait_for_file(deaf / "child"))
    pid = worker.pid
    assert worker.cancel(deaf, grace_s=0.1) == "cancelled"
    assert store.read_status(deaf)["state"] == "cancelled"
    assert not psutil.pid_exists(pid)
    wait_until(lambda: not process.group_members(pid) and not alive(child), SOON, "the grandchild to be gone")
    assert wait_for_end(waiting) == "done"
    assert worker.pid != pid


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_cancel_of_what_is_over_or_elsewhere(worker, make):
    folder = make("finish")
    worker.submit(folder)
    wait_for_end(folder)
    assert worker.cancel(folder) == "done"
    unsubmitted = make("finish")
    assert worker.cancel(unsubmitted) == "cancelled"
    elsewhere = make("finish")
    store.write_status(elsewhere, state="running", **process.identity())
    with pytest.raises(RunError) as caught:
        worker.cancel(elsewhere)
    assert caught.value.kind == "run-elsewhere"
    assert state(elsewhere) == "running"


def test_a_killed_worker_fails_its_run_in_words_and_the_next_runs_work(worker, make):
    current, waiting = make("obey"), make("finish")
    worker.submit(current)
    worker.submit(waiting)
    wait_for_phase(current, "working")
    pid = worker.pid
    os.kill(pid, signal.SIGKILL)
    after = make("finish")
    worker.submit(after)  # at once: the death may not have been noticed yet
    assert wait_for_end(current) == "failed"
    assert error(current)["kind"] == "worker-died"
    assert "signal 9 (SIGKILL); the system may have been out of memory" in error(current)["found"]
    assert [wait_for_end(folder) for folder in (waiting, after)] == ["done", "done"]
    assert worker.pid != pid


def test_what_is_cancelled_between_two_workers_stays_cancelled(worker, make, monkeypatch):
    current, waiting, after = make("obey"), make("finish"), make("finish")
    resubmit, ends = worker._resubmit, []

    def resubmit_late(folders):
        ends.extend(worker.cancel(folder) for folder in folders)
        resubmit(folders)
        worker.submit(after)

    monkeypatch.setattr(worker, "_resubmit", resubmit_late)
    worker.submit(current)
    worker.submit(waiting)
    wait_for_phase(current, "working")
    os.kill(worker.pid, signal.SIGKILL)
    assert wait_for_end(after) == "done"  # computed behind the other, had that been queued again
    assert ends == ["cancelled"] and state(waiting) == "cancelled" and not (waiting / "picked-up").exists()


def test_a_cancellation_outlives_the_worker_that_was_asked(worker, make, monkeypatch):
    """Killed, for another analysis, before it could answer."""
    current, waiting = make("obey"), make("obey")
    send, asked = worker_process.WorkerProcess.send, []

    def send_and_die(self, call, args, folder=None):
        answer = send(self, call, args, folder)
        if call == "cancel" and not asked:
            asked.append(self.pid)
            os.kill(self.pid, signal.SIGKILL)
        return answer

    monkeypatch.setattr(worker_process.WorkerProcess, "send", send_and_die)
    worker.submit(current)
    worker.submit(waiting)
    wait_for_phase(current, "working")
    os.kill(worker.pid, signal.SIGSTOP)
    assert worker.cancel(waiting) == "cancelled"
    assert wait_for_end(current) == "failed" and len(asked) == 1


def test_the_reason_of_a_death_can_be_awaited(worker, make):
    folder = make("obey")
    worker.submit(folder)
    wait_for_phase(folder, "working")
    pid = worker.pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: state(folder) != "running", SOON, "the death to be seen")
    worker.await_record(pid)
    assert (state(folder), error(folder)["kind"]) == ("failed", "worker-died")


def test_a_worker_that_dies_before_it_computes_is_not_started_for_ever(tmp_path: Path, make):
    starts = tmp_path / "starts"
    script = f"echo started >> {starts}; read request; echo no torch here >&2; exit 3"
    worker = worker_client.Worker(("sh", "-c", script), tmp_path / "worker.log")
    folders = [make("finish"), make("finish")]
    for folder in folders:
        worker.submit(folder)
        assert wait_for_end(folder) == "failed"
        assert error(folder)["kind"] == "worker-died"
        assert "exit code 3" in error(folder)["found"] and "no torch here" in error(folder)["found"]
    wait_until(lambda: not worker.alive, SOON, "the end to be noticed")
    assert starts.read_text().split() == ["started"] * 2


def test_a_crash_is_reported_with_its_exit_code_and_last_words(worker, make):
    folder = make("crash")
    worker.submit(folder)
    assert wait_for_end(folder) == "failed"
    assert error(folder)["kind"] == "worker-died"
    assert "exit code 7" in error(folder)["found"] and "the last words of a library" in error(folder)["found"]
    wait_until(lambda: not worker.alive, SOON, "the end to be noticed")


def test_a_fault_in_a_librarys_c_code_is_reported_with_where_it_was(worker, make):
    folder = make("fault")
    worker.submit(folder)
    assert wait_for_end(folder) == "failed"
    found = error(folder)["found"]
    assert "signal 11 (SIGSEGV)" in found and "Segmentation fault" in found and "fake_worker.py" in found
    assert "chatter" not in found and len(found) < 2500


def test_a_question_to_a_dying_worker_raises(worker):
    pid = worker.ask("ping", SOON)["pid"]
    os.kill(pid, signal.SIGSTOP)  # so that it cannot answer before it dies
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -TERM {pid}; kill -CONT {pid}"])
    with pytest.raises(RunError) as caught:
        worker.ask("add", SOON, a=1, b=1)
    killer.wait()
    assert caught.value.kind == "worker-died" and "signal 15 (SIGTERM)" in caught.value.found
    assert worker.ask("add", SOON, a=1, b=1) == 2


def test_a_broken_device_ends_the_worker_but_not_the_queue(worker, make):
    broken, waiting = make("break_the_device"), make("finish")
    worker.submit(broken)
    worker.submit(waiting)
    assert wait_for_end(broken) == "failed"
    assert error(broken)["kind"] == "device-error"
    assert wait_for_end(waiting) == "done"
    assert store.read_status(waiting)["pid"] != store.read_status(broken)["pid"]


def test_questions_that_fail_raise_what_they_said(worker):
    for call, kind in (("broken_question", "unexpected"), ("unspeakable", "unexpected"), ("nonsense", "call-unknown")):
        with pytest.raises(KvlabError) as caught:
            worker.ask(call, SOON)
        assert caught.value.kind == kind
    with pytest.raises(KvlabError) as caught:
        worker.ask("add", SOON, a=1)
    assert caught.value.kind == "unexpected" and "TypeError" in caught.value.found
    assert worker.ask("add", SOON, a=1, b=2) == 3


def test_stop_ends_everything_and_the_worker_can_start_again(worker, make):
    current, waiting = make("obey"), make("finish")
    worker.submit(current)
    worker.submit(waiting)
    wait_for_phase(current, "working")
    pid = worker.pid
    worker.stop()
    assert not worker.alive and worker.pid is None and not psutil.pid_exists(pid)
    for folder in (current, waiting):
        assert store.read_status(folder)["state"] == "failed"
        assert error(folder)["kind"] == "worker-stopped"
    worker.stop()
    after = make("finish")
    worker.submit(after)
    assert wait_for_end(after) == "done"


def test_stop_kills_what_does_not_listen(worker, make):
    folder = make("ignore_everything")
    worker.submit(folder)
    child = int(wait_for_file(folder / "child"))
    pid = worker.pid
    worker.stop(grace_s=0.1)
    assert not psutil.pid_exists(pid)
    wait_until(lambda: not alive(child), SOON, "the grandchild to be gone")
    assert error(folder)["kind"] == "worker-stopped"


def test_a_hanging_question_does_not_keep_analyses_from_running(worker, make):
    with pytest.raises(RunError) as caught:
        worker.ask("hang_question", 0.05)
    assert caught.value.kind == "worker-timeout"
    folder = make("finish")
    worker.submit(folder)
    assert wait_for_end(folder) == "done"


@pytest.mark.parametrize("do", ["obey", "ignore_everything"])
def test_the_end_of_the_web_server_ends_the_worker(make, do: str, tmp_path: Path):
    """A web server that is killed cannot say goodbye: its worker sees the end of stdin, as here."""
    folder = make(do)
    with subprocess.Popen(FAKE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=launch_env()) as started:
        request = {"id": 1, "call": "analyse", "args": {"folder": str(folder)}}
        started.stdin.write(json.dumps(request).encode() + b"\n")
        started.stdin.flush()
        wait_for_file(folder / ("child" if do == "ignore_everything" else "picked-up"))
        started.stdin.close()
        assert started.wait(SOON) == 0
    assert store.read_status(folder)["state"] == "failed"
    assert error(folder)["kind"] == "worker-stopped"
    if do == "ignore_everything":
        os.kill(int((folder / "child").read_text()), signal.SIGKILL)


@pytest.mark.parametrize("end", ["killed", "returns"])
def test_a_web_server_that_ends_leaves_no_worker_behind(make, end: str, tmp_path: Path):
    folder = make("obey")
    server = f"""
import sys, time
from pathlib import Path
from kvlab.runs import worker_client
worker = worker_client.Worker({FAKE!r}, Path({str(tmp_path / "worker.log")!r}))
worker.submit(Path({str(folder)!r}))
sys.stdin.readline()
"""
    with subprocess.Popen((sys.executable, "-c", server), stdin=subprocess.PIPE, env=launch_env()) as started:
        wait_for_phase(folder, "working")
        pid = store.read_status(folder)["pid"]
        assert pid != started.pid and alive(pid)
        if end == "killed":
            started.kill()
    wait_until(lambda: not alive(pid), SOON, "the worker to be gone")
    assert store.read_status(folder)["state"] == "failed"
    assert error(folder)["kind"] == "worker-stopped"


def launch_env() -> dict[str, str]:
    from kvlab.runs.worker_process import environment

    return environment()


def test_garbage_on_stdin_is_answered_and_survived():
    with subprocess.Popen(FAKE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=launch_env()) as started:
        lines = [b"nonsense", b"\xff\xfe", b"[1]", b"{}", b'{"id": 1, "call": "analyse", "args": {}}']
        lines.append(b'{"id": 2, "call": "cancel", "args": {"run": "/nowhere"}}')
        lines.append(b'{"id": 3, "call": "ping"}')
        out, _ = started.communicate(b"\n".join(lines) + b"\n", timeout=SOON)
    replies = [json.loads(line) for line in out.splitlines()]
    assert [(reply["id"], reply["ok"]) for reply in replies] == [(None, False)] * 5 + [(2, True), (3, True)]
    assert all(reply["error"]["remedy"] for reply in replies[:5])
    assert replies[5]["result"] == "nowhere"


def test_a_full_disk_at_the_end_is_still_seen_by_the_page(worker, make, monkeypatch):
    """The worker cannot record the end; the web side does, when it can."""
    folder = make("finish")
    worker.start()
    blocker = folder / f".status.json.{worker.pid}.tmp"
    blocker.mkdir()  # the worker's own draft cannot be made; the web server's has another name
    worker.submit(folder)
    assert wait_for_end(folder) == "failed"
    assert error(folder)["kind"] == "runs-unwritable"


def test_the_log_begins_anew_when_it_has_grown_large(worker, tmp_path: Path, monkeypatch):
    from kvlab.runs import worker_process

    monkeypatch.setattr(worker_process, "LOG_LIMIT", 10)
    log = tmp_path / "runs" / "worker.log"
    log.parent.mkdir()
    log.write_text("words of an earlier worker")
    worker.start()
    assert log.read_text() == "" and (log.parent / "worker.old.log").read_text() == "words of an earlier worker"


def test_a_worker_that_cannot_start_is_reported(tmp_path: Path, make):
    worker = worker_client.Worker((str(tmp_path / "no-such-python"),), tmp_path / "worker.log")
    folder = make("finish")
    with pytest.raises(RunError) as caught:
        worker.submit(folder)
    assert caught.value.kind == "worker-unstartable"
    assert error(folder)["kind"] == "worker-unstartable"
    assert not worker.alive
    (tmp_path / "file").touch()
    with pytest.raises(RunError) as caught:
        worker_client.Worker(FAKE, tmp_path / "file" / "worker.log").start()
    assert caught.value.kind == "runs-unwritable"


def test_the_real_worker_answers_before_its_imports_and_ends_during_them(tmp_path: Path):
    worker = worker_client.Worker(log=tmp_path / "worker.log")
    try:
        answer = worker.ask("ping", SOON)
        assert answer["pid"] == worker.pid
    finally:
        worker.stop()
    assert not worker.alive


def test_a_worker_behind_srun_says_where_its_allocation_is(tmp_path, monkeypatch):
    srun, go = tmp_path / "srun", tmp_path / "go"
    srun.write_text(
        "#!/bin/sh\necho 'srun: job 7 queued and waiting for resources' >&2\n"
        f"while [ ! -e {go} ]; do sleep 0.05; done\n"
        "echo 'srun: job 7 has been allocated resources' >&2\nexec \"$@\"\n"
    )
    srun.chmod(0o755)
    monkeypatch.setenv(worker_client.LAUNCHER, f"{srun}")
    monkeypatch.setattr(worker_client, "COMMAND", FAKE)
    worker = worker_client.Worker(log=tmp_path / "runs" / "worker.log")
    assert worker.allocation is None
    worker.start()
    wait_until(lambda: worker.allocation == ("waiting", "7"), 30, "the queue")
    go.touch()
    wait_until(lambda: worker.allocation == ("here", "7"), 30, "the allocation")
    wait_until(worker.ready, 30, "the worker")
    worker.stop()
    assert worker.allocation == ("ended", "7")
