"""Word a run for its log and report: the line of a step, and the numbers of the report."""

import platform
import shlex
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers

import kvlab
from kvlab.request.train import TrainConfig
from kvlab.results.training.records import VARIANTS
from kvlab.results.training.verdict import in_force
from kvlab.runs import store
from kvlab.runs.metrics import median
from kvlab.train.maps import Fitted
from kvlab.train.memory_watch import MemoryWatch
from kvlab.train.record import Record


def summary(config: TrainConfig, folder: Path, record: Record, watch: MemoryWatch | None, state: str) -> dict[str, Any]:
    """Return the part of report.json that follows from the run's own files."""
    lines, config_file = in_force(record.lines), folder / store.CONFIG
    return {
        "verdict": state,
        "checkpoints": [checkpoint.to_dict() for checkpoint in record.table],
        "config": config.model_dump(mode="json"),
        "command": f"python -m kvlab train --config {shlex.quote(str(config_file))} --output_dir DIR",
        "seed": config.seed,
        "steps": len(lines),
        "first_loss": lines[0].get("loss") if lines else None,
        "final_loss": lines[-1].get("loss") if lines else None,
        "tokens_per_s": median([line.get("tokens_per_s") or 0.0 for line in lines]),
        "memory": watch.peak() if watch else None,
        "versions": {
            "kvlab": kvlab.__version__,
            "python": platform.python_version(),
            **{library.__name__: library.__version__ for library in (torch, transformers, accelerate)},
        },
    }


def facts(fitted: Fitted, kind: str) -> dict:
    problems = [
        {"kind": k, "layer": layer, "teacher_layers": list(layers), "r2": fitted.r2[k, layer]}
        for (k, layer), layers in fitted.layers.items()
    ]
    return {"map": kind, "rows": fitted.rows, "layers": problems}


def function_words(measured: dict[str, Any]) -> str:
    """Word the measurement of the projected cache (kvlab.train.functional)."""
    own = measured["own"]
    if not own["reproduces"]:
        return (
            f"no functional test: the student's own cache, injected, does not reproduce its logits (they differ by "
            f"{own['largest_difference']:.1e} of the largest, {own['tolerance']:.0e} is allowed)"
        )
    if "variants" not in measured:
        return "no functional test: in no held-out document's first half is there a token to replace"
    projected, mean, shuffled = (measured["variants"][name] for name in VARIANTS)
    return (
        f"on the projected cache KL {projected['kl']:.4f} ± {projected['kl_se']:.4f} and ΔCE "
        f"{projected['delta_ce']:+.4f} ± {projected['delta_ce_se']:.4f} nats per token against the student's own cache "
        f"(KL of the mean cache {mean['kl']:.4f}, shuffled {shuffled['kl']:.4f}; {measured['n']} tokens of "
        f"{measured['documents']} held-out documents)"
    )


def step_words(line: dict, steps: int, remaining: float) -> str:
    parts = [f"ce {line['ce']:.4f}"]
    if line["kv_key"] is not None:
        parts += [f"K {line['kv_key']:.4f}", f"V {line['kv_value']:.4f}"]
    if "kv_output" in line:
        parts.append(f"head outputs {line['kv_output']:.4f}")
    if "router" in line:
        parts.append("teachers " + " ".join(f"{weight:.2f}" for weight in line["router"]))
    norm = "skipped" if line["grad_norm"] is None else f"{line['grad_norm']:.3g}"
    return (
        f"step {line['step']}/{steps}  loss {line['loss']:.4f} ({', '.join(parts)})  lr {line['lr']:.2e}  "
        f"|grad| {norm}  {line['tokens_per_s']:.0f} tokens/s  {remaining:.0f} s left"
    )
