"""Measure, before the first step and after the last, whether the student can use the cache it is trained towards.

The projected cache is the current target of the KV loss: the run's maps and fusion. It replaces the student's own cache
of a held-out document's first tokens, and the student continues; the reference is always its own current cache. Here
the student reads in float32, the type of its weights, even in mixed precision.
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
    """Measure on the held-out documents; return ``own``, and unless that fails ``variants`` and ``by_document``."""
    learner.eval()
    student, damage = learner.loaded, {name: PerDocument() for name in NAMES}
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
        for name, damaged in trial.damaged.items():
            damage[name].documents.append(damaged)
    tolerance = TOLERANCE[student.dtype]
    measured: Fields = {"prefix": PREFIX, "documents": len(damage["own"]), "n": damage["own"].n}
    measured["own"] = {"largest_difference": difference, "tolerance": tolerance, "reproduces": difference <= tolerance}
    if difference > tolerance or not measured["documents"]:
        return measured
    measured["share_replaced"] = replaced / cached
    measured["variants"] = {name: _numbers(damage[name], damage["projected"]) for name in VARIANTS}
    measured["by_document"] = {}
    for name in VARIANTS:
        measured["by_document"][name] = [[getattr(d, s) for s in SUMS] for d in damage[name].documents]
    return measured


def added(record: Fields, when: str, measured: Fields) -> Fields:
    """Add the measurement of ``when`` ("before" | "after") to the record, and update the change."""
    record = record | {when: measured}
    return record | {"change": change(record.get("before", {}), record.get("after", {}))}


def change(before: Fields, after: Fields) -> Fields:
    """Return end minus start of every variant, paired by document; empty where one of them was not measured."""
    pairs = {name: (_restored(before, name), _restored(after, name)) for name in VARIANTS}
    if any(not a or not b or [d.n for d in a.documents] != [d.n for d in b.documents] for a, b in pairs.values()):
        return {}
    changes = {}
    for name, (start, end) in pairs.items():
        kl, delta_ce = end.less(start, "kl"), end.less(start, "delta_ce")
        changes[name] = _with_error("kl", kl) | _with_error("delta_ce", delta_ce)
    return changes


def _restored(measured: Fields, name: str) -> PerDocument:
    """Restore the measurements of a variant from the run's record."""
    rows = measured.get("by_document", {}).get(name, [])
    finite = all(value is not None for row in rows for value in row)
    return PerDocument([Damaged(**dict(zip(SUMS, row))) for row in rows] if finite else [])


def _numbers(variant: PerDocument, projected: PerDocument) -> Fields:
    numbers = _with_error("kl", variant.mean("kl")) | _with_error("delta_ce", variant.mean("delta_ce"))
    numbers["same_choice"] = variant.mean("same_choice")[0]
    if variant is projected:
        return numbers
    return numbers | _with_error("kl_over_projected", variant.less(projected, "kl"))


def _with_error(name: str, value: tuple[float, float]) -> Fields:
    return {name: value[0], f"{name}_se": value[1]}


def _mean(learner: Learner, teachers: Teachers, items: Sequence[Item], batch_size: int) -> dict[Problem, torch.Tensor]:
    """Return the mean of the student's own rows [Q] on training documents, with its current weights."""
    device, sums = learner.loaded.device, {}
    for first in range(0, len(items), batch_size):
        batch_sums = learner(teachers.batch(items[first : first + batch_size], device, with_features=False))
        for kind, group in ((kind, group) for kind, groups in learner.alike.items() for group in groups):
            name = f"moments.{kind}.{group[0]}"
            for layer, layer_total in zip(group, batch_sums[f"{name}.total"], strict=True):
                n, total = sums.get((kind, layer), (0, 0))
                sums[kind, layer] = n + batch_sums[f"{name}.n"], total + layer_total
    return {problem: (total / n).float() for problem, (n, total) in sums.items()}


def _prefix(
    learner: Learner, teachers: Teachers, item: Item, own: Own, mean: dict[Problem, torch.Tensor]
) -> Prefix | None:
    """Build the replaced prefix; None for a document whose first half has nothing to replace."""
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
            x = own.compared[kind, layer][:, rows].transpose(0, 1).flatten(1)  # [N, Q], which fusion may use
            projected[kind, layer] = learner.target(kind, layer, x, batch)[0]
    compared = with_controls(projected, mean, teachers.settings.seed, item.student, cut)
    return replaced_prefix(own, student.geometry, cut, rows, mean, compared)
