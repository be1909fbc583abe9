"""What is told of a run: the line of a step in the log, and the numbers of its report."""

from __future__ import annotations

import platform
import shlex
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers

import kvlab
from kvlab.runs import store
from kvlab.train.config import TrainConfig
from kvlab.train.mapping import Fitted
from kvlab.train.memory_watch import MemoryWatch
from kvlab.train.record import Record
from kvlab.train.verdict import in_force


def summary(config: TrainConfig, folder: Path, record: Record, watch: MemoryWatch | None, state: str) -> dict[str, Any]:
    """The part of report.json that follows from the run's own files."""
    lines, again = in_force(record.lines), folder / store.CONFIG
    return {
        "verdict": state,
        "checkpoints": [checkpoint.to_dict() for checkpoint in record.table],
        "config": config.model_dump(mode="json"),
        "command": f"python -m kvlab train --config {shlex.quote(str(again))} --output_dir DIR",
        "seed": config.seed,
        "steps": len(lines),
        "first_loss": lines[0].get("loss") if lines else None,
        "final_loss": lines[-1].get("loss") if lines else None,
        "tokens_per_s": _mean([line.get("tokens_per_s") for line in lines]),
        "memory": watch.peak() if watch else None,
        "versions": {
            "kvlab": kvlab.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "accelerate": accelerate.__version__,
        },
    }


def facts(fitted: Fitted, kind: str) -> dict:
    problems = [
        {"kind": k, "layer": layer, "teacher_layers": list(layers), "r2": fitted.r2[k, layer]}
        for (k, layer), layers in fitted.layers.items()
    ]
    return {"map": kind, "rows": fitted.rows, "layers": problems}


def _mean(values: list) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def of_step(line: dict, steps: int, remaining: float) -> str:
    parts = [f"ce {line['ce']:.4f}"]
    if line["kv_key"] is not None:
        parts += [f"K {line['kv_key']:.4f}", f"V {line['kv_value']:.4f}"]
    if "router" in line:
        parts.append("teachers " + " ".join(f"{weight:.2f}" for weight in line["router"]))
    norm = "skipped" if line["grad_norm"] is None else f"{line['grad_norm']:.3g}"
    return (
        f"step {line['step']}/{steps}  loss {line['loss']:.4f} ({', '.join(parts)})  lr {line['lr']:.2e}  "
        f"|grad| {norm}  {line['tokens_per_s']:.0f} tokens/s  {remaining:.0f} s left"
    )
