"""Measure the chosen rows one after the other, print each when done, and write them as JSON."""

import argparse
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from typing import Any

import torch
import transformers

import kvlab
from kvlab.bench import (
    handover,
    layers,
    memory,
    overhead,
    processes,
    ridge,
    steps,
    stream,
    timelines,
    training,
    true_shapes,
)
from kvlab.bench.row import FASTER, Row
from kvlab.models.loading import free_memory, pick_device
from kvlab.results.alignment.data import plain

MEASURES: dict[int, Callable[..., Row]] = {  # of a device, whether it is quick, and LAYERED ones of a number of layers
    1: overhead.many_documents,
    2: memory.many_prompts,
    3: timelines.byte_borders,
    4: layers.against_dense,
    5: ridge.against_sklearn,
    6: stream.a_million_tokens,
    7: overhead.all_sample,
    8: training.wide_pair,
    9: training.demo_pair,
    10: steps.hundred_steps,
    11: true_shapes.sums,
    12: true_shapes.forecast,
    13: processes.two,
    14: handover.against_prefill,
}
LAYERED = (1, 7, 11, 14)
MARKS = {True: "✓", False: "✗", None: " "}


def run(
    numbers: Sequence[int], device: str, quick: bool, out: Path | None, layers_per_student: int | None = None
) -> list[Row]:
    """Measure rows. ``quick``: tiny sizes to try the code, without a verdict. ``out`` is written after every row.

    ``layers_per_student``: teacher layers for each student layer, in the rows that say so.
    """
    place = pick_device(device)
    about = print_surroundings(place)
    rows: list[Row] = []
    for number in numbers:
        layered = {"layers_per_student": layers_per_student} if layers_per_student and number in LAYERED else {}
        measured = MEASURES[number](place, quick, **layered)
        rows.append(replace(measured, bar=None, holds=None) if quick else measured)
        print(line(rows[-1]), flush=True)
        free_memory()
        if out is not None:
            write_json(out, {**about, "quick": quick, "rows": [asdict(row) for row in rows]})
    return rows


def line(row: Row) -> str:
    bar = "" if row.bar is None else f"{'≥' if row.unit == FASTER else '≤'} {row.bar:g}"
    what = f"{MARKS[row.holds]} {row.name}, against {row.against}"
    if isnan(row.ratio):
        return f"{what}: not measured: {row.detail['not_measured']}"
    spread = f"({row.low:.3g} to {row.high:.3g} in {row.detail['rounds']})"
    return f"{what:<96} {row.ratio:>7.3g} {row.unit:<12} {spread:<26} {bar}".rstrip()


def print_surroundings(device: torch.device) -> dict[str, Any]:
    """Print and return the surroundings on which the numbers depend besides the code."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "kvlab": kvlab.__version__,
    }
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    return about


def processor() -> str:
    """Return the processor's own name, where the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_json(file: Path, numbers: dict[str, Any]) -> None:
    file.write_text(json.dumps(plain(numbers), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def parser(module: str, description: str) -> argparse.ArgumentParser:
    """Return the command line of another table, with the options that all tables share."""
    options = argparse.ArgumentParser(prog=f"python -m kvlab.bench.{module}", description=description.splitlines()[0])
    options.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    options.add_argument("--out", type=Path, metavar="FILE", help="write the numbers as JSON")
    return options
