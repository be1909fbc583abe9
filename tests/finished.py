"""Finished results that the bundled sample is not: of several teachers, of the rkv rule, of models with gaps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from kvlab.request import prompts
from kvlab.results.alignment import data
from kvlab.results.alignment.data import Alignment, FusedScore
from kvlab.runs import store

SINCE_CLASSES = ("r2_exact", "exact_se", "r2_inside", "inside_se", "r2_own", "own_se", "r2_with_own", "with_own_se")
SINCE_CLASSES += ("added", "added_se")


def by_class(sample: Alignment) -> Alignment:
    """Maps by class of token, 5,000 tokens inside a teacher token; the teacher adds .1 plus .01 per layer number."""
    heads = [
        replace(
            s,
            r2=0.74,
            error=0.26,
            r2_exact=0.76,
            exact_se=0.006,
            r2_inside=0.69,
            inside_se=0.008,
            n_inside=5000,
            r2_own=0.73,
            own_se=0.005,
            r2_with_own=0.83 + 0.01 * s.layer,
            with_own_se=0.003,
            added=0.1 + 0.01 * s.layer,
            added_se=0.004,
        )
        for s in sample.heads
    ]
    arrays = dict(sample.arrays)
    for number in range(len(sample.inspected)):
        # Without a teacher step the lag is not a number.
        lag = arrays[f"document.{number}.lag.floor"]
        arrays[f"document.{number}.row_class"] = (lag != 0).astype(np.float32)
    return replace(sample, settings=sample.settings | {"rows": "by-class"}, heads=heads, arrays=arrays)


def of_one_map(sample: Alignment) -> Alignment:
    """As an earlier version wrote it: without classes of tokens and without the student's own tokens."""
    nothing = dict.fromkeys(SINCE_CLASSES, float("nan")) | {"n_inside": 0}
    settings = {name: value for name, value in sample.settings.items() if name != "rows"}
    arrays = {name: values for name, values in sample.arrays.items() if not name.endswith("row_class")}
    heads = [replace(s, **nothing) for s in sample.heads]
    return replace(sample, settings=settings, heads=heads, arrays=arrays)


def fused(sample: Alignment) -> Alignment:
    """Two teachers; heads gain .01 per layer number, half of it over random weights, and those of layer 0 nothing."""
    fusion = [
        FusedScore(
            kind=s.kind,
            layer=s.layer,
            head=s.head,
            r2=s.r2 + 0.01 * s.layer,
            se=0.01,
            r2_alone=[s.r2, s.r2 - 0.1],
            weights=[0.7, 0.4],
            gain=0.01 * s.layer,
            gain_se=0.001,
            n=1234,
            gain_random=0.005 * s.layer,
            gain_random_se=0.001,
            n_control=1200,
        )
        for s in sample.heads
    ]
    return replace(sample, teachers=["demo/teacher", "demo/teacher-b"], fusion=fusion)


def of_rkv(sample: Alignment) -> Alignment:
    """Document 0 with every second step kept by every head; the first four steps are no candidates."""
    layers, heads = len(sample.teacher["kv_layers"]), sample.teacher["kv_heads"]
    length = len(sample.inspected[0].teacher_tokens)
    rng = np.random.default_rng(0)
    parts = {name: rng.random((layers, heads, length)).astype(np.float32) for name in ("importance", "redundancy")}
    parts["score"] = 0.1 * parts["importance"] - 0.9 * parts["redundancy"]
    for values in parts.values():
        values[..., :4] = np.nan
    kept = np.arange(4, length, 2, dtype=np.float32)
    steps = np.full((layers, heads, len(kept) + 3), np.nan, dtype=np.float32)  # fewer candidates than student steps
    steps[..., : len(kept)] = kept
    arrays = {f"document.0.rkv.{name}": values for name, values in (parts | {"steps": steps}).items()}
    return replace(sample, settings=sample.settings | {"time": "rkv"}, arrays=sample.arrays | arrays)


def with_gaps(sample: Alignment) -> Alignment:
    """The teacher's six caches in a model of nine layers, its latent; layers numbered as in that model."""
    kv_layers = [0, 1, 3, 4, 6, 7]
    teacher = sample.teacher | {"layers": 9, "kv_layers": kv_layers, "latent": True}

    def renamed(layers: list) -> list:
        return [renamed(layer) if isinstance(layer, list) else kv_layers[layer] for layer in layers]

    chosen = {
        name: {kind: renamed(layers) for kind, layers in sample.layer_map[name].items()}
        for name in ("teacher_layers", "by_fold")
    }
    tested = sample.capture["teacher"]
    tests = [test | {"layer": layer} for test, layer in zip(tested["layers"], kv_layers)]
    capture = sample.capture | {"teacher": tested | {"latent": True, "layers": tests}}
    return replace(sample, teacher=teacher, layer_map=sample.layer_map | chosen, capture=capture)


def run_of(*alignments: Alignment) -> Path:
    """A run folder that is done, one result per teacher."""
    folder = unfinished("done")
    for number, alignment in enumerate(alignments, 1):
        data.write(alignment, folder if number == 1 else folder / data.OTHER_TEACHER.format(number))
    return folder


def unfinished(state: str, kind: str = "analysis") -> Path:
    """A run folder with what was asked for, and no result."""
    folder = store.create(store.runs_root(), kind, "mine", {"teacher": "a", "student": "b"})
    prompts.write_prompts(prompts.samples()[:2], folder / prompts.RUN_PROMPTS)
    store.write_status(folder, state=state)
    return folder


def shifted(sample: Alignment, kind: str, layer: int, head: int, by: float) -> Alignment:
    """R² of one head is higher by so much; nothing else differs."""
    heads = [
        replace(s, r2=s.r2 + by, error=s.error - by) if (s.kind, s.layer, s.head) == (kind, layer, head) else s
        for s in sample.heads
    ]
    return replace(sample, heads=heads)


def of_fewer_heads(sample: Alignment) -> Alignment:
    """A student whose last layer has one KV head."""
    shapes = [*sample.student["layer_shapes"][:-1], [1, *sample.student["layer_shapes"][-1][1:]]]
    last = sample.student["kv_layers"][-1]
    heads = [s for s in sample.heads if (s.layer, s.head) != (last, 1)]
    student = sample.student | {"name": "demo/narrow", "layer_shapes": shapes}
    return replace(sample, student=student, heads=heads, inspected=[])
