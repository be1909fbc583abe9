"""Run folders: whole or not there, readable while written, and nothing leads out of them."""

from __future__ import annotations

import errno
import json
import math
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from kvlab.errors import RunError
from kvlab.runs import store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return store.create(tmp_path / "runs", "analysis", "my run", {"teacher": "demo/teacher"})


def test_a_new_run_explains_itself(tmp_path: Path):
    config = {"teacher": "demo/teacher", "prompts": "河水", "settings": {"seed": 1}}
    folder = store.create(tmp_path / "not" / "yet", "analysis", "Qwen2-7B → TinyLlama!", config)
    assert store.valid_id(folder.name) and "-qwen2-7b-tinyllama-" in folder.name
    assert store.read_config(folder) == config
    assert "河水" in (folder / "config.yaml").read_text(encoding="utf-8")
    status = store.read_status(folder)
    assert (status["kind"], status["name"], status["state"]) == ("analysis", "Qwen2-7B → TinyLlama!", "queued")
    assert status["updated"].endswith("+00:00")
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "status.json"]


@pytest.mark.parametrize(
    "name", ["", "河水", "../../etc/passwd", "a" * 300, "-", "A  b\n", ".hidden", "x\x00y", "\ud800"]
)
def test_any_name_gives_a_valid_id(tmp_path: Path, name: str):
    folder = store.create(tmp_path, "training", name, {})
    assert store.valid_id(folder.name)
    assert folder.parent == tmp_path
    assert store.find(tmp_path, folder.name) == folder


def test_a_hundred_runs_at_once_have_a_hundred_folders(tmp_path: Path):
    assert len({store.create(tmp_path, "analysis", "same", {}) for _ in range(100)}) == 100


def test_runs_root_is_the_projects_unless_the_environment_says_otherwise(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("KVLAB_RUNS", raising=False)
    assert store.runs_root() == Path(store.__file__).parents[2] / "runs"
    monkeypatch.setenv("KVLAB_RUNS", str(tmp_path / "elsewhere"))
    assert store.runs_root() == tmp_path / "elsewhere"
    assert not store.runs_root().exists()


def test_status_changes_fields_and_keeps_the_others(folder: Path):
    store.write_status(folder, state="running", from_a_later_version={"kept": [1, 2]})
    store.write_status(folder, phase="reading", done=np.int64(3), share=math.nan, place=Path("/tmp"))
    status = store.read_status(folder)
    assert status["from_a_later_version"] == {"kept": [1, 2]}
    assert (status["state"], status["phase"], status["done"], status["share"]) == ("running", "reading", 3, None)
    assert status["place"] == "/tmp"


def test_text_that_cannot_be_encoded_survives_the_status(folder: Path):
    store.write_status(folder, phase="a \udcff file, 河水\nand more")
    assert store.read_status(folder)["phase"] == "a \udcff file, 河水\nand more"


@pytest.mark.parametrize("state", ["lost", "finished", "", None])
def test_a_state_that_is_never_stored_is_refused(folder: Path, state):
    with pytest.raises(ValueError, match="state must be one of"):
        store.write_status(folder, state=state)


@pytest.mark.parametrize("garbage", [b"", b"{", b"[1]", b'{"state": "runn', b"\xff\xfe\x00", b"null", b"[" * 100_000])
def test_a_garbage_status_reads_as_empty_and_is_replaced(folder: Path, garbage: bytes):
    (folder / "status.json").write_bytes(garbage)
    assert store.read_status(folder) == {}
    store.write_status(folder, state="failed")
    assert store.read_status(folder)["state"] == "failed"


@pytest.mark.parametrize(
    "garbage", [b"", b"a: [", b"- 1\n- 2\n", b"\xff\xfe\x00", b"!!python/object:os.system {}", b"\x00"]
)
def test_a_garbage_config_reads_as_empty(folder: Path, garbage: bytes):
    (folder / "config.yaml").write_bytes(garbage)
    assert store.read_config(folder) == {}


def test_readers_never_see_half_a_status(folder: Path):
    done = threading.Event()
    seen = []

    def read() -> None:
        while not done.is_set():
            seen.append(store.read_status(folder).get("filling"))

    store.write_status(folder, filling="0" * 50_000)
    reader = threading.Thread(target=read)
    reader.start()
    for digit in "123456789":
        store.write_status(folder, filling=digit * 50_000)
    done.set()
    reader.join()
    assert seen
    assert all(filling is not None and len(set(filling)) == 1 and len(filling) == 50_000 for filling in seen)


def test_writers_in_many_threads_lose_nothing(folder: Path):
    def write(number: int) -> None:
        store.write_status(folder, **{f"field_{number}": number})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(store.read_status(folder)[f"field_{number}"] == number for number in range(20))


def test_metrics_are_whole_lines_with_non_finite_numbers_flagged(folder: Path):
    store.append_metrics(folder, {"step": 1, "loss": 2.5, "ok": True})
    store.append_metrics(
        folder, {"step": np.int32(2), "loss": math.nan, "kv": {"key": -math.inf, "value": [1, math.inf]}}
    )
    store.append_metrics(folder, {"step": 3, "loss": np.float32(0.5), "grad": np.float32("nan")})
    text = (folder / "metrics.jsonl").read_text()
    assert text.endswith("\n") and "NaN" not in text and "Infinity" not in text
    records, offset, garbage = store.read_lines(folder / "metrics.jsonl", 0)
    assert records == [
        {"step": 1, "loss": 2.5, "ok": True},
        {
            "step": 2,
            "loss": None,
            "kv": {"key": None, "value": [1, None]},
            "nonfinite": ["loss", "kv.key", "kv.value.1"],
        },
        {"step": 3, "loss": 0.5, "grad": None, "nonfinite": ["grad"]},
    ]
    assert (offset, garbage) == (len(text.encode()), 0)


def test_a_torn_tail_waits_for_its_end(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step"')
    records, offset, _ = store.read_lines(path, 0)
    assert records == [{"step": 1}] and offset == 12
    assert store.read_lines(path, offset) == ([], 12, 0)
    with open(path, "ab") as file:
        file.write(b': 2, "text": "\xe6\xb2\xb3"}\n')
    records, offset, _ = store.read_lines(path, offset)
    assert records == [{"step": 2, "text": "河"}] and offset == path.stat().st_size


def test_a_line_after_a_torn_one_is_not_glued_to_it(folder: Path):
    (folder / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    store.append_metrics(folder, {"step": 3})
    assert store.read_lines(folder / "metrics.jsonl", 0)[::2] == ([{"step": 1}, {"step": 3}], 1)


def test_garbage_lines_are_skipped_and_counted(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 1}\n\x00\x00\x00\n[1, 2]\n\nnonsense\n{"step": 2, "loss": NaN}\n' + b"[" * 50_000 + b"\n"
    )
    records, offset, garbage = store.read_lines(path, 0)
    assert records == [{"step": 1}, {"step": 2, "loss": None}]
    assert garbage == 4
    assert offset == path.stat().st_size


def test_reading_what_is_not_there_or_was_begun_anew(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    assert store.read_lines(path, 0) == ([], 0, 0)
    path.write_bytes(b'{"step": 1}\n')
    assert store.read_lines(path, 1000).records == [{"step": 1}]
    assert store.read_lines(path, -5).records == [{"step": 1}]


@pytest.mark.parametrize(
    "run_id",
    [
        "",
        ".",
        "..",
        "../secret",
        "/etc/passwd",
        "20260131T120000.000Z-a-1a2b/../../x",
        "20260131T120000.000Z-a-1a2b\n",
        "20260131T120000.000Z-a-1a2b\x00",
        "20260131T120000.000Z-A-1a2b",
        "20260131T120000.000Z--1a2b",
        "20260131T120000.000Z-a-1A2B",
        "２０260131T120000.000Z-a-1a2b",
        "20260131T120000.000Z-" + "a" * 5000 + "-1a2b",
        ".20260131T120000.000Z-a-1a2b.draft",
        None,
        7,
        b"20260131T120000.000Z-a-1a2b",
    ],
)
def test_ids_that_could_lead_elsewhere_are_refused(tmp_path: Path, run_id):
    assert not store.valid_id(run_id)
    with pytest.raises(RunError) as caught:
        store.find(tmp_path, run_id)
    assert caught.value.kind == "run-id-invalid"
    assert len(str(caught.value)) < 500


def test_find_gives_the_folder_or_says_what_is_there_instead(tmp_path: Path, folder: Path):
    root = folder.parent
    assert store.find(root, folder.name) == folder
    missing, a_file, a_link, a_dangling_link = (f"20260131T120000.000Z-a-000{digit}" for digit in range(4))
    (root / a_file).write_text("not a folder")
    (tmp_path / "outside").mkdir()
    (root / a_link).symlink_to(tmp_path / "outside")
    (root / a_dangling_link).symlink_to(tmp_path / "nowhere")
    for run_id in (missing, a_file, a_link, a_dangling_link):
        assert store.valid_id(run_id)
        with pytest.raises(RunError) as caught:
            store.find(root, run_id)
        assert caught.value.kind == "run-not-found"


def test_files_of_a_run_that_are_links_are_neither_read_nor_written_through(tmp_path: Path, folder: Path):
    outside = tmp_path / "outside"
    outside.write_text('{"state": "done", "secret": 1}\n')
    for name in ("status.json", "config.yaml", "metrics.jsonl"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside)
    assert store.read_status(folder) == {}
    assert store.read_config(folder) == {}
    assert store.read_lines(folder / "metrics.jsonl", 0).records == []
    assert kind_of(lambda: store.append_metrics(folder, {"step": 1})) == "runs-unwritable"
    store.write_status(folder, state="failed")
    assert outside.read_text() == '{"state": "done", "secret": 1}\n'
    assert not (folder / "status.json").is_symlink()


def test_the_list_is_newest_first_and_passes_over_everything_else(tmp_path: Path):
    runs = [store.create(tmp_path, "analysis", name, {}) for name in ("zebra", "middle", "ant")]
    # Same millisecond or not, the order must be that of creation: give them distinct times.
    runs = [run.rename(tmp_path / f"20260131T12000{n}.000Z-{run.name[21:]}") for n, run in enumerate(runs)]
    half_made = tmp_path / "20260131T120009.000Z-half-made-0000"
    half_made.mkdir()
    garbage = tmp_path / "20260131T120008.000Z-garbage-0000"
    garbage.mkdir()
    (garbage / "status.json").write_bytes(b"\xff{")
    (tmp_path / ".gitkeep").touch()
    (tmp_path / "worker.log").touch()
    (tmp_path / "my notes").mkdir()
    (tmp_path / ".20260131T120000.000Z-a-0000.draft").mkdir()
    (tmp_path / "20260131T120000.000Z-file-0000").touch()
    (tmp_path / "20260131T120000.000Z-link-0000").symlink_to(runs[0])
    assert store.listing(tmp_path) == [half_made, garbage, *reversed(runs)]
    assert store.listing(tmp_path / "nowhere") == []
    assert store.listing(tmp_path / "worker.log") == []


def kind_of(call) -> str:
    with pytest.raises(RunError) as caught:
        call()
    assert caught.value.remedy and "KVLAB_RUNS" in caught.value.remedy
    return caught.value.kind


def test_a_file_in_place_of_runs_is_reported(tmp_path: Path, folder: Path):
    (tmp_path / "file").touch()
    assert kind_of(lambda: store.create(tmp_path / "file", "analysis", "x", {})) == "runs-unwritable"
    assert kind_of(lambda: store.create(tmp_path / "file" / "runs", "analysis", "x", {})) == "runs-unwritable"
    assert kind_of(lambda: store.write_status(tmp_path / "gone", state="done")) == "runs-unwritable"
    assert kind_of(lambda: store.append_metrics(tmp_path / "gone", {})) == "runs-unwritable"


@pytest.mark.skipif(os.geteuid() == 0, reason="the system denies root nothing")
def test_a_folder_of_somebody_else_is_reported(tmp_path: Path, folder: Path):
    tmp_path.chmod(0o500)
    try:
        assert kind_of(lambda: store.create(tmp_path / "new", "analysis", "x", {})) == "runs-unwritable"
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, "disk-full"), (errno.EDQUOT, "disk-full"), (errno.EROFS, "runs-unwritable")],
)
@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_disk_that_refuses_is_reported_and_nothing_half_made_stays(
    tmp_path: Path, folder: Path, monkeypatch, step: str, number: int, kind: str
):
    before = store.read_status(folder)

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, refuse)
    assert kind_of(lambda: store.write_status(folder, state="done")) == kind
    assert kind_of(lambda: store.create(folder.parent, "analysis", "x", {})) == kind
    monkeypatch.undo()
    assert store.read_status(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "status.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_line_for_a_full_disk_is_reported(folder: Path, monkeypatch):
    def to_full_disk(path, flags):
        return os.open("/dev/full", flags)

    monkeypatch.setattr(store, "private", to_full_disk)
    assert kind_of(lambda: store.append_metrics(folder, {"step": 1})) == "disk-full"


def test_the_status_is_plain_json(folder: Path):
    assert json.loads((folder / "status.json").read_text(encoding="utf-8"))["state"] == "queued"
