"""Notes on runs: whole or unchanged, limited, never through a link, never lost to another window."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kvlab.errors import RunError
from kvlab.results.training.facts import gather
from kvlab.runs import notes, store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return store.create(tmp_path / "runs", "training", "x", {"max_steps": 3})


def refused(kind: str, *arguments) -> None:
    with pytest.raises(RunError) as caught:
        notes.write(*arguments)
    assert caught.value.kind == kind


def test_written_read_replaced_removed(folder):
    assert notes.read(folder) == ""
    notes.write(folder, "  lr too high\n小明 ")
    assert notes.read(folder) == "lr too high\n小明" and gather(folder)["notes"].strip() == "lr too high\n小明"
    notes.write(folder, "better")
    assert (folder / "notes.md").read_bytes() == b"better\n"
    notes.write(folder, " \n")
    assert not (folder / "notes.md").exists() and gather(folder)["notes"] is None
    notes.write(folder, "")
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "status.json"]


def test_too_long_a_note_changes_nothing_and_a_long_file_is_cut(folder):
    notes.write(folder, "short")
    refused("note-too-long", folder, "x" * (notes.LIMIT + 1))
    assert notes.read(folder) == "short"
    notes.write(folder, "é" * notes.LIMIT)
    assert notes.read(folder) == "é" * notes.LIMIT
    (folder / "notes.md").write_bytes(b"y" * 10**6)
    assert notes.read(folder) == "y" * notes.LIMIT


def test_foreign_bytes_are_readable(folder):
    (folder / "notes.md").write_bytes(b"caf\xe9\r\n\x00ok")
    assert notes.read(folder) == "caf\ufffd\nok"


def test_another_windows_note_is_not_lost(folder):
    notes.write(folder, "theirs", before="")
    refused("note-changed", folder, "mine", "")
    assert notes.read(folder) == "theirs"
    notes.write(folder, "mine", before="theirs")
    notes.write(folder, "mine", before="something else")  # nothing is lost: it stands there already
    assert notes.read(folder) == "mine"


def test_links_and_deleted_runs(folder, tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("secret")
    (folder / "notes.md").symlink_to(outside)
    assert notes.read(folder) == ""
    notes.write(folder, "mine")
    assert notes.read(folder) == "mine" and outside.read_text() == "secret"
    moved = tmp_path / "moved"
    folder.rename(moved)
    refused("run-not-found", folder, "x")
    folder.symlink_to(moved)
    refused("run-not-found", folder, "x")
    assert notes.read(moved) == "mine"


def test_a_fifo_does_not_hold_the_reader(folder):
    os.mkfifo(folder / "notes.md")
    assert notes.read(folder) == ""


def test_a_disk_that_refuses_keeps_the_old_note(folder, monkeypatch):
    notes.write(folder, "old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(notes.os, "fsync", refuse)
    refused("disk-full", folder, "new")
    assert notes.read(folder) == "old" and not list(folder.glob(".notes*"))


def test_many_writers_leave_one_whole_note_beside_the_runs_own_files(folder):
    texts = [str(n) * 5000 for n in range(8)]
    threads = [threading.Thread(target=notes.write, args=(folder, text)) for text in texts]
    for thread in threads:
        thread.start()
    for step in range(50):
        store.append_metrics(folder, {"step": step})
        store.write_status(folder, state="running", done=step)
        assert notes.read(folder) in ("", *texts)
    for thread in threads:
        thread.join()
    assert notes.read(folder) in texts
    assert store.read_status(folder)["done"] == 49
    assert len(store.read_lines(folder / "metrics.jsonl").records) == 50
