"""The report holds every field of the founding checklist, from what really happened, however the run went."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from kvlab.results.training.facts import gather
from kvlab.results.training.report import markdown
from kvlab.runs import store

CHECKED = "2026-01-31T12:00:00+00:00"
NAMES = ("models loaded", "forward passes", "loss converging", "training stable")


def checks(failing: int | None = None) -> list[dict]:
    return [{"number": n, "error": "AssertionError: a | b" if n == failing else None} for n in range(1, 8)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of 100 steps that passed."""
    folder = store.create(tmp_path / "runs", "training", "x", {"max_steps": 100, "seed": 7, "batch_size": 2})
    for step in range(1, 101):
        store.append_metrics(folder, {"step": step, "loss": 5 - step / 25, "seconds": 0.5, "tokens_per_s": 80.0})
    samples = [(0, "loading", 2), (10, "training", 5), (15, "training", 6), (60, "evaluating after", 4)]
    for t, phase, gb in samples:
        row = {"t": t, "phase": phase, "process_rss": 10**9, "device_used": gb * 10**9, "device_total": 10 * 10**9}
        store.append(folder / "memory.jsonl", json.dumps({**row, "source": "NVML"}).encode() + b"\n")
    steps = zip(NAMES, (0, 10, 50, 100))
    table = [{"step": s, "name": n, "state": "pass", "words": f"words of {n}"} for n, s in steps]
    memory = {"step": 100, "name": "memory", "state": "pass", "threshold": 0.8, "words": "peak 60%"}
    write(folder, "verdict.json", {"state": "pass", "checkpoints": [*table, memory]})
    versions = {"torch": "2.13", "kvlab": "0.1.0"}
    write(folder, "report.json", {"versions": versions, "before": {"ce": 3.5}, "after": {"ce": 3.25}})
    store.write_status(folder, state="done", started=CHECKED, elapsed_s=70, phase="reporting")
    return folder


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value))


def test_every_field_of_the_checklist_is_filled(folder):
    report = gather(folder, checks(), CHECKED)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    run = report["run"]
    assert (run["state"], run["verdict"], run["started"]) == ("done", "pass", CHECKED) and run["ended"]
    assert (run["first_loss"], run["final_loss"], run["runtime_errors"]) == (4.96, 1.0, [])
    assert (run["steps_done"], run["all_steps_done"], run["tokens_per_s"]) == (100, True, 80.0)
    assert (run["peak_memory"]["gb"], run["peak_memory"]["share"]) == (6.0, 0.6)
    rows = [(row["step"], row["state"], row["loss"], row["memory"]) for row in report["milestones"]]
    assert rows == [
        (0, "pass", None, 5 * 10**9),
        (10, "pass", 4.6, 6 * 10**9),
        (50, "pass", 3.0, 6 * 10**9),
        (100, "pass", 1.0, 6 * 10**9),
    ]
    assert [row["passed"] for row in report["checks"]["rows"]] == [True] * 7
    assert [criterion["met"] for criterion in report["criteria"]] == [True] * 4
    assert report["seed"] == 7 and str(folder / "config.yaml") in report["command"] and report["problems"] == []


def test_the_markdown_says_it_all(folder):
    (folder / "notes.md").write_text("lr was too high before")
    text = markdown(gather(folder, checks(), CHECKED))
    for line in (
        "| head projection 12 → 2 | ✓ passed |  |",
        "| edge case T = 0 | ✓ passed |  |",
        "| 50 | loss converging | ✓ passed | 3.0000 | 5.6 GiB | words of loss converging |",
        f"| start time | {CHECKED} |",
        "| RuntimeError | none |",
        "| final loss | 1.0000 |",
        "| peak memory | 5.6 GiB, 60% of 9.3 GiB while training (NVML: the whole device, other processes included) |",
        "| all 100 steps done | yes |",
        "| this run | 3.5000 → 3.2500 | – → – | – → – |",
        "| `torch` | `2.13` |",
        "| seed | 7 |",
        "lr was too high before",
        "python -m kvlab train --config",
    ):
        assert line in text, line


def test_a_failed_check_is_named(folder):
    report = gather(folder, checks(failing=6), CHECKED)
    assert report["checks"]["passed"] is False and report["criteria"][0]["met"] is False
    text = markdown(report)
    assert "| integration | ✗ failed | `6: AssertionError: a \\| b` |" in text and "| all passed | no |" in text


def test_without_checks_it_says_how_to_run_them(folder):
    report = gather(folder)
    assert report["criteria"][0]["met"] is None and "--checks" in markdown(report)


def test_problems_and_how_each_was_solved(folder):
    killed = {"kind": "run-killed", "expected": "e", "found": "signal 9: log:\none\ntwo", "remedy": "resume"}
    memory = {
        "kind": "out-of-memory",
        "expected": "e",
        "found": "RuntimeError: CUDA\nout of memory",
        "remedy": "batch 1",
    }
    history = [{"state": "lost", "started": "2026-01-30", "error": killed, "resumed": CHECKED}]
    store.append_metrics(folder, {"resumed_from": 40})
    store.append_metrics(folder, {"step": 41, "loss": math.nan})
    store.write_status(folder, state="failed", history=history, error=memory)
    report = gather(folder)
    assert report["run"]["started"] == "2026-01-30" and report["run"]["runtime_errors"] == [memory]
    assert (report["run"]["steps_done"], report["run"]["final_loss"]) == (41, None)
    assert [criterion["met"] for criterion in report["criteria"]] == [None, False, False, True]
    text = markdown(report)
    assert f"lost (`run-killed`): `signal 9: log: … two`\n   Resumed at {CHECKED} from step 40." in text
    assert "(`out-of-memory`): `RuntimeError: CUDA … out of memory`\n   Not solved yet. What to do: `batch 1`" in text


def test_a_run_that_was_stopped_is_no_problem_but_a_killed_one_is(folder):
    history = [{"state": "cancelled", "error": None, "resumed": CHECKED}]
    store.write_status(folder, state="cancelled", history=history)
    assert gather(folder)["problems"] == []
    store.write_status(folder, cause={"kind": "run-killed-by-user", "found": "f", "remedy": "r"})
    assert [problem["error"]["kind"] for problem in gather(folder)["problems"]] == ["run-killed-by-user"]


@pytest.mark.parametrize("garbage", ["", "[]", "{", '{"checkpoints": 7, "before": [1]}', "\x00"])
def test_a_damaged_folder_has_a_report(folder, garbage):
    for name in ("verdict.json", "report.json", "memory.jsonl", "metrics.jsonl", "config.yaml", "status.json"):
        (folder / name).write_text(garbage)
    report = gather(folder)
    assert report["run"]["state"] == "lost" and [m["state"] for m in report["milestones"]] == ["fail"] * 4
    assert folder.name in markdown(report)


@pytest.mark.parametrize(
    "checkpoint",
    [{}, [], {"name": []}, {"name": "models loaded", "step": "0", "state": {}}, {"name": "memory", "threshold": "x"}],
)
def test_odd_checkpoints_do_no_harm(folder, checkpoint):
    write(folder, "verdict.json", {"state": 3, "checkpoints": [checkpoint]})
    store.write_status(folder, state="failed", history=[7, {"error": 3, "resumed": []}], error=None)
    assert folder.name in markdown(gather(folder))


def test_a_run_that_has_just_been_queued_has_a_report(tmp_path):
    folder = store.create(tmp_path, "training", "x", {"max_steps": 20})
    report = gather(folder)
    assert [m["step"] for m in report["milestones"]] == [0, 2, 10, 20]
    assert {m["state"] for m in report["milestones"]} == {"pending"}
    assert [criterion["met"] for criterion in report["criteria"]] == [None, None, None, None]
    assert "– → –" not in markdown(report)


def test_a_folder_of_an_older_version_is_read(folder):
    """Its verdict, notes and errors are finished sentences, and the gathered report stands in report.json."""
    made = json.loads((folder / "report.json").read_text())
    device = {"device": "cpu", "words": "runs on the processor; no GPU was found"}
    old = {**made, "report": gather(folder), "notes": ["1 of 9 documents was cut: done"], "device": device}
    write(folder, "report.json", old)
    remark = "waits for step 50; the run ended at step 3: model"
    write(
        folder, "verdict.json", {"state": "fail", "checkpoints": [{"name": NAMES[2], "state": "fail", "words": remark}]}
    )
    error = {"kind": "run-died", "expected": "training", "found": "it ended", "remedy": "resume the run"}
    store.write_status(folder, state="failed", error=error)
    report = gather(folder)
    assert "report" not in report and report["device"] == device["words"]
    for language in ("en", "zh"):
        text = markdown(report, language)
        for part in (remark, "`1 of 9 documents was cut: done`", "`it ended`", "`resume the run`"):
            assert part in text, (language, part)
