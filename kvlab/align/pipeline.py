"""The path of a prompt, from text to held-out scores.

text -> Tokens x2 -> KV x2 -> time [Lt,Ht,Tt,Dt]->[Lt,Ht,Ts,Dt] -> layers -> heads ->[Ls,Hs,Ts,Ds] -> scores
"""

from __future__ import annotations

import platform
import time as clock
from collections.abc import Sequence
from math import isnan

import numpy as np
import torch
import transformers

import kvlab
from kvlab.align import layers as layer_rules
from kvlab.align import time as time_rules
from kvlab.align.accumulate import Sums, accumulate
from kvlab.align.inspection import inspect, timeline_summary
from kvlab.align.reading import Item, read_documents
from kvlab.align.scoring import score
from kvlab.errors import AlignError
from kvlab.models import LoadedModel
from kvlab.request import AlignSettings
from kvlab.results import Alignment, HeadScore
from kvlab.types import KINDS, Document, HeadMap, Progress, no_progress

ROWS_PER_FEATURE = 20  # fewer, and the page says so beside the number
FEW_SCORED = 500  # student tokens, likewise


def align(
    teacher: LoadedModel,
    student: LoadedModel,
    documents: Sequence[Document],
    settings: AlignSettings | None = None,
    calibration: Sequence[Document] = (),
    progress: Progress = no_progress,
) -> tuple[Alignment, dict[str, HeadMap]]:
    """How much of each student head's K and V the teacher explains on ``documents``, held out by document.

    ``calibration`` documents are fitted on as well, and never scored. Returns the result and, per kind, the map
    fitted on every document. Raises AlignError when nothing can be held out; Cancelled comes from ``progress``.
    """
    settings = settings or AlignSettings()
    times = [clock.perf_counter()]
    items, notes = read_documents(teacher, student, documents, calibration, settings, progress)
    times.append(clock.perf_counter())
    layer_map = layer_rules.RULES[settings.layers](len(teacher.geometry.kv_layers), len(student.geometry.kv_layers))
    sums = accumulate(teacher, student, items, layer_map, settings, progress)
    _check_rows(sums, items, settings)
    times.append(clock.perf_counter())
    scored = score(sums, teacher.geometry, student.geometry, layer_map, settings.projector, progress)
    inspected, arrays = inspect(items, sums, scored.fits, settings)
    times.append(clock.perf_counter())

    data = _data_summary(items, sums, settings)
    result = Alignment(
        settings=settings.model_dump(),
        teacher=teacher.geometry.to_dict(),
        student=student.geometry.to_dict(),
        data=data,
        timeline=timeline_summary(items),
        layer_map={"rule": layer_map.rule, "teacher_layers": [list(t) for t in layer_map.teacher_layers]},
        heads=scored.heads,
        inspected=inspected,
        notes=notes + _notes(settings, data, scored.heads),
        versions={
            "kvlab": kvlab.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": str(teacher.device),
            "dtype": str(teacher.dtype).removeprefix("torch."),
        },
        timings=dict(zip(("tokenise_s", "capture_and_sums_s", "fit_and_score_s"), np.diff(times).tolist())),
        arrays={
            name: np.ascontiguousarray(array, dtype=np.float32)
            for name, array in (scored.contributions | arrays).items()
        },
    )
    return result, scored.maps


def _check_rows(sums: Sums, items: list[Item], settings: AlignSettings) -> None:
    pairing = sums.pairings.get(("key", 0))
    fitted = [fold.n for fold in pairing.targets.fit()] if pairing else [0]
    scored = [fold.n for fold in pairing.targets.score()] if pairing else [0]
    # The map that a fold is scored by is fitted on the other folds.
    fitted_without = [sum(fitted) - own for own, held_out in zip(fitted, scored) if held_out]
    if min(fitted_without, default=0) < 2:
        raise AlignError(
            "no-rows",
            expected=f"tokens after the first {settings.sinks} of a prompt that both models have read alike, in at "
            "least two documents",
            found=f"{sum(fitted)} rows to fit and {sum(scored)} to score in {len(items)} documents, "
            f"rule {settings.time}",
            remedy="use more or longer prompts, a smaller --sinks, or also fit on the bundled samples",
        )


def _data_summary(items: list[Item], sums: Sums, settings: AlignSettings) -> dict:
    pairings = {kind: sums.pairings[kind, 0] for kind in KINDS}
    features = {kind: len(p.features.make().pilot) for kind, p in pairings.items()}
    fitted = [fold.n for fold in pairings["key"].features.fit()]
    return {
        "documents": sum(i.scored for i in items),
        "calibration_documents": sum(not i.scored for i in items),
        "folds": len({i.fold for i in items}),
        "split": "by document",
        "rows_fit": sum(fitted),
        "rows_scored": sum(fold.n for fold in pairings["key"].targets.score()),
        "features": features,
        "rows_per_feature": (sum(fitted) - max(fitted)) / max(features.values()),
        "teacher_tokens": sum(len(i.teacher) for i in items if i.scored),
        "student_tokens": sum(len(i.student) for i in items if i.scored),
    }


def _notes(settings: AlignSettings, data: dict, heads: list[HeadScore]) -> list[str]:
    notes = []
    constant = sum(isnan(head.r2) for head in heads)
    if constant:
        notes.append(f"{constant} of {len(heads)} heads do not vary on these prompts and have no score.")
    if data["rows_scored"] < FEW_SCORED:
        notes.append(f"Only {data['rows_scored']} tokens are scored: differences of some points may be chance.")
    if data["rows_per_feature"] < ROWS_PER_FEATURE:
        notes.append(
            f"Only {data['rows_per_feature']:.1f} fitted rows per feature ({ROWS_PER_FEATURE} are wanted): the "
            "scores are likely lower than with more prompts. Add prompts, or also fit on the bundled samples."
        )
    if data["folds"] < 3:
        notes.append("With two folds no penalty can be cross-validated: a cautious fixed one is used.")
    if settings.time not in time_rules.BYTE_RULES:
        notes.append(f"The {settings.time} rule does not look at the text; it is fitted on the rows it gives.")
    if settings.time == "ceil":
        notes.append("The ceil rule looks ahead: the teacher may have read bytes that the student has not.")
    return notes
