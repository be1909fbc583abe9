"""What a score must beat, measured on the sample: shuffled rows, and a teacher of random weights.

Both are fitted and scored like the teacher itself, which is scored on the same rows to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from kvlab.align.batches import Rows, finite
from kvlab.align.crossfit import CrossFit, crossfit_ridge
from kvlab.align.layers import Choice
from kvlab.align.reading import Item
from kvlab.align.sample import Group, Sample
from kvlab.align.sums import APART
from kvlab.capture import capture
from kvlab.models import LoadedModel
from kvlab.request import AlignSettings
from kvlab.types import KINDS, Progress

Apart = dict[tuple[str, int, str], list[tuple[int, torch.Tensor, torch.Tensor]]]  # kind, student layer, part
Fits = dict[tuple[str, int], CrossFit]  # kind, student layer


@dataclass
class Controls:
    """Ridge on the sample's rows, from the teacher's features, against shuffled rows, and from random weights; and the
    sample's rows that are in no fit."""

    teacher: Fits = field(default_factory=dict)
    shuffled: Fits = field(default_factory=dict)
    random: Fits = field(default_factory=dict)  # empty where it was not measured
    chosen: Fits = field(default_factory=dict)  # the user's projector where it is not ridge, to compare with random
    apart: Apart = field(default_factory=dict)


def shuffled_rows(
    sample: Sample, choices: dict[str, list[Choice]], heads: Sequence[int], quick: bool, progress: Progress
) -> tuple[Fits, Fits]:
    """Fits of the teacher and of shuffled rows; ``heads`` of each student layer, ``quick`` as in crossfit_ridge."""
    teacher, shuffled = {}, {}
    for number, (kind, layer) in enumerate(_problems(choices)):
        progress("measuring controls", number, len(KINDS) * len(heads))
        choice = choices[kind][layer]
        pairing = sample.with_shuffled(kind, choice.union, layer, choice.columns_of_folds())
        both = crossfit_ridge(pairing, 2 * heads[layer], quick)
        teacher[kind, layer] = both.select(0, heads[layer])
        shuffled[kind, layer] = both.select(heads[layer], heads[layer])
    return teacher, shuffled


@torch.inference_mode()
def random_rows(
    random: LoadedModel,
    batches: Sequence[list[Item]],
    rows: Sequence[Rows],
    number: int,
    choices: dict[str, list[Choice]],
    settings: AlignSettings,
    progress: Progress,
) -> dict[tuple[Group, str, tuple[int, ...]], torch.Tensor]:
    """Features of a random-weights teacher in the sample's row order; ``rows`` are those of teacher ``number``."""
    found: dict[tuple, list[torch.Tensor]] = {}
    for done, (batch, of_batch) in enumerate(zip(batches, rows)):
        progress("reading with random weights", done, len(batches))
        captured = finite(capture(random, [i.teachers[number] for i in batch], settings.keys == "pre-rope"), random)
        like = Rows(of_batch.fold, of_batch.picked, captured, None, None, of_batch.steps)
        for part in of_batch.parts:
            for kind in KINDS:
                for union in {choice.union for choice in choices[kind]}:
                    key = (of_batch.fold, part), kind, union
                    found.setdefault(key, []).append(like.side_by_side(kind, union, part))
    return {key: torch.cat(pieces) for key, pieces in found.items()}


def random_weights(
    sample: Sample,
    features: dict[tuple[Group, str, tuple[int, ...]], torch.Tensor],
    choices: dict[str, list[Choice]],
    heads: Sequence[int],
    progress: Progress,
) -> Fits:
    """Fits from the features of ``random_rows``."""
    fits = {}
    for number, (kind, layer) in enumerate(_problems(choices)):
        progress("fitting on random weights", number, len(KINDS) * len(heads))
        choice = choices[kind][layer]
        pairing = sample.sums(
            lambda group, kind=kind, choice=choice: features[group, kind, choice.union],
            lambda group, kind=kind, layer=layer: sample.y(kind, layer, group),
            choice.columns_of_folds(),
        )
        fits[kind, layer] = crossfit_ridge(pairing, heads[layer], quick=True)
    return fits


def _problems(choices: dict[str, list[Choice]]) -> list[tuple[str, int]]:
    return [(kind, layer) for kind in KINDS for layer in range(len(choices[kind]))]


def rows_apart(sample: Sample, choices: dict[str, list[Choice]]) -> Apart:
    """The rows of the sample that are scored apart, of each problem: (fold, features, targets)."""
    return {
        (kind, layer, part): [
            (group[0], sample.side_by_side(kind, choices[kind][layer].union, group), sample.y(kind, layer, group))
            for group in sample.groups
            if group[1] == part
        ]
        for kind, layer in _problems(choices)
        for part in APART
    }
