"""Compare a training step, with all its records, with its floor: the work that no such step can avoid.

The floor reads the same batches: a forward of the bare teacher, and forward, backward and optimiser step of the same
student on its cross-entropy alone. The rest is kvlab's own work: rows, projection, fusion, the KV loss and its
backward, clipping, the collapse statistics, metrics, log and checkpoint table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate.state import AcceleratorState, GradientState

from kvlab.bench.pair import TINY, documents, random_model, tokenizers, true_shapes
from kvlab.bench.row import TIME, Row, in_turn, timed
from kvlab.models.forward import padded
from kvlab.models.loading import LoadedModel, load
from kvlab.request.align import LayerRule
from kvlab.request.train import TrainConfig
from kvlab.shapes import Document
from kvlab.train import data, learner
from kvlab.train.loop import Loop, predicted
from kvlab.train.process import Phase, Stop
from kvlab.train.record import Record
from kvlab.train.run import Run

NAME = "training step"
AGAINST = "student step + bare teacher forward, same batches"
BARS = {"cuda": 1.10, "cpu": 1.15}


@dataclass(frozen=True)
class Size:
    documents: int
    characters: int  # of a document, at least
    batch: int
    steps: int  # of each side in a round
    rounds: int
    layers: LayerRule = "heldout"


ON_GPU = Size(documents=200, characters=2_000, batch=4, steps=5, rounds=5)
ON_CPU = Size(documents=40, characters=600, batch=2, steps=3, rounds=7)
DEMO = Size(documents=200, characters=200, batch=2, steps=20, rounds=7)
QUICK = Size(documents=12, characters=100, batch=2, steps=2, rounds=1, layers="depth")


def wide_pair(device: torch.device, quick: bool) -> Row:
    """Measure models of random weights, as large as the device can train."""
    size = ON_GPU if device.type == "cuda" else ON_CPU
    size = QUICK if quick else size
    shape_t, shape_s = TINY if quick else true_shapes(device)
    tokenizer_t, tokenizer_s = tokenizers()
    half = torch.bfloat16 if device.type == "cuda" else torch.float32
    teacher = random_model("teacher", shape_t, tokenizer_t, device, half)
    student = random_model("student", shape_s, tokenizer_s, device, torch.float32)  # mixed precision trains float32
    return _measure(NAME, teacher, student, documents(size.documents, size.characters), size, BARS[device.type])


def demo_pair(device: torch.device, quick: bool) -> Row:
    """Measure the bundled models: their step takes milliseconds, so it shows the cost of Python."""
    teacher, student = (load(f"demo/{role}", str(device), "float32") for role in ("teacher", "student"))
    size = QUICK if quick else DEMO
    return _measure(f"{NAME}, demo pair", teacher, student, documents(size.documents, size.characters), size, None)


def _measure(
    name: str, teacher: LoadedModel, student: LoadedModel, texts: Sequence[Document], size: Size, bar: float | None
) -> Row:
    device = teacher.device
    steps = size.steps * (size.rounds + 1)  # a round to warm up
    with TemporaryDirectory(prefix="kvlab-bench-") as folder:
        run = prepared(Path(folder), teacher, student, texts, size.batch, steps, size.layers)
        loop, ours, floors = run.loop(), iter(range(1, steps + 1)), iter(range(1, steps + 1))

        def training() -> None:
            for _ in range(size.steps):
                run.step(loop, next(ours), pace=0.0)

        def floor() -> None:
            for _ in range(size.steps):
                floor_step(run, loop, teacher, next(floors))

        training()
        floor()
        measured = in_turn(training, floor, device, size.rounds)
        items = [item for number in range(steps) for micro in run.data.step(number) for item in micro]
        return timed(
            name,
            AGAINST,
            measured,
            TIME,
            bar,
            models=[f"{m.geometry.parameters / 1e6:,.1f}M {m.dtype}" for m in (teacher, student)],
            batch_size=size.batch,
            steps_per_round=size.steps,
            student_tokens_per_step=round(sum(len(item.student) for item in items) / steps),
            precision=run.config.precision,
            final_loss=run.record.lines[-1]["loss"],
        )


def prepared(
    folder: Path,
    teacher: LoadedModel,
    student: LoadedModel,
    texts: Sequence[Document],
    batch: int,
    steps: int,
    layers: LayerRule = "heldout",
) -> Run:
    """Prepare a run of models in memory up to its first step; its files go to ``folder``."""
    config = TrainConfig(
        max_steps=steps,
        batch_size=batch,
        device=str(teacher.device),
        precision="bf16" if teacher.dtype == torch.bfloat16 else "fp32",
        fit_documents=len(texts) - 1,
        layers=layers,
    )
    forget_accelerate()
    record = Record(folder, config.max_steps, config.thresholds)
    run = Run(folder, config, record, None, Phase(None), Stop(folder))
    run.data = data.read(config, [teacher], student, texts[1:], texts[:1])
    run.take([teacher], student)
    record.loaded = True
    return run


def forget_accelerate() -> None:
    """Reset Accelerate, which keeps precision and device for the whole process; rows here differ in them."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def floor_step(run: Run, loop: Loop, teacher: LoadedModel, number: int) -> float:
    """Run only the necessary work of step ``number`` and return its cross-entropy."""
    optimizer, model, items = run.optimizer.optimizer, run.student.model.train(), run.data.order[number - 1].ravel()
    batch = [run.data.train[place] for place in items]
    with torch.inference_mode():
        ids, mask = padded([item.teachers[0] for item in batch], teacher.device)
        teacher.model.base_model(input_ids=ids, attention_mask=mask, use_cache=True)
    ids, mask = padded([item.student for item in batch], run.student.device)
    with run.accelerator.autocast():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    loss = learner.cross_entropy(logits, ids, mask[:, 1:].bool()) / predicted(batch)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())
