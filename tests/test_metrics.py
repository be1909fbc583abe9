"""What was logged is read, whatever happened to the file afterwards."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from kvlab.runs import metrics, store
from kvlab.runs.metrics import Reader, Steps, fell


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return store.create(tmp_path / "runs", "training", "x", {})


def log(folder: Path, *records: dict) -> None:
    for record in records:
        store.append_metrics(folder, record)


def write(folder: Path, name: str, *lines: bytes) -> None:
    with open(folder / name, "ab") as file:
        file.writelines(lines)


def test_only_what_is_new_is_read(folder, monkeypatch):
    reader = Steps(folder)
    assert reader.read().rows == [] and reader.table.column("loss") == []
    log(folder, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0})
    assert reader.read().column("loss") == [3.0, 2.0]
    seen = []
    read_lines = store.read_lines
    monkeypatch.setattr(store, "read_lines", lambda *a: seen.append(read_lines(*a)) or seen[-1])
    log(folder, {"step": 3, "loss": 1.0, "router": [0.25, 0.75]})
    table = reader.read()
    assert [len(lines.records) for lines in seen] == [1]
    assert table.column("step") == [1, 2, 3] and table.column("loss") == [3.0, 2.0, 1.0]
    assert table.column("router.1")[2] == 0.75 and math.isnan(table.column("router.1")[0])
    assert reader.read() is table and len(table.rows) == 3


def test_nonfinite_numbers_are_nan_and_named_with_their_first_step(folder):
    reader = Steps(folder)
    log(folder, {"step": 1, "loss": 1.0, "ce": 1.0}, {"step": 2, "loss": math.nan, "ce": math.inf})
    log(folder, {"step": 3, "loss": math.nan, "ce": 0.5})
    table = reader.read()
    assert [math.isnan(loss) for loss in table.column("loss")] == [False, True, True]
    assert table.column("ce")[2] == 0.5 and reader.nonfinite == {"loss": 2, "ce": 2}


def test_a_torn_tail_waits_and_garbage_is_counted(folder):
    reader = Steps(folder)
    log(folder, {"step": 1, "loss": 1.0})
    write(folder, "metrics.jsonl", b"garbage\n", b"[1, 2]\n", b'{"loss": 4}\n', b'{"step": true}\n', b"\xff\xfe\n")
    write(folder, "metrics.jsonl", b'{"step": 2, "lo')
    assert reader.read().column("step") == [1] and (reader.garbage, reader.torn) == (5, True)
    write(folder, "metrics.jsonl", b'ss": 0.5}\n')
    assert reader.read().column("loss") == [1.0, 0.5] and (reader.garbage, reader.torn) == (5, False)


def test_a_line_cut_off_by_a_kill_does_not_spoil_the_next(folder):
    log(folder, {"step": 1, "loss": 1.0})
    write(folder, "metrics.jsonl", b'{"step": 2, "lo')
    log(folder, {"resumed_from": 1}, {"step": 2, "loss": 0.5})
    reader = Steps(folder)
    assert reader.read().column("loss") == [1.0, 0.5] and (reader.garbage, reader.resumed) == (1, [1])


@pytest.mark.parametrize("at_once", [True, False])
def test_a_resumed_run_supersedes_the_steps_after_its_checkpoint(folder, at_once):
    reader = Steps(folder)
    log(folder, *({"step": step, "loss": 1.0} for step in range(1, 8)), {"step": 8, "loss": math.nan})
    if not at_once:
        assert len(reader.read().rows) == 8 and reader.nonfinite == {"loss": 8}
    log(folder, {"resumed_from": 5})
    if not at_once:
        assert reader.read().column("step") == [1, 2, 3, 4, 5] and reader.nonfinite == {}
    log(folder, {"step": 6, "loss": 9.0}, {"step": 7, "loss": 9.0})
    table = reader.read()
    assert table.column("step") == [1, 2, 3, 4, 5, 6, 7] and table.column("loss")[5:] == [9.0, 9.0]
    assert reader.resumed == [5]
    log(folder, {"step": 1, "loss": 7.0})  # begun again from nothing, without saying so
    assert reader.read().column("loss") == [7.0]


def test_a_file_begun_anew_is_read_from_its_start(folder):
    reader = Steps(folder)
    log(folder, *({"step": step, "loss": 1.0} for step in range(1, 4)))
    reader.read()
    (folder / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 5}\n')
    assert reader.read().column("loss") == [5.0]


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 1e3}',
        b'{"step": -1}',
        b'{"step": "1"}',
        b'{"step": 1, "loss": "low", "nonfinite": 7}',
        b'{"step": 1, "loss": ' + b"9" * 400 + b"}",
        b'{"step": 1, "loss": ' + b"[" * 200 + b"1" + b"]" * 200 + b"}",
        b'{"resumed_from": "start", "step": null}',
        b'{"step": 1, "loss": NaN}',
    ],
)
def test_damaged_lines_never_raise(folder, line):
    write(folder, "metrics.jsonl", line + b"\n", b'{"step": 2, "loss": 1}\n')
    assert Steps(folder).read().column("loss")[-1] == 1.0


def test_a_link_or_a_folder_in_its_place_is_nothing(folder, tmp_path):
    (tmp_path / "outside").write_text('{"step": 1}\n')
    (folder / "metrics.jsonl").symlink_to(tmp_path / "outside")
    assert Steps(folder).read().rows == []
    (folder / "memory.jsonl").mkdir()
    assert metrics.peak(Reader(folder / "memory.jsonl").read()) is None


def test_smoothing_begins_at_the_first_value_and_passes_over_gaps():
    assert metrics.smoothed([4.0, 4.0, 4.0]) == pytest.approx([4.0, 4.0, 4.0])
    smooth = metrics.smoothed([1.0, math.nan, 3.0], weight=0.5)
    assert smooth[0] == 1.0 and math.isnan(smooth[1])
    assert smooth[2] == pytest.approx((0.5 * 1.0 + 1.0 * 3.0) / 1.5)
    assert metrics.smoothed([]) == []


def test_pace_and_remaining_time(folder):
    reader = Steps(folder)
    assert metrics.pace(reader.read(), 100).remaining_s is None
    log(folder, {"step": 1, "seconds": 30.0, "tokens_per_s": 1.0})
    log(folder, *({"step": step, "seconds": 0.5, "tokens_per_s": 200.0} for step in range(2, 41)))
    pace = metrics.pace(reader.read(), 100)
    assert (pace.step, pace.seconds_per_step, pace.tokens_per_s, pace.remaining_s) == (40, 0.5, 200.0, 30.0)


def test_the_pace_is_the_median_of_the_last_twenty_steps(folder):
    assert metrics.PACE_STEPS == 20
    before = [{"step": step, "seconds": 9.0, "tokens_per_s": 9.0} for step in range(1, 6)]
    seconds = [0.5] * 8 + [2.0] * 3 + [8.0] * 8 + [0.25]  # mean 3.7, last 0.25, longest 8
    last = [{"step": 6 + n, "seconds": s, "tokens_per_s": 100 / s} for n, s in enumerate(seconds)]
    log(folder, *before, *last)
    pace = metrics.pace(Steps(folder).read(), 35)
    assert (pace.step, pace.seconds_per_step, pace.tokens_per_s, pace.remaining_s) == (25, 2.0, 50.0, 20.0)
    done = metrics.pace(Steps(folder).read(), 25)  # of all: 0.25, 8 x 0.5, 3 x 2, 8 x 8, 5 x 9
    assert (done.seconds_per_step, done.tokens_per_s, done.remaining_s) == (8.0, 12.5, 0.0)


def samples(folder: Path, *rows: dict) -> metrics.Table:
    write(folder, "memory.jsonl", *(json.dumps(row).encode() + b"\n" for row in rows))
    return Reader(folder / metrics.MEMORY).read()


def test_the_peak_of_a_gpu_counts_everybody_and_what_no_sample_caught(folder):
    table = samples(
        folder,
        {"t": 100.0, "phase": "loading", "process_rss": 9e9, "device_used": 1e9, "device_total": 10e9},
        {"t": 101.0, "phase": "training", "process_rss": 9e9, "device_used": 6e9, "device_total": 10e9},
        {"t": 102.5, "phase": "saving", "device_used": 5e9, "torch_peak": 7e9, "device_total": 10e9},
    )
    assert metrics.curve(table) == ("device", [0.0, 1.0, 2.5], [1e9, 6e9, 5e9])
    peak = metrics.peak(table)
    assert (peak.used, peak.total, peak.share, peak.what, peak.phase) == (7e9, 10e9, 0.7, "device", "saving")


def test_without_a_gpu_the_process_memory_is_shown_and_called_that(folder):
    table = samples(folder, {"t": 1.0, "phase": "loading", "process_rss": 5, "device_used": None}, {"t": "x"})
    assert metrics.curve(table)[0] == "process"
    peak = metrics.peak(table)
    assert (peak.used, peak.total, peak.share, peak.what, peak.phase) == (5, None, None, "process", "loading")


def test_on_the_processor_the_trainers_device_is_the_process_and_time_goes_on_after_a_resume(folder):
    rows = [
        {"t": t, "phase": "training", "process_rss": r, "device_used": r, "device_total": 100}
        for t, r in [(0.5, 10), (1.5, 20), (0.25, 5), (2.25, 15)]
    ]
    table = samples(folder, *rows)
    assert metrics.curve(table) == ("process", [0.0, 1.0, 1.0, 3.0], [10, 20, 5, 15])
    assert metrics.peak(table).share == 0.2


def test_a_loss_falls_by_more_than_chance_or_not_at_all():
    rng = np.random.default_rng(0)
    still = [rng.normal(2.2, 0.3, 20).tolist() for _ in range(400)]
    assert sum(losses[-1] < losses[0] for losses in still) > 150  # two single losses say "fell" in half of them
    assert sum(map(fell, still)) < 30
    assert all(fell([loss - 0.1 * step for step, loss in enumerate(losses)]) for losses in still)
    assert fell([4.0, 3.0]) and not fell([3.0, 4.0]) and not fell([3.0, 3.0])
    assert fell([]) is None and fell([2.0]) is None and fell([math.nan, 2.0]) is None
