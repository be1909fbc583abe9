"""Can the student use the cache that it is trained towards? Measured before the first step and after the last.

The projected cache is the KV loss' target of that moment: the run's maps and fusion. It replaces the student's own
cache of a held-out document's first tokens, and the student reads on; every difference is to its own cache of the same
moment. In mixed precision too, the student reads in float32 here, as its weights are.
"""

from collections.abc import Sequence
from typing import Any

import torch

from kvlab.align.items import Item
from kvlab.inject.own import Own, read_own
from kvlab.inject.prefix import Prefix, cut_at, first_tokens, replaced_prefix, with_controls
from kvlab.inject.scores import Damaged, PerDocument
from kvlab.inject.trial import TOLERANCE, tried
from kvlab.results.training.records import VARIANTS
from kvlab.shapes import KINDS, Progress
from kvlab.train.data import Data
from kvlab.train.learner import Learner
from kvlab.train.maps import Problem
from kvlab.train.targets import Teachers

PREFIX = 0.5  # share of a document's student tokens whose cache is replaced
NAMES = ("own", *VARIANTS)
SUMS = ("kl", "delta_ce", "same_choice", "n")  # of a document's continuation

Fields = dict[str, Any]


@torch.inference_mode()
def measure(
    learner: Learner, teachers: Teachers, data: Data, batch_size: int, phase: str, progress: Progress
) -> Fields:
    """On the held-out documents -> plain values: ``own``, and unless that fails ``variants`` and ``by_document``."""
    learner.eval()
    student, found = learner.loaded, {name: PerDocument() for name in NAMES}
    mean = _mean(learner, teachers, data.train[: len(data.heldout)], batch_size)
    difference, replaced, cached = 0.0, 0, 0
    for done, item in enumerate(data.heldout):
        progress(phase, done, len(data.heldout))
        own = read_own(student, item.student, pre_rope=True)
        prefix = _prefix(learner, teachers, item, own, mean)
        if prefix is None:
            continue
        trial = tried(student, own, prefix, NAMES, batch_size * len(item.student))
        difference = max(difference, trial.difference)
        if not trial.damaged:
            break
        replaced, cached = replaced + len(prefix.rows), cached + prefix.cut
        for name, harmed in trial.damaged.items():
            found[name].documents.append(harmed)
    tolerance = TOLERANCE[student.dtype]
    told: Fields = {"prefix": PREFIX, "documents": len(found["own"]), "n": found["own"].n}
    told["own"] = {"largest_difference": difference, "tolerance": tolerance, "reproduces": difference <= tolerance}
    if difference > tolerance or not told["documents"]:
        return told
    told["share_replaced"] = replaced / cached
    told["variants"] = {name: _numbers(found[name], found["projected"]) for name in VARIANTS}
    told["by_document"] = {name: [[getattr(d, s) for s in SUMS] for d in found[name].documents] for name in VARIANTS}
    return told


def added(record: Fields, when: str, told: Fields) -> Fields:
    """The record with what was measured ``when`` ("before" | "after"), and the change."""
    record = record | {when: told}
    return record | {"change": change(record.get("before", {}), record.get("after", {}))}


def change(before: Fields, after: Fields) -> Fields:
    """End less start of every variant, paired by document; empty where one of them was not measured."""
    pairs = {name: [_restored(of, name) for of in (before, after)] for name in VARIANTS}
    if any(not a or not b or [d.n for d in a.documents] != [d.n for d in b.documents] for a, b in pairs.values()):
        return {}
    return {
        name: {key: value for of in ("kl", "delta_ce") for key, value in _with_error(of, end.less(start, of)).items()}
        for name, (start, end) in pairs.items()
    }


def _restored(told: Fields, name: str) -> PerDocument:
    """As it was measured, from the run's record."""
    rows = told.get("by_document", {}).get(name, [])
    finite = all(value is not None for row in rows for value in row)
    return PerDocument([Damaged(**dict(zip(SUMS, row))) for row in rows] if finite else [])


def _numbers(of: PerDocument, projected: PerDocument) -> Fields:
    told = _with_error("kl", of.mean("kl")) | _with_error("delta_ce", of.mean("delta_ce"))
    told["same_choice"] = of.mean("same_choice")[0]
    return told if of is projected else told | _with_error("kl_over_projected", of.less(projected, "kl"))


def _with_error(name: str, value: tuple[float, float]) -> Fields:
    return {name: value[0], f"{name}_se": value[1]}


def _mean(learner: Learner, teachers: Teachers, items: Sequence[Item], batch_size: int) -> dict[Problem, torch.Tensor]:
    """Of the student's own rows [Q] on training documents, as the student is now."""
    device, sums = learner.loaded.device, {}
    for first in range(0, len(items), batch_size):
        read = learner(teachers.batch(items[first : first + batch_size], device, with_features=False))
        for kind, group in ((kind, group) for kind, groups in learner.alike.items() for group in groups):
            name = f"moments.{kind}.{group[0]}"
            for layer, of_layer in zip(group, read[f"{name}.total"], strict=True):
                n, total = sums.get((kind, layer), (0, 0))
                sums[kind, layer] = n + read[f"{name}.n"], total + of_layer
    return {problem: (total / n).float() for problem, (n, total) in sums.items()}


def _prefix(
    learner: Learner, teachers: Teachers, item: Item, own: Own, mean: dict[Problem, torch.Tensor]
) -> Prefix | None:
    """None for a document whose first half holds nothing to replace."""
    student, cut = learner.loaded, cut_at(PREFIX, item)
    if not cut:
        return None
    first = first_tokens(item, cut, teachers.settings.time)
    if not all(map(len, first.teachers)) or not teachers.rows(first):
        return None
    batch = teachers.batch([first], student.device)
    rows = batch.rows[1]
    projected = {}
    for kind in KINDS:
        for layer in range(len(student.geometry.kv_layers)):
            x = own.compared[kind, layer][:, rows].transpose(0, 1).flatten(1)  # [N, Q], which fusion may look at
            projected[kind, layer] = learner.target(kind, layer, x, batch)[0]
    compared = with_controls(projected, mean, teachers.settings.seed, item.student, cut)
    return replaced_prefix(own, student.geometry, cut, rows, compared)
