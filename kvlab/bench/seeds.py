"""Measure the effect of 100 steps on a trained student, over several seeds, beside the controls.

    python -m kvlab.bench.seeds                        # the table of docs/benchmarks.md: 3 seeds of every kind of run
    python -m kvlab.bench.seeds --lr 2e-4 --kinds kv   # the same at another learning rate
    python -m kvlab.bench.seeds --functional           # with the functional test before and after

Every run is the recommended one on the demo pair, except for the number of held-out documents. A seed decides the data
order, the training documents and the held-out ones, so compare runs of the same seed only.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from transformers.utils import logging as transformers_logging

from kvlab.bench import run
from kvlab.models.loading import pick_device
from kvlab.runs import store
from kvlab.runs.lenient import read_json
from kvlab.runs.records import REPORT
from kvlab.train.process import perform

KINDS: dict[str, dict[str, Any]] = {
    "kv": {},
    "kv, exact rows": {"time": "exact"},
    "head outputs": {"kv_loss": "head-outputs"},
    "ce-only": {"control": "ce-only"},
    "shuffled-teacher": {"control": "shuffled-teacher"},
    "two teachers, learned fusion": {"teachers": ["demo/teacher", "demo/teacher-b"], "fusion": "learned"},
}
HELD_OUT = 128  # documents; enough that the runs of a seed differ by more than their errors
MEASURED = ("ce", "kv_key", "kv_value", "kv_output", "kl")
HEAD = "| run | seed | held-out CE | KV error of keys | of values | of head outputs | KL | training, s | verdict |"
HEAD += "\n|---|---|---|---|---|---|---|---|---|"


def measure(kinds: Sequence[str], seeds: Sequence[int], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Perform every run in its own folder, print it as a row of a table, and return one record per run."""
    print(HEAD, flush=True)
    records = []
    for kind in kinds:
        for seed in seeds:
            record = _one(kind, {"eval_documents": HELD_OUT, "seed": seed, **KINDS[kind], **settings})
            print(row(record), flush=True)
            records.append(record)
    return records


def row(record: dict[str, Any]) -> str:
    """Format before → after as a line of a Markdown table."""
    before, after = record["before"], record["after"]
    numbers = [f"{before[name]:.3f} → {after[name]:.3f}" if name in before else "" for name in MEASURED]
    cells = [record["kind"], record["seed"], *numbers, f"{record['seconds']:.0f}"]
    return "| " + " | ".join(map(str, [*cells, ", ".join(record["failed"]) or "pass"])) + " |"


def _one(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    with TemporaryDirectory(prefix="kvlab-seeds-") as place:
        folder = Path(place)
        (folder / store.CONFIG).write_text(yaml.safe_dump(settings), encoding="utf-8")
        perform(folder)
        error, report = store.read_status(folder).get("error"), read_json(folder / REPORT)
        if error:
            raise SystemExit(f"the run {kind} of seed {settings['seed']} broke off: {error['found']}")
    failed = [checkpoint["name"] for checkpoint in report["checkpoints"] if checkpoint["state"] == "fail"]
    scores = {name: report[name] for name in ("before", "after", "verdict", "first_loss", "final_loss")}
    for when in ("before", "after") if "functional" in report else ():  # of the projected cache, beside the own one
        scores[when]["kl"] = report["functional"][when]["variants"]["projected"]["kl"]
    return {
        "kind": kind,
        "seed": settings["seed"],
        "failed": failed,
        "seconds": report["seconds"]["training"],
        **scores,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = run.parser("seeds", __doc__)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    settable = {"lr": float, "batch_size": int, "max_steps": int}
    for name, kind in settable.items():
        parser.add_argument(f"--{name}", type=kind, help="of every run (default: the recommended run's)")
    parser.add_argument("--functional", action="store_true", help="put the projected cache into the student, too")
    options = parser.parse_args(arguments)
    transformers_logging.disable_progress_bar()
    about = run.print_surroundings(pick_device(options.device))
    print()
    settings = {name: getattr(options, name) for name in settable if getattr(options, name) is not None}
    runs = measure(
        options.kinds, options.seeds, {"device": options.device, "functional": options.functional, **settings}
    )
    counts = runs[0]["before"]
    print(f"\n{counts['documents']} held-out documents, about {counts['tokens']:,} tokens and {counts['rows']:,} rows")
    if options.out:
        run.write_json(options.out, {**about, "settings": settings, "runs": runs})
    return 0


if __name__ == "__main__":
    sys.exit(main())
