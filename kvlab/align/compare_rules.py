"""Compare all time rules on the same sample, folds and tokens: what is a rule worth to each head?

Each student layer is explained by the one teacher layer nearest in depth, which tells rules apart at a small part of
the cost of all layers.

Each rule is fitted on its own rows (``rows.row_parts``), all alike, and scored, held out by document, on the tokens
that all rules cover. ``exact`` covers few tokens and shares its map with ``floor``, so it has a score of its own,
on its own tokens, listed separately; so has ``rkv``, which keeps other steps for each head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch

from kvlab.align.align_sums import AlignSums
from kvlab.align.batches import Rows
from kvlab.align.controls import Fits
from kvlab.align.crossfit import ridge_by_class
from kvlab.align.fold_sums import APART, FIT_ONLY, FITTED, Part
from kvlab.align.items import Item
from kvlab.align.layers import Choice
from kvlab.align.rows import NO_STEPS, pick, row_parts, rows_of
from kvlab.align.shapes import padded
from kvlab.models.capture import CapturedBatch
from kvlab.request.align import AlignSettings
from kvlab.request.time_rules import MAPS, RULES
from kvlab.shapes import KINDS, Progress, TimeMap

STAGE = "comparing time rules"


@dataclass(frozen=True)
class Cached:
    """A batch of the sample with the caches of one teacher and of the student."""

    items: list[Item]
    teacher: CapturedBatch
    student: CapturedBatch


@dataclass
class RuleScores:
    """``rows`` of each rule: the numbers of fitted and of scored rows, and whether these are the common tokens.

    ``arrays``: ``rules.KIND.RULE.{r2,se}`` [Ls, Hs], NaN where a layer has fewer heads.
    """

    rows: dict[str, dict[str, int | bool]]
    arrays: dict[str, np.ndarray]

    def add(self, rule: str, fits: Fits, rows_fit: int, common: bool) -> None:
        layers = 1 + max(layer for _, layer in fits)
        self.rows[rule] = {"rows_fit": rows_fit, "rows_scored": int(fits[KINDS[0], 0].n.sum()), "common": common}
        for kind in KINDS:
            with_errors = [fits[kind, layer].with_error() for layer in range(layers)]
            for name, values in zip(("r2", "se"), zip(*with_errors)):
                self.arrays[f"rules.{kind}.{rule}.{name}"] = padded([v.cpu().numpy()[:, None] for v in values])[..., 0]


def compare(
    cached: Sequence[Cached],
    t: int,
    choices: dict[str, list[Choice]],
    heads: Sequence[int],
    folds: int,
    settings: AlignSettings,
    progress: Progress,
) -> RuleScores:
    """Fit ridge under every rule that has one map for all heads, from teacher number ``t``.

    Skip a rule with too few rows to fit.
    """
    scores, of_heads = RuleScores({}, {}), {(kind, n): count for kind in KINDS for n, count in enumerate(heads)}
    progress(STAGE, 0, len(MAPS))
    rows = {id(item): _rows_of_rules(item, t, settings) for batch in cached for item in batch.items}
    for number, rule in enumerate(MAPS):
        progress(STAGE, number, len(MAPS))
        sums = _sums(cached, t, rule, rows, choices, folds)
        if not sums.targets:  # the rules have no token in common, and this one has none to fit on
            continue
        features = sums.pairing(KINDS[0], 0).features
        fitted, scored = [fold.n for fold in features.fit()], [fold.n for fold in features.score()]
        if min((sum(fitted) - fold_rows for fold_rows, n in zip(fitted, scored) if n), default=0) < 2:
            continue
        fits = ridge_by_class({target: sums.pairing(*target) for target in of_heads}, of_heads)
        scores.add(rule, fits, sum(fitted), not RULES[rule].own_tokens)
    progress(STAGE, len(MAPS), len(MAPS))
    return scores


Parts = dict[Part, np.ndarray]


def _rows_of_rules(item: Item, t: int, settings: AlignSettings) -> dict[str, tuple[TimeMap, Parts]]:
    """Of every rule, its map and its steps by use and class: fitted only, where another rule does not cover them."""
    rows: dict[str, tuple[TimeMap, Parts]] = {}
    for rule, make in MAPS.items():
        time_map = make(item.teachers[t], item.student, item.document.segments)
        of_rule = settings.model_copy(update={"time": rule})
        parts = row_parts(item.teachers[t], item.student, time_map, item.scored, of_rule, item.repeated)
        rows[rule] = time_map, {part: steps for part, steps in parts.items() if part.use not in APART}
    if item.scored:
        shared = [rows_of(parts)[0] for rule, (_, parts) in rows.items() if not RULES[rule].own_tokens]
        common = reduce(np.intersect1d, shared)
        for rule, (time_map, parts) in rows.items():
            if not RULES[rule].own_tokens:
                rows[rule] = time_map, _split(parts, common)
    return rows


def _split(parts: Parts, common: np.ndarray) -> Parts:
    """Score the ``common`` steps only; the others of those fitted are fitted on all the same."""
    split = {part: np.intersect1d(steps, common) for part, steps in parts.items()}
    for part, steps in parts.items():
        if part.use in FITTED:
            split[FIT_ONLY.of(part.row_class)] = np.setdiff1d(steps, common)
    return split


@torch.inference_mode()
def _sums(
    cached: Sequence[Cached],
    t: int,
    rule: str,
    rows: dict[int, dict[str, tuple[TimeMap, Parts]]],
    choices: dict[str, list[Choice]],
    folds: int,
) -> AlignSums:
    sums = AlignSums(choices, folds)
    for batch in cached:
        of_items = [rows[id(item)][rule] for item in batch.items]
        maps = [(item.teachers[t], item.student, time_map) for item, (time_map, _) in zip(batch.items, of_items)]
        every = sorted({part for _, parts in of_items for part in parts})
        device = batch.teacher.ids.device
        picked = {part: pick(maps, [parts.get(part, NO_STEPS) for _, parts in of_items], device) for part in every}
        sums.add_batch(Rows(batch.items[0].fold, picked, batch.teacher, batch.student, None, None))
    return sums
