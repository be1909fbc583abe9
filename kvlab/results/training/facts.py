"""Gather the report of a training run from the files of its folder: the fields of the founding checklist's report.

Works for failed, lost and active runs, and for damaged folders. The report holds only plain values, so that it can be
written as JSON; its curves are thinned lists, so that it stays small.
"""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvlab.language import Message
from kvlab.results.training import helps, records
from kvlab.runs import monitor, notes, store
from kvlab.runs.metrics import MEMORY, Reader, Steps, Table, curve, fell, pace, peak, smoothed
from kvlab.runs.monitor import View
from kvlab.runs.records import FORECAST, REPORT, VERDICT, Checkpoint, Checks, Forecast, Outcome, Report, Status, Verdict

LIMIT = 0.8  # of the device's memory, if the verdict gives no threshold
MILESTONES = (("models loaded", 0.0), ("forward passes", 0.1), ("loss converging", 0.5), ("training stable", 1.0))
CHECK_ROWS = (("heads", (1,)), ("heads-dims", (2,)), ("resampling", (3,)), ("empty", (5,)), ("one", (4,)))
CHECK_ROWS += (("integration", (6, 7)), ("overall", tuple(range(1, 8))))
# Kinds of error that torch raises as RuntimeError.
RUNTIME_KINDS = ("shape", "out-of-memory", "device-error")

Fields = dict[str, Any]


def gather(folder: Path, checks: Sequence[Fields] | None = None, checked: str | None = None) -> Fields:
    """Return the report of one run. Never raises for the content of the folder.

    ``checks``: outcomes of the seven KV checks (number, error, seconds), run at ``checked``; default: the run's own.
    """
    view, status = monitor.view(folder), Status.of(store.read_status(folder))
    recorded, verdict = Report.read(folder / REPORT), Verdict.read(folder / VERDICT)
    reader, samples = Steps(folder), Reader(folder / MEMORY)
    steps, memory = reader.read(), samples.read()
    checkpoints = [checkpoint for checkpoint in verdict.checkpoints if checkpoint.name]
    requested = Status.of({"total": view.config.get("max_steps")}).total
    total = requested or (status.total if view.phase == "training" else None)
    speed = pace(steps, total or 0)
    problems = _problems(view, status, reader)
    errors = [problem["error"] for problem in problems if _is_runtime_error(problem["error"])]
    run = {
        **{name: getattr(view, name) for name in ("id", "name", "state", "phase", "host")},
        "verdict": verdict.state,
        "started": (status.history[0].started if status.history else None) or view.started,
        "ended": view.updated if not view.active else None,
        "elapsed_s": view.elapsed_s,
        "runtime_errors": errors,
        "first_loss": _at(steps, "loss", 0),
        "final_loss": _at(steps, "loss", -1),
        "steps_done": int(steps.column("step")[-1]) if steps.rows else 0,
        "steps": total,
        "all_steps_done": bool(steps.rows) and total is not None and steps.column("step")[-1] >= total,
        "tokens_per_s": speed.tokens_per_s,
        "remaining_s": speed.remaining_s if view.active and total is not None else None,
        "peak_memory": _peak(memory),
    }
    kv_checks = recorded.checks
    if checks is not None:
        kv_checks = Checks.of({"outcomes": list(checks), "time": checked})
    documents, judged = recorded.data, helps.of_run(folder)
    report = {
        "run": run,
        "checks": _checks(kv_checks.outcomes, kv_checks.time),
        "milestones": _milestones(checkpoints, steps, memory, reader, total, view),
        "conditions": [c.model_dump() for c in checkpoints if c.name not in dict(MILESTONES)],
        "problems": problems,
        "notes": notes.read(folder) or None,
        "data_notes": [note for note in recorded.notes if isinstance(note, str | dict)],
        "documents": documents.model_dump() if None not in (documents.train, documents.heldout) else None,
        "trained_parameters": recorded.trained_parameters,
        "before": records.measured(recorded, "before"),
        "after": records.measured(recorded, "after"),
        "functional": records.read(recorded.functional),
        "controls": records.controls(folder),
        "helps": judged.to_dict() if judged else None,
        "forecast": _forecast(Forecast.read(folder / FORECAST), run["peak_memory"]),
        "series": series(steps, memory),
        "config": view.config,
        "versions": recorded.versions,
        "seed": view.config.get("seed", recorded.seed),
        "device": recorded.device.words,
        "place": recorded.device.device,
        "command": f"python -m kvlab train --config {shlex.quote(str(folder / store.CONFIG))} --output_dir DIR",
        "unreadable_lines": reader.garbage + samples.garbage + reader.torn + samples.torn,
    }
    return _finite({**report, "criteria": _criteria(report, reader, checkpoints)})


def _checks(outcomes: Sequence[Outcome], time: str | None) -> Fields:
    errors = {outcome.number: outcome.error for outcome in outcomes if outcome.number is not None}
    if not errors:
        return {"time": None, "rows": [], "failed": [], "passed": None}
    rows = []
    for name, numbers in CHECK_ROWS:
        wrong = [f"{number}: {errors[number]}" for number in numbers if errors.get(number)]
        missing = [number for number in numbers if number not in errors]
        rows.append({"name": name, "passed": None if missing else not wrong, "remark": "; ".join(wrong)})
    failed = [{"number": number, "error": error} for number, error in errors.items() if error]
    return {"time": time, "rows": rows, "failed": failed, "passed": rows[-1]["passed"]}


def _milestones(
    checkpoints: list[Checkpoint], steps: Table, memory: Table, reader: Steps, total: int | None, view: View
) -> list[Fields]:
    """Return the checklist's rows for steps 0, 10, 50 and 100, scaled to the steps of this run."""
    judged = {checkpoint.name: checkpoint for checkpoint in checkpoints}
    rows = []
    for name, share in MILESTONES:
        checkpoint = judged.get(name, Checkpoint())
        step = checkpoint.step
        if step is None and total is not None:
            step = round(share * total)
        at = next((n for n, number in enumerate(steps.column("step")) if number == step), None)
        rows.append(
            {
                "step": step,
                "name": name,
                "state": checkpoint.state or ("pending" if view.active else "fail"),
                "loss": _at(steps, "loss", at) if at is not None else None,
                "memory": _memory_at(memory, steps, at, step) if not reader.resumed else None,
                "value": checkpoint.value,
                "threshold": checkpoint.threshold,
                "words": checkpoint.words,
            }
        )
    return rows


def _memory_at(memory: Table, steps: Table, at: int | None, step: int | None) -> int | None:
    """Return the most memory in use up to the end of a step. Samples hold the time and the phase, not the step."""
    _, times, used = curve(memory)
    until = next((moment for moment, row in zip(times, memory.rows) if row.get("phase") == "training"), math.inf)
    if step != 0:
        if at is None:
            return None
        until += sum(seconds for seconds in steps.column("seconds")[: at + 1] if math.isfinite(seconds))
    known = [value for moment, value in zip(times, used) if moment <= until and math.isfinite(value)]
    return int(max(known)) if known else None


def _problems(view: View, status: Status, reader: Steps) -> list[Fields]:
    """Return every failure or kill of the run, and how the run continued after it."""
    problems = []
    # A run without a checkpoint restarts without a log line; then no line can be matched to its end.
    known = len(reader.resumed) == len(status.history)
    for number, end in enumerate(status.history):
        solved = {"resumed": end.resumed, "from_step": reader.resumed[number] if known else None}
        problems.append({"state": end.state, "error": end.error, "solved": solved})
    error = view.error or status.cause or {}
    if view.state in ("failed", "lost") or (view.state == "cancelled" and error):
        problems.append({"state": view.state, "error": error, "solved": None})
    return [problem for problem in problems if problem["error"] or problem["state"] != "cancelled"]


def _criteria(report: Fields, reader: Steps, checkpoints: list[Checkpoint]) -> list[Fields]:
    """Return the checklist's criteria of a successful validation; ``met`` is None while unknown."""
    run = report["run"]
    ended, memory = run["state"] not in store.ACTIVE, run["peak_memory"]
    limits = [c.threshold for c in checkpoints if c.name == "memory" and c.threshold is not None]
    limit = limits[0] if limits else LIMIT
    declined = False if reader.nonfinite else fell(reader.table.column("loss"))
    completed = not run["runtime_errors"] and run["all_steps_done"]
    share = memory["share"] if memory else None
    return [
        {"name": "checks", "met": report["checks"]["passed"]},
        {"name": "steps", "met": completed if ended or run["runtime_errors"] else None},
        {"name": "loss", "met": declined},
        {"name": "memory", "met": share < limit if share is not None else None, "limit": limit},
    ]


def _peak(memory: Table) -> Fields | None:
    highest = peak(memory)
    if highest is None:
        return None
    source = next((row["source"] for row in reversed(memory.rows) if isinstance(row.get("source"), str)), None)
    sizes = {"bytes": highest.used, "gb": round(highest.used / 1e9, 3), "total": highest.total, "share": highest.share}
    return {**sizes, "of": highest.what, "phase": highest.phase, "source": source}


def _forecast(forecast: Forecast, peak: Fields | None) -> Fields | None:
    """Compare forecast.json with the peak: ``growth`` = peak - baseline, ``ratio`` = forecast / growth, else None."""
    parts = [part.model_dump() for part in forecast.parts if part.name and part.bytes is not None]
    sizes = (forecast.total, forecast.lower, forecast.upper, forecast.baseline, forecast.tokens)
    if not parts or None in sizes:
        return None
    growth = peak["bytes"] - forecast.baseline if peak else None
    ratio = forecast.total / growth if growth and growth > 0 else None
    measured = {"peak": peak and peak["bytes"], "source": peak and peak["source"]}
    return {**forecast.model_dump(), "parts": parts, **measured, "growth": growth if ratio else None, "ratio": ratio}


def _is_runtime_error(error: Fields) -> bool:
    return error.get("kind") in RUNTIME_KINDS or "RuntimeError" in Message.read(error.get("found"))


def _at(table: Table, name: str, row: int) -> float | None:
    values = table.column(name)
    return values[row] if values and math.isfinite(values[row]) else None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


TERMS = ("loss", "ce", "kv_key", "kv_value", "kv_output", "entropy")
MOST_POINTS = 2000  # of a curve; more than a figure has pixels


def series(steps: Table, memory: Table) -> Fields:
    """Return ``step`` and the terms over it, raw and smoothed, the router's weights, and bytes over seconds of work.

    Keeps every ``every``-th step and the last, and the largest memory of each group.
    """
    numbers = steps.column("step")
    every = -(-len(numbers) // MOST_POINTS) or 1
    places = list(range(0, len(numbers), every))
    if places and places[-1] != len(numbers) - 1:
        places.append(len(numbers) - 1)
    terms = {name: steps.column(name) for name in TERMS if any(map(math.isfinite, steps.column(name)))}
    if "router.0" not in steps.columns:
        terms.pop("entropy", None)  # of the weights of a single teacher, which are always 1
    smooth = {name: smoothed(values) for name, values in terms.items()}
    routers = sorted(
        (name for name in steps.columns if name.startswith("router.") and name[7:].isdigit()),
        key=lambda name: int(name[7:]),
    )
    what, times, used = curve(memory)
    size = -(-len(used) // MOST_POINTS) or 1
    heights = [value if math.isfinite(value) else -math.inf for value in used]
    groups = [range(start, min(start + size, len(used))) for start in range(0, len(used), size)]
    peaks = [max(group, key=heights.__getitem__) for group in groups]
    return {
        "every": every,
        "step": [int(numbers[at]) for at in places],
        "raw": {name: [values[at] for at in places] for name, values in terms.items()},
        "smooth": {name: [values[at] for at in places] for name, values in smooth.items()},
        "router": [[steps.column(name)[at] for at in places] for name in routers],
        "memory": {"of": what, "seconds": [times[at] for at in peaks], "bytes": [used[at] for at in peaks]},
    }
