"""The history of all runs: true rows from small records, whatever lies in runs/, read again only where it changed."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kvlab.runs import monitor, notes, process, run_queue, store
from kvlab.runs.history import History
from tests.trained import by_hand, write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def here(**fields) -> dict:
    return {"host": socket.gethostname(), **fields}


def test_a_row_says_what_the_records_say(root):
    folder = by_hand(root)
    notes.write(folder, "the good one")
    (row,) = History(root).rows()
    assert (row.id, row.kind, row.name, row.state, row.verdict) == (folder.name, "training", "kv", "done", "pass")
    assert (row.step, row.steps, row.loss, row.ce_before, row.ce_after) == (4, 80, 2.5, 3.5, 3.25)
    assert (row.peak.used, row.peak.share, row.peak.what) == (9, 0.1, "process")
    assert (row.device, row.elapsed_s, row.note) == ("cpu", 70, "the good one")
    assert row.started == datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_newest_first_analyses_among_them(root):
    ids = [store.create(root, kind, "x", {}).name for kind in ("training", "analysis", "training")]
    rows = History(root).rows()
    assert [row.id for row in rows] == sorted(ids, reverse=True)
    assert sorted(row.kind for row in rows) == ["analysis", "training", "training"]


def test_what_changed_is_read_again_and_nothing_else(root, monkeypatch):
    folder, other, history = by_hand(root), by_hand(root, "other"), History(root)
    history.rows()
    opened, real = [], os.open

    def watched(path, *rest, **more):
        opened.append(str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", watched)
    history.rows()
    assert opened == []
    store.append_metrics(folder, {"step": 5, "loss": 1.0})
    notes.write(other, "mine")
    write(other, "verdict.json", {"state": "fail"})
    opened.clear()
    rows = {row.id: row for row in history.rows()}
    assert {Path(path).name for path in opened} == {"metrics.jsonl", "notes.md", "verdict.json", "config.yaml"}
    assert (rows[folder.name].step, rows[folder.name].loss) == (5, 1.0)
    assert (rows[other.name].note, rows[other.name].verdict, rows[other.name].steps) == ("mine", "fail", 100)


def test_the_memory_of_a_run_at_work_is_followed_and_a_deleted_run_forgotten(root):
    folder, history = by_hand(root), History(root)
    store.write_status(folder, state="running", **process.identity())
    assert history.rows()[0].peak.used == 9
    store.append(folder / "memory.jsonl", b'{"t": 3, "process_rss": 20}\n')
    assert history.rows()[0].peak.used == 20
    folder.rename(root / "elsewhere")
    assert history.rows() == [] and not history._cache


def test_states_are_judged_not_believed(root):
    lost = by_hand(root)
    store.write_status(lost, state="running", **here(pid=2**22 - 1, process_started=1.0))
    (row,) = History(root).rows()
    assert (row.state, row.active, row.step) == ("lost", False, 4)


def test_twenty_that_wait_know_their_places(root):
    folders = [store.create(root, "training", f"run {n}", {"max_steps": 3}) for n in range(20)]
    for folder in reversed(folders):  # queued in another order than made
        run_queue.add(folder, "cpu")
    ahead = {row.id: row.ahead for row in History(root).rows()}
    assert [ahead[folder.name] for folder in reversed(folders)] == list(range(20))
    assert ahead[folders[0].name] == run_queue.place(folders[0])


ODD = {
    "state": "gone",
    "name": "\ud800 half",
    "started": "0001-01-01T00:00:00+23:59",
    "elapsed_s": 10**400,
    "history": ["x"],
    "checkpoints": [{"step": 10**30}],
    "before": {"ce": 10**400},
    "device": {"device": "\udfff"},
}
GARBAGE = [
    json.dumps(ODD).encode(),
    b"",
    b"\x00",
    b"\xff\xfe\xfa",
    b"{",
    b"[]",
    b'{"state": [], "name": 7, "checkpoints": [1], "before": "x"}',
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_a_row_and_its_neighbours_are_whole(root, garbage):
    good, bad, history = by_hand(root), by_hand(root, "bad"), History(root)
    for name in ("status.json", "config.yaml", "verdict.json", "report.json", "memory.jsonl", "notes.md"):
        (bad / name).write_bytes(garbage)
    with open(bad / "metrics.jsonl", "ab") as file:
        file.write(b"\xff\xfe no json\n[]\n" + b'{"step": 5, "lo')  # torn, and damaged lines before it
    rows = {row.id: row for row in history.rows()}
    assert rows[bad.name].state == "lost" and rows[good.name].state == "done"
    assert (rows[bad.name].step, rows[bad.name].loss) == (4, 2.5)  # the last one logged before the fault


def test_nothing_there_and_no_status(root):
    assert History(root).rows() == []
    folder = by_hand(root)
    (folder / "status.json").unlink()
    (row,) = History(root).rows()
    assert (row.state, row.kind, row.step) == ("lost", "unknown", 4)


def test_links_are_not_followed(root, tmp_path):
    folder = by_hand(root)
    outside = tmp_path / "outside"
    folder.rename(outside)
    (root / folder.name).symlink_to(outside)
    assert History(root).rows() == []
    inside = store.create(root, "training", "x", {})
    for name in ("verdict.json", "report.json", "metrics.jsonl", "memory.jsonl"):
        (inside / name).symlink_to(outside / name)
    (inside / "notes.md").symlink_to(outside / "config.yaml")
    (row,) = History(root).rows()
    assert (row.verdict, row.step, row.ce_before, row.peak, row.note) == (None, None, None, None, "")


def test_it_agrees_with_the_view_of_one_run(root):
    folder = by_hand(root)
    row, view = History(root).rows()[0], monitor.view(folder)
    assert (row.id, row.name, row.state, row.elapsed_s) == (view.id, view.name, view.state, view.elapsed_s)
