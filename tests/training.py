"""Training runs of tiny models, in this process or in one of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState

from kvlab.demo.corpus import problems
from kvlab.request.settings import checked
from kvlab.request.train import TrainConfig
from kvlab.runs import store
from kvlab.train.process import Phase
from kvlab.train.record import Record
from kvlab.train.run import Run
from tests.tiny import tiny_model

PROJECT = Path(__file__).parents[1]
SMALL = {"max_steps": 4, "fit_documents": 12, "eval_documents": 3, "batch_size": 2, "lr": 1e-3, "checkpoint_every": 2}


def tiny_pair(folder: Path) -> dict:
    """Settings of a run of two tiny teachers and a student with another tokenizer, and 30 documents."""
    text = "\n".join(p["prompt"] + "\n" + p["reasoning"] for p in problems("train", 30, seed=5))
    tiny_model("qwen2", folder / "teacher", seed=1, num_hidden_layers=3, text=text)
    tiny_model("qwen3", folder / "other", seed=2, num_hidden_layers=2, head_dim=24, text=text, vocab=450)
    style = {"tokenizer_style": "sentencepiece", "vocab": 500}
    tiny_model("llama", folder / "student", seed=3, num_hidden_layers=2, text=text, **style)
    lines = [json.dumps({k: p[k] for k in ("prompt", "reasoning", "answer")}) for p in problems("train", 30, seed=6)]
    (folder / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return {
        **SMALL,
        "teachers": [str(folder / "teacher")],
        "student": str(folder / "student"),
        "data": str(folder / "data.jsonl"),
    }


def forget_accelerate() -> None:
    """Its state is the whole process's: of an earlier run in this process."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def prepared(folder: Path, settings: dict) -> Run:
    """A run just before its first step, in this process."""
    forget_accelerate()
    folder.mkdir(exist_ok=True)
    config = checked(TrainConfig, settings)
    run = Run(folder, config, Record(folder, config.max_steps, config.thresholds), None, Phase(None), Never())
    run.prepare()
    return run


class Never:
    """Nobody asks the run to stop."""

    def __call__(self) -> bool:
        return False

    def check(self) -> None:
        pass


def steps(run: Run) -> list[dict]:
    loop = run.loop()
    return [loop.step(number) for number in range(1, run.config.max_steps + 1)]


def weights(run: Run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.accelerator.unwrap_model(run.learner).parameters()])


def written(folder: Path, settings: dict) -> Path:
    """A run folder that a process can take up."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / store.CONFIG).write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


def started(folder: Path) -> subprocess.Popen:
    """The process of a run."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "kvlab.train", str(folder)]
    with open(folder / "output.txt", "wb") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output)


def metrics(folder: Path) -> list[dict]:
    return store.read_lines(folder / store.METRICS).records


@contextmanager
def ended_behind(step: int) -> Iterator[None]:
    """End the runs inside ``with`` behind the line of this step, as Ctrl-C would."""
    append = store.append_metrics

    def ending(folder: Path, record: dict) -> None:
        append(folder, record)
        if record.get("step") == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "append_metrics", ending)
        yield
