"""Finished results of the largest size that every page must bear: many layers and heads, long documents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kvlab.results.alignment.data import Alignment, Inspected, TokenView


def wide(sample: Alignment, layers: int = 64, heads: int = 64, documents: int = 12) -> Alignment:
    """A student and a teacher of ``layers`` layers with ``heads`` KV heads each; R² falls with layer and head."""
    rng = np.random.default_rng(0)
    shape = {"layers": layers, "kv_layers": list(range(layers)), "kv_heads": heads, "query_heads": heads}
    student = sample.student | shape | {"name": "wide/student", "layer_shapes": [[heads, 32, 32]] * layers}
    teacher = sample.teacher | shape | {"name": "wide/teacher", "layer_shapes": [[heads, 16, 16]] * layers}
    score = sample.heads[0]
    scores = []
    for kind in ("key", "value"):
        for layer in range(layers):
            for head in range(heads):
                r2 = 0.9 - 0.5 * layer / layers - 0.3 * head / heads
                fields = {"kind": kind, "layer": layer, "head": head, "r2": r2, "error": 1 - r2, "gain": r2 - 0.2}
                scores.append(replace(score, **fields, gain_random=r2 - 0.1, r2_identity=0.2, r2_random=0.1))
    chosen = [[layer] for layer in range(layers)]
    layer_map = sample.layer_map | {
        "teacher_layers": dict.fromkeys(("key", "value"), chosen),
        "by_fold": {kind: [[layers] * 5 for layers in chosen] for kind in ("key", "value")},
    }
    arrays = {name: values for name, values in sample.arrays.items() if name.count(".") > 2 and ".error." not in name}
    for kind in ("key", "value"):
        for name in ("alone", "without"):
            arrays[f"contribution.{kind}.{name}"] = rng.random((layers, heads, heads), dtype=np.float32)
        for name in ("cka", "cka_shuffled", "r2", "own"):
            arrays[f"similarity.{kind}.{name}"] = rng.random((layers, layers), dtype=np.float32)
        for number, document in enumerate(sample.inspected[:documents]):
            of_tokens = (layers, heads, len(document.student_tokens))
            arrays[f"document.{number}.error.{kind}"] = rng.random(of_tokens, dtype=np.float32)
    tests = [sample.capture["student"]["layers"][0] | {"layer": layer} for layer in range(layers)]
    return replace(
        sample,
        student=student,
        teacher=teacher,
        heads=scores,
        layer_map=layer_map,
        capture={role: found | {"layers": tests} for role, found in sample.capture.items()},
        inspected=sample.inspected[:documents],
        arrays=arrays,
    )


def long(sample: Alignment, tokens: int = 20_000, rkv: bool = True) -> Alignment:
    """One document of so many student tokens of three bytes, and half as many teacher tokens of six."""
    rng = np.random.default_rng(0)
    layers, heads = len(sample.student["kv_layers"]), sample.student["kv_heads"]
    text = "".join(f"{i % 100:02d} " for i in range(tokens))
    document = Inspected(
        id="long",
        text=text,
        segments=[["prompt", 0, tokens], ["answer", tokens, 3 * tokens]],
        fold=0,
        teacher_tokens=[TokenView(text[6 * i : 6 * i + 6], 6 * i, 6 * i + 6, False) for i in range(tokens // 2)],
        student_tokens=[TokenView(text[3 * i : 3 * i + 3], 3 * i, 3 * i + 3, False) for i in range(tokens)],
        scored=[i >= 4 for i in range(tokens)],
    )
    arrays = {name: values for name, values in sample.arrays.items() if not name.startswith("document.")}
    for kind in ("key", "value"):
        arrays[f"document.0.error.{kind}"] = rng.random((layers, heads, tokens), dtype=np.float32)
    for rule in sample.timeline["rules"]:
        arrays[f"document.0.index.{rule}"] = np.arange(tokens, dtype=np.float32) // 2
        arrays[f"document.0.lag.{rule}"] = (3 * (np.arange(tokens) % 2)).astype(np.float32)
    settings = sample.settings
    if rkv:
        settings = settings | {"time": "rkv"}
        of_teacher = len(sample.teacher["kv_layers"]), sample.teacher["kv_heads"]
        for name in ("importance", "redundancy", "score"):
            arrays[f"document.0.rkv.{name}"] = rng.random((*of_teacher, tokens // 2), dtype=np.float32)
        steps = np.full((*of_teacher, tokens), np.nan, dtype=np.float32)
        steps[..., : tokens // 4] = np.arange(0, tokens // 2, 2)
        arrays["document.0.rkv.steps"] = steps
    return replace(sample, settings=settings, inspected=[document], arrays=arrays)
