"""What kvlab writes is its owner's alone, whatever the umask; a setting shares it with the group."""

import os
import stat
import subprocess
import sys
import threading

import pytest

from kvlab.host import privacy
from kvlab.request.prompts import RUN_PROMPTS, samples, write_prompts
from kvlab.runs import run_queue, store
from tests.trainers import FAKE, nothing_outlives, wait_for, wait_until_idle
from tests.training import PROJECT


def opened_to_others(place, folder=0o700, file=0o600):
    """Everything below a folder, and itself, whose access is another."""
    wrong = []
    for path in (place, *place.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if not path.is_symlink() and mode != (folder if path.is_dir() else file):
            wrong.append(f"{path.relative_to(place.parent)} {mode:o}")
    return wrong


def done(*arguments, umask=0, **environment):
    environment = os.environ | {"PYTHONPATH": str(PROJECT)} | environment
    command = [sys.executable, "-P", *arguments]
    subprocess.run(command, env=environment, umask=umask, check=True, capture_output=True, timeout=60)


LAUNCH = (
    "from pathlib import Path; from kvlab.runs import run_queue, store, training\n"
    f"run_queue.TRAINER = {FAKE!r}\n"
    "training.launch({'steps': 2}, 'x', 'cpu', store.runs_root())"
)


@pytest.mark.parametrize(
    ("share", "umask", "modes"), [("", 0, (0o700, 0o600)), ("", 0o777, (0o700, 0o600)), ("group", 0, (0o770, 0o660))]
)
def test_a_run_of_the_queue_its_logs_and_its_reports_are_private_or_the_groups(tmp_path, share, umask, modes):
    root = tmp_path / "runs"
    entry = f"from kvlab.host import privacy\nprivacy.keep()\n{LAUNCH}"
    with nothing_outlives(root):
        done("-c", entry, umask=umask, KVLAB_SHARE=share, KVLAB_RUNS=str(root))
        (folder,) = store.listing(root)
        wait_for(folder, "done")
        wait_until_idle(root)
    out = tmp_path / "out"
    (root / "course").unlink()  # the fake trainer's own
    report = ("runs", "report", folder.name, "--format", "all", "--out", str(out))
    done("-m", "kvlab", *report, umask=umask, KVLAB_SHARE=share, KVLAB_RUNS=str(root))
    assert (root / ".queue").is_dir() and (folder / "output.log").exists() and (out / "report.html").exists()
    assert opened_to_others(root, *modes) == [] and opened_to_others(out, *modes) == []


def test_what_kvlab_itself_writes_needs_no_umask(tmp_path):
    before = os.umask(0)
    try:
        folder = store.create(tmp_path / "runs", "analysis", "x", {})
        store.append_metrics(folder, {"step": 1})
        store.replace(folder / "notes.md", b"mine")
        run_queue.add(folder, "cpu")
    finally:
        os.umask(before)
    (marker,) = (tmp_path / "runs" / ".queue").glob("*/*")
    marker.unlink()  # an empty file in a private folder
    assert opened_to_others(tmp_path / "runs") == []


def test_the_access_of_a_folder_that_others_made_for_all_runs_is_left_alone(tmp_path, monkeypatch):
    shared, own = tmp_path / "shared", tmp_path / "project" / "runs"
    for root in (shared, own):
        root.mkdir(parents=True)
        root.chmod(0o2755)
    monkeypatch.setattr(store, "PROJECT", tmp_path / "project")
    for root in (shared, own):
        assert stat.S_IMODE(store.create(root, "training", "x", {}).stat().st_mode) & 0o777 == 0o700
    assert stat.S_IMODE(shared.stat().st_mode) == 0o2755
    assert stat.S_IMODE(own.stat().st_mode) == 0o2700  # git makes it for all


@pytest.mark.parametrize(("cache", "made"), [(0o755, 0o644), (0o2775, 0o664), (0o777, 0o664), (0o700, 0o600)])
def test_downloads_have_the_access_of_the_cache_and_nothing_else_has(tmp_path, cache, made):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(cache)
    inside, over = threading.Event(), threading.Event()

    def other():
        with privacy.as_in(tmp_path / "cache"):
            inside.set()
            over.wait(10)

    before = os.umask(0o077)
    try:
        thread = threading.Thread(target=other)
        with privacy.as_in(tmp_path / "cache" / "models--x"):
            thread.start()
            inside.wait(10)
            (tmp_path / "weights").touch()
        over.set()
        thread.join()
        write_prompts(samples()[:1], tmp_path / RUN_PROMPTS)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "weights").stat().st_mode) == made
    assert stat.S_IMODE((tmp_path / RUN_PROMPTS).stat().st_mode) == 0o600
