"""Measure memory, pace and verdict of a whole training run of 100 steps with models of random weights.

On a GPU in the shapes of Qwen2-7B (bfloat16) and TinyLlama (float32 weights, mixed precision). It is a run of
``python -m kvlab train`` with all its files, except that it builds its models instead of loading them. The folder
stays among the runs, without the checkpoint.
"""

import shutil
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from kvlab.bench import pair
from kvlab.bench.row import MEMORY, Row, judged
from kvlab.bench.training import forget_accelerate
from kvlab.errors import KvlabError
from kvlab.models.geometry import geometry_of
from kvlab.models.loading import LoadedModel
from kvlab.request import prompts
from kvlab.request.train import OWN_PROMPTS, TrainConfig
from kvlab.runs import metrics, store
from kvlab.runs.lenient import read_json
from kvlab.runs.metrics import Reader
from kvlab.runs.records import FORECAST, REPORT
from kvlab.train import checkpoint
from kvlab.train.process import perform
from kvlab.train.run import Run

LIMIT = 0.8  # of the device's memory: the checklist's bar
RATE = 1e-4  # random weights are not fine-tuned
REPORTED = ("trained_parameters", "verdict", "checkpoints", "first_loss", "final_loss", "before", "after", "seconds")


@dataclass(frozen=True)
class Size:
    teacher: str
    student: str
    documents: int
    characters: int  # of a document, at least
    batch: int
    steps: int


SHAPES = {
    "random/Qwen2-7B": pair.QWEN2_7B,
    "random/TinyLlama": pair.TINY_LLAMA,
    "random/Qwen2-0.5B-6-layers": pair.FEW_LAYERS_OF_QWEN2_05B,
    "random/SmolLM-135M-4-layers": pair.FEW_LAYERS_OF_SMOLLM,
    "random/tiny-teacher": pair.TINY[0],
    "random/tiny-student": pair.TINY[1],
}
ON_GPU = Size("random/Qwen2-7B", "random/TinyLlama", documents=200, characters=2_000, batch=4, steps=100)
ON_CPU = Size("random/Qwen2-0.5B-6-layers", "random/SmolLM-135M-4-layers", 100, 300, batch=2, steps=100)
QUICK = Size("random/tiny-teacher", "random/tiny-student", documents=12, characters=100, batch=2, steps=4)


class MadeRun(Run):
    """A run that builds its models from SHAPES, on their device."""

    def _readers(self) -> list[LoadedModel]:
        return [self._unread(name) for name in (*self.config.teachers, self.config.student)]

    def _model(self, name: str, device: str, dtype: str, **placed: Any) -> LoadedModel:
        role = self._unread(name)
        return pair.random_model(name, SHAPES[name], role.tokenizer, torch.device(device), getattr(torch, dtype))

    def _unread(self, name: str) -> LoadedModel:
        tokenizer = pair.tokenizers()[name == self.config.student]
        shape = geometry_of(AutoConfig.for_model(**SHAPES[name], tie_word_embeddings=False), name)
        return LoadedModel(name, None, tokenizer, shape, torch.device("meta"), torch.float32)


def hundred_steps(device: torch.device, quick: bool) -> Row:
    size = ON_GPU if device.type == "cuda" else ON_CPU
    size = QUICK if quick else size
    config = TrainConfig(
        teachers=(size.teacher,),
        student=size.student,
        data=OWN_PROMPTS,
        max_steps=size.steps,
        batch_size=size.batch,
        precision="bf16" if device.type == "cuda" else "fp32",
        lr=RATE,
        fit_documents=size.documents // 2,
        eval_documents=size.batch,
        checkpoint_every=size.steps,
        device=str(device),
    )
    folder = store.create(store.runs_root(), "training", "bench", config.model_dump(mode="json"))
    prompts.write_prompts(pair.documents(size.documents, size.characters), folder / prompts.RUN_PROMPTS)
    forget_accelerate()
    perform(folder, run=MadeRun)
    shutil.rmtree(folder / checkpoint.FOLDER, ignore_errors=True)
    return _row(folder, size)


def _row(folder: Path, size: Size) -> Row:
    error = store.read_status(folder).get("error")
    if error:
        raise KvlabError.from_dict(error)
    report, memory = read_json(folder / REPORT), Reader(folder / metrics.MEMORY).read()
    peak, (what, seconds, used) = metrics.peak(memory), metrics.curve(memory)
    torch_peak = max(filter(isfinite, memory.column("torch_peak")), default=None)
    detail: dict[str, Any] = {
        "models": [size.teacher, size.student],
        **{name: report[name] for name in REPORTED},
        "precision": report["config"]["precision"],
        "batch_size": size.batch,
        "tokens_per_second": report["tokens_per_s"],
        "peak_bytes": peak.used,
        "peak_of": what,
        "peak_while": peak.phase,
        "peak_torch_bytes": torch_peak,
        "device_bytes": peak.total,
        "forecast_bytes": {name: read_json(folder / FORECAST)[name] for name in ("lower", "total", "upper")},
        "memory_curve": [[round(t, 1), int(b)] for t, b in zip(seconds, used) if isfinite(b)],
        "run": folder.name,
    }
    # Random weights explain little of one another, so a student of such targets should shrink: no collapse check.
    passed = all(c["state"] == "pass" for c in report["checkpoints"] if c["name"] != "no collapse")
    name = f"{size.steps} training steps with all their files, peak memory"
    return judged(name, "the memory of the device", [peak.share], MEMORY, LIMIT, equal=passed, **detail)
