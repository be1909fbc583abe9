"""Every time rule on the same sample, layers and folds: what the choice of a rule is worth to each head.

A rule is fitted on its own rows (``rows.row_parts``) and scored, held out by document, on those that it covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kvlab.align import metrics
from kvlab.align import time as time_rules
from kvlab.align.accumulate import AlignSums
from kvlab.align.batches import Rows
from kvlab.align.controls import Fits
from kvlab.align.crossfit import CrossFit, crossfit_ridge
from kvlab.align.layers import Choice
from kvlab.align.reading import Item
from kvlab.align.rows import pick, row_parts
from kvlab.align.shapes import padded
from kvlab.align.sums import APART
from kvlab.capture import CapturedBatch
from kvlab.request import AlignSettings
from kvlab.types import KINDS, Progress

STAGE = "comparing time rules"


@dataclass(frozen=True)
class Cached:
    """A batch of the sample with the caches of one teacher and of the student."""

    items: list[Item]
    teacher: CapturedBatch
    student: CapturedBatch


@dataclass
class RuleScores:
    """``rows`` of each rule: fitted and scored ones; ``arrays``: ``rules.KIND.RULE.{r2,se}`` [Ls, Hs]."""

    rows: dict[str, dict[str, int]]
    arrays: dict[str, np.ndarray]

    def add(self, rule: str, fits: Fits, rows_fit: int) -> None:
        layers = 1 + max(layer for _, layer in fits)
        self.rows[rule] = {"rows_fit": rows_fit, "rows_scored": int(fits[KINDS[0], 0].n.sum())}
        for kind in KINDS:
            of_layers = [_with_error(fits[kind, layer]) for layer in range(layers)]
            for name, values in zip(("r2", "se"), zip(*of_layers)):
                self.arrays[f"rules.{kind}.{rule}.{name}"] = padded([v[:, None] for v in values])[..., 0]


def compare(
    cached: Sequence[Cached],
    t: int,
    choices: dict[str, list[Choice]],
    heads: Sequence[int],
    folds: int,
    settings: AlignSettings,
    progress: Progress,
) -> RuleScores:
    """Ridge under every rule that has one map for all heads, but the analysis's own; from teacher number ``t``.

    A rule with too few rows to fit is left out.
    """
    others = [rule for rule in time_rules.RULES if rule != settings.time]
    found = RuleScores({}, {})
    for number, rule in enumerate(others):
        progress(STAGE, number, len(others))
        sums = _sums(cached, t, rule, choices, folds, settings)
        features = sums.pairing(KINDS[0], 0).features
        fitted, scored = ([fold.n for fold in part] for part in (features.fit(), features.score()))
        if min((sum(fitted) - own for own, n in zip(fitted, scored) if n), default=0) < 2:
            continue
        fits = {
            (kind, layer): crossfit_ridge(sums.pairing(kind, layer), heads[layer], quick=True)
            for kind in KINDS
            for layer in range(len(heads))
        }
        found.add(rule, fits, sum(fitted))
    progress(STAGE, len(others), len(others))
    return found


@torch.inference_mode()
def _sums(
    cached: Sequence[Cached], t: int, rule: str, choices: dict[str, list[Choice]], folds: int, settings: AlignSettings
) -> AlignSums:
    settings = settings.model_copy(update={"time": rule})
    sums = AlignSums(choices, folds)
    for batch in cached:
        of_batch = [(i, time_rules.RULES[rule](i.teachers[t], i.student, i.document.segments)) for i in batch.items]
        maps = [(item.teachers[t], item.student, time_map) for item, time_map in of_batch]
        parts = [row_parts(*of_item, item.scored, settings) for of_item, (item, _) in zip(maps, of_batch)]
        device = batch.teacher.ids.device
        used = [part for part in parts[0] if part not in APART]
        picked = {part: pick(maps, [p[part] for p in parts], device) for part in used}
        rows = Rows(batch.items[0].fold, picked, batch.teacher, batch.student, None)
        for part in rows.parts:
            sums.add(rows.fold, part, rows, part)
    return sums


def _with_error(fit: CrossFit) -> tuple[np.ndarray, np.ndarray]:
    held = fit.n > 0
    return fit.r2.cpu().numpy(), metrics.jackknife(fit.rss[held], fit.tss[held]).cpu().numpy()
