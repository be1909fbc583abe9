"""Training runs from outside: real processes that are launched, queued, killed, resumed and deleted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from kvlab.errors import RunError
from kvlab.runs import locks, monitor, process, run_queue, store, training
from tests.spoken import spoken
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


def course(root: Path) -> list[list[str]]:
    return [line.split() for line in (root / "course").read_text().splitlines()]


def refused(kind: str, call, *arguments) -> RunError:
    with pytest.raises(RunError) as caught:
        call(*arguments)
    assert caught.value.kind == kind
    return caught.value


def test_a_run_goes_to_its_end_by_itself(root):
    folder = launch(root)
    assert wait_for(folder, "done") == "done"
    status = store.read_status(folder)
    assert status["pid"] not in (None, os.getpid()) and status["phase"] == "reporting"
    assert [r["step"] for r in store.read_lines(folder / "metrics.jsonl").records] == [1, 2, 3]
    wait_until_idle(root)


def test_the_process_is_detached_and_survives_its_launcher(root, tmp_path):
    code = (
        "from pathlib import Path; from kvlab.runs import run_queue, training;"
        f"run_queue.TRAINER = {FAKE!r};"
        f"print(training.launch({{'hang': 'training'}}, 'x', 'cpu', Path({str(root)!r})))"
    )
    server = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=SOON)
    folder = root / server.stdout.strip()
    pid = wait_for_phase(folder, "training")
    assert os.getsid(pid) == pid != os.getsid(0)
    for descriptor in (0, 1, 2):
        assert not os.readlink(f"/proc/{pid}/fd/{descriptor}").startswith("pipe:")
    assert monitor.view(folder).state == "running"
    assert training.stop(folder) == "stopping"
    assert monitor.view(folder).stopping or state(folder) == "cancelled"
    assert wait_for(folder, "cancelled")
    wait_until_idle(root)


@pytest.mark.parametrize("phase", ["loading", "training", "saving", "reporting"])
def test_killed_in_any_phase_a_run_is_readable_says_lost_and_resumes(root, phase):
    folder = launch(root, hang=phase, steps=4)
    pid = wait_for_phase(folder, phase)
    wait_until((folder / "child").exists, SOON, "the child")
    os.kill(pid, signal.SIGKILL)
    wait_for(folder, "lost")
    wait_until_idle(root)
    view = monitor.view(folder)
    assert view.state == "lost" and view.phase == phase and view.config["steps"] == 4
    assert view.error["kind"] == "run-killed" and "SIGKILL" in spoken(view.error)["found"]
    assert "memory" in spoken(view.error)["remedy"]
    assert not process.group_members(pid), "what it had started"
    before = store.read_lines(folder / "metrics.jsonl").records
    assert len(before) == (0 if phase == "loading" else 4)
    training.resume(folder)
    wait_for(folder, "done")
    history = store.read_status(folder)["history"]
    assert [(end["state"], end["error"]["kind"]) for end in history] == [("lost", "run-killed")]
    after = store.read_lines(folder / "metrics.jsonl").records
    assert after[: len(before)] == before
    assert {"resumed_from": 4} in after or phase == "loading"
    wait_until_idle(root)


@pytest.mark.parametrize(
    ("config", "kind", "words"),
    [
        ({"die": "loading", "signal": int(signal.SIGSEGV)}, "run-killed", "SIGSEGV"),
        ({"fault": "no_module"}, "module-missing", "pip install peft"),
        ({"fault": "full_disk"}, "disk-full", "delete runs"),
    ],
)
def test_a_run_that_could_not_say_its_end_is_lost_with_the_cause(root, config, kind, words):
    folder = launch(root, **config)
    wait_for(folder, "lost")
    wait_until_idle(root)
    error = monitor.view(folder).error
    error = spoken(error)
    assert error["kind"] == kind and words in error["found"] + error["remedy"]


def test_runs_go_one_after_the_other_each_once_in_order(root):
    folders = [launch(root, steps=1, hang="loading")]
    wait_for_phase(folders[0], "loading")
    folders += [launch(root, steps=1) for _ in range(8)]
    assert [run_queue.place(folder) for folder in folders] == list(range(9))
    assert training.stop(folders[5]) == "cancelled"
    assert training.stop(folders[0]) == "stopping"
    wait_until_idle(root)
    ran = [folder.name for folder in folders if folder != folders[5]]
    assert course(root) == [[name, what] for name in ran for what in ("begins", "ends")]
    assert [state(folder) for folder in folders[1:]] == ["done"] * 4 + ["cancelled"] + ["done"] * 3
    assert run_queue.place(folders[3]) is None


def test_two_launchers_at_once_start_each_run_once(root):
    code = (
        "import sys; from pathlib import Path; from kvlab.runs import run_queue, training;"
        f"run_queue.TRAINER = {FAKE!r}; sys.stdin.readline();"
        f"[training.launch({{'steps': 1}}, 'x', 'cpu', Path({str(root)!r})) for _ in range(3)]"
    )
    command = [sys.executable, "-c", code]
    servers = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(2)]
    for server in servers:
        server.stdin.write("go\n")
        server.stdin.flush()
    for server in servers:
        assert server.wait(SOON) == 0
        server.stdin.close()
    wait_until_idle(root)
    names = {folder.name for folder in store.listing(root)}
    lines = course(root)
    assert len(names) == 6 and sorted(lines) == sorted([n, w] for n in names for w in ("begins", "ends"))
    assert [what for _, what in lines] == ["begins", "ends"] * 6, "one at a time"


def test_runs_on_different_devices_run_side_by_side(root):
    def on(device: str) -> Path:
        return root / training.launch({"hang": "training"}, "x", device, root)

    first, second = on("cuda"), on("cuda:1")
    waits, everywhere = on("cuda:0"), on("auto")
    wait_for_phase(first, "training")
    wait_for_phase(second, "training")
    assert (state(waits), state(everywhere)) == ("queued", "queued")
    training.stop(first)
    wait_for_phase(waits, "training")
    training.stop(waits)
    wait_for(waits, "cancelled")
    assert state(everywhere) == "queued"
    training.stop(second)
    wait_for_phase(everywhere, "training")
    training.stop(everywhere)
    wait_until_idle(root)


def test_when_the_keeper_is_killed_the_run_goes_on_and_the_queue_too(root):
    first = launch(root, hang="training")
    second = launch(root, steps=1)
    pid = wait_for_phase(first, "training")
    keeper = run_queue.keeper(root)
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: run_queue.keeper(root) is None, SOON, "the keeper's death")
    assert state(first) == "running" and state(second) == "queued"
    run_queue.attend(root)
    assert run_queue.keeper(root) not in (None, keeper)
    assert store.read_status(first)["pid"] == pid
    training.stop(first)
    wait_until_idle(root)
    assert (state(first), state(second)) == ("cancelled", "done")
    assert [line[0] for line in course(root)] == [first.name] * 2 + [second.name] * 2


def test_a_run_that_died_with_its_keeper_is_lost_and_does_not_hold_the_queue(root):
    first = launch(root, hang="training")
    second = launch(root, steps=1)
    pid = wait_for_phase(first, "training")
    os.kill(run_queue.keeper(root), signal.SIGKILL)
    wait_until(lambda: run_queue.keeper(root) is None, SOON, "the keeper's death")  # before, nobody takes its place
    process.end_group(pid)
    wait_until(lambda: state(first) == "lost", SOON, "lost")
    run_queue.attend(root)
    wait_until_idle(root)
    assert (state(first), state(second)) == ("lost", "done")
    assert "nobody saw it end" in spoken(monitor.view(first).error)["found"]


def test_a_waiting_run_without_a_place_in_the_queue_gets_one_and_two_places_start_it_once(root):
    first, second, third = (store.create(root, "training", name, {"steps": 1}) for name in "abc")
    for folder in (second, first):
        run_queue.add(folder, "cpu")
    first_place = run_queue.entries(root)[1].marker
    first_place.unlink()
    first_place.with_name(f"{0:020d}-{second.name}").touch()
    run_queue.recover(root)  # not the third, which nobody has queued
    assert [entry.folder for entry in run_queue.entries(root)] == [second, second, first]
    run_queue.attend(root)
    wait_until_idle(root)
    assert course(root) == [[folder.name, what] for folder in (second, first) for what in ("begins", "ends")]
    assert state(third) == "queued"


def test_runs_without_a_place_get_theirs_in_the_order_of_their_creation(root):
    a, b, c, d, elsewhere = (store.create(root, "training", name, {"steps": 1}) for name in "abcde")
    for folder in (a, b, c, d):
        run_queue.add(folder, "cpu")
    for folder in (a, b, d):
        run_queue.remove(folder)
    store.write_status(elsewhere, queue={"host": "another", "device": "cpu"})
    run_queue.recover(root)
    assert [entry.folder for entry in run_queue.entries(root)] == [c, a, b, d]
    assert [run_queue.place(folder) for folder in (a, b, c, d, elsewhere)] == [1, 2, 0, 3, None]


@pytest.mark.parametrize(
    ("given", "waits_for"), [("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:1"), ("auto", "auto")]
)
def test_cuda_without_a_number_is_the_first_gpu(root, given, waits_for):
    folder = store.create(root, "training", "x", {"steps": 1})
    run_queue.add(folder, given)
    assert run_queue.device(store.read_status(folder)) == waits_for


def test_many_who_would_begin_a_run_at_once_begin_it_once(root):
    folder = store.create(root, "training", "x", {"steps": 1})
    command = [sys.executable, "-P", "-m", "kvlab.runs.begin", str(folder), *FAKE]
    environment = {**process.environment(), "KVLAB_RUNS": str(root)}
    with locks.held(folder / run_queue.RUN_LOCK):
        assert subprocess.run(command, env=environment, timeout=SOON, check=False).returncode == 0
        assert state(folder) == "queued", "it is for whoever holds the lock to begin it"
    beginners = [subprocess.Popen(command, env=environment) for _ in range(4)]
    assert [beginner.wait(SOON) for beginner in beginners] == [0] * 4
    assert course(root) == [[folder.name, "begins"], [folder.name, "ends"]]


def test_a_full_disk_leaves_the_run_in_the_queue_for_better_times(root, monkeypatch):
    # No file can grow by a byte, for the keeper and for what it starts.
    full = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY));"
    keep = f"{full} runpy.run_module('kvlab.runs.keeper', run_name='__main__', alter_sys=True)"
    with monkeypatch.context() as patch:
        patch.setattr(run_queue, "KEEPER", (sys.executable, "-P", "-c", keep))
        folder = launch(root, steps=1)
        with locks.held(run_queue.here(root) / run_queue.KEEPER_LOCK, SOON) as gone:
            assert gone, "the keeper has given up"
    assert state(folder) == "queued" and run_queue.place(folder) == 0
    run_queue.attend(root)
    wait_until_idle(root)
    assert state(folder) == "done"


def test_kill_ends_the_group_and_says_so(root):
    folder = launch(root, hang="training", stubborn=True)
    pid = wait_for_phase(folder, "training")
    wait_until((folder / "child").exists, SOON, "the child")
    assert training.stop(folder) == "stopping"
    os.kill(pid, signal.SIGTERM)
    training.kill(folder)
    assert not process.group_members(pid)
    status = store.read_status(folder)
    assert status["state"] == "cancelled" and status["cause"]["kind"] == "run-killed-by-user"
    refused("run-not-active", training.kill, folder)
    wait_until_idle(root)
    training.resume(folder)
    wait_until_idle(root)
    assert state(folder) == "done"


def test_a_reused_pid_is_never_killed(root):
    bystander = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    folder = store.create(root, "training", "x", {})
    identity = process.identity(bystander.pid)
    store.write_status(folder, state="running", **{**identity, "process_started": identity["process_started"] - 60})
    assert state(folder) == "lost"
    assert "lost" in refused("run-not-active", training.kill, folder).found
    refused("run-not-active", training.stop, folder)
    assert bystander.poll() is None and not (folder / "stop").exists()
    bystander.kill()
    bystander.wait()


def test_a_run_of_another_host_is_not_killed_from_here(root):
    folder = store.create(root, "training", "x", {})
    store.write_status(folder, **{**process.identity(), "host": "another"}, state="running")
    store.write_status(folder, next_heartbeat_due="2999-01-01T00:00:00+00:00")
    assert "another" in refused("run-elsewhere", training.kill, folder).found
    assert training.stop(folder) == "stopping" and (folder / "stop").exists()


@pytest.mark.parametrize("given", ["queued", "running", "done", "failed", "cancelled"])
def test_what_is_not_possible_is_refused_with_the_state(root, given):
    folder = store.create(root, "training", "x", {})
    sleeper = subprocess.Popen(["sleep", "1000"])
    store.write_status(folder, state=given, **(process.identity(sleeper.pid) if given == "running" else {}))
    active, word = given in store.ACTIVE, store.STATES[given]
    if given != "running":
        assert word in refused("run-not-active", training.kill, folder).found
    if not active:
        assert word in refused("run-not-active", training.stop, folder).found
        assert not (folder / "stop").exists()
    if active:
        assert word in refused("run-active", training.delete, folder).found
    if active or given == "done":
        assert word in refused("run-not-resumable", training.resume, folder).found
    sleeper.kill()
    sleeper.wait()


def test_an_analysis_is_not_a_training_run(root):
    folder = store.create(root, "analysis", "x", {})
    for call in (training.stop, training.kill, training.resume):
        refused("run-not-training", call, folder)
    store.write_status(folder, state="done")
    training.delete(folder)
    assert store.listing(root) == []


def test_delete_follows_no_link_and_leaves_nothing(root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    folder = store.create(root, "training", "x", {})
    store.write_status(folder, state="done")
    (folder / "link").symlink_to(outside)
    (folder / "checkpoint").symlink_to(outside / "precious")
    linked = root / folder.name.replace("-x-", "-linked-")
    linked.symlink_to(outside)
    refused("run-not-found", training.delete, linked)
    refused("run-id-invalid", training.delete, root / "..")
    training.delete(folder)
    assert (outside / "precious").read_text() == "x" and not list(root.glob("*-x-*")) + list(root.glob(".*-x-*"))
    refused("run-not-found", training.delete, folder)


def test_a_delete_that_was_interrupted_is_finished_by_the_next(root):
    half, other = (store.create(root, "training", name, {}) for name in ("half", "other"))
    half.rename(root / f".{half.name}.deleted")
    store.write_status(other, state="failed")
    assert store.listing(root) == [other]
    training.delete(other)
    assert [path.name for path in root.iterdir()] == []


def test_a_run_that_somebody_holds_is_busy(root, monkeypatch):
    monkeypatch.setattr(training, "PATIENCE", 0.05)
    folder = store.create(root, "training", "x", {})
    store.write_status(folder, state="failed")
    with locks.held(folder / run_queue.RUN_LOCK) as mine:
        assert mine
        refused("run-busy", training.delete, folder)
        assert f"process {os.getpid()} on" in refused("run-busy", training.resume, folder).found
    training.delete(folder)


WORKS = "import os, sys; from pathlib import Path; from kvlab.runs import locks\nwith locks.owned(Path(sys.argv[1])): "
HOLDS = WORKS + "print('has it', flush=True); sys.stdin.read()"
STARTS = (
    WORKS + f"import subprocess; sys.exit(subprocess.call([sys.executable, '-c', {WORKS + 'pass'!r}, sys.argv[1]]))"
)


def test_a_lock_is_its_holders_and_of_all_that_it_starts_and_ends_with_it(tmp_path):
    lock = tmp_path / ".lock"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(lock)], **pipes)
    try:
        assert holder.stdout.readline() == "has it\n"
        other = subprocess.run([sys.executable, "-c", STARTS, str(lock)], capture_output=True, text=True, check=False)
        assert other.returncode == 1 and f"process {holder.pid} on" in other.stderr
        os.kill(holder.pid, signal.SIGSTOP)
        assert locks.take(lock) is None, "a stopped process goes on one day"
    finally:
        holder.kill()
        holder.communicate()
    assert subprocess.run([sys.executable, "-c", STARTS, str(lock)], check=False).returncode == 0


def test_a_process_that_its_launcher_left_behind_still_holds_the_run(tmp_path):
    lock = tmp_path / ".lock"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    stays = WORKS + "print(os.getpid(), flush=True); sys.stdin.read()"
    launches = (
        "import subprocess, sys; from pathlib import Path; from kvlab.runs import locks\n"
        "locks.take(Path(sys.argv[1]))\n"
        f"subprocess.call([sys.executable, '-c', {stays!r}, sys.argv[1]])"  # as torchrun, which begin.py became
    )
    launcher = subprocess.Popen([sys.executable, "-c", launches, str(lock)], **pipes)
    left = int(launcher.stdout.readline())
    try:
        launcher.kill()
        launcher.wait()
        other = subprocess.run([sys.executable, "-c", STARTS, str(lock)], capture_output=True, text=True, check=False)
        assert other.returncode == 1 and f"process {left} on" in other.stderr
    finally:
        os.kill(left, signal.SIGKILL)
        launcher.communicate()
    wait_until(lambda: not psutil.pid_exists(left), SOON, "its end")
    assert subprocess.run([sys.executable, "-c", STARTS, str(lock)], check=False).returncode == 0


def test_a_config_of_garbage_fails_and_the_queue_goes_on(root):
    first = launch(root, hang="loading")
    wait_for_phase(first, "loading")
    broken, unreadable, gone, last = (launch(root, steps=1) for _ in range(4))
    (broken / "config.yaml").write_bytes(b"{{{\xff")
    (unreadable / "status.json").write_bytes(b"\x00garbage")
    gone.rename(root.parent / "gone")
    training.stop(first)
    wait_until_idle(root)
    assert [state(folder) for folder in (broken, unreadable, last)] == ["failed", "lost", "done"]
    assert monitor.view(broken).error["kind"] == "config-unreadable"
    training.delete(unreadable)


def test_a_command_that_cannot_start_fails_with_the_reason(root, monkeypatch):
    monkeypatch.setattr(run_queue, "TRAINER", ("/no/such/python",))
    folder = launch(root)
    wait_for(folder, "failed")
    assert "/no/such/python" in spoken(monitor.view(folder).error)["found"]
    wait_until_idle(root)


def test_runs_that_cannot_be_written_are_refused_before_anything_starts(root):
    root.write_text("a file where the folder should be")
    refused("runs-unwritable", training.launch, {}, "x", "cpu", root)


def test_a_keeper_that_cannot_start_leaves_no_run_behind(root, monkeypatch):
    monkeypatch.setattr(run_queue, "KEEPER", (sys.executable, "-c", "raise SystemExit('no room for it')"))
    error = refused("keeper-unstartable", training.launch, {}, "x", "cpu", root)
    assert "no room for it" in error.found
    assert store.listing(root) == [] and run_queue.entries(root) == []


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    assert "KVLAB_RUNS" in refused("lock-unsupported", locks.take, tmp_path / "lock").remedy
