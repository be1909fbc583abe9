"""Measure the controls that a score must beat, on the sample: shuffled rows, and a teacher of random weights.

Both are fitted and scored like the teacher itself, which is scored on the same rows for comparison. The control of a
fusion has random weights in the place of all teachers but one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from kvlab.align.batches import Rows, finite
from kvlab.align.crossfit import CrossFit, crossfit_ridge
from kvlab.align.fold_sums import APART
from kvlab.align.fusion import OverRandom, over_random
from kvlab.align.items import Item
from kvlab.align.layers import Choice
from kvlab.align.sample import Group, Sample
from kvlab.align.stacking import CommonRows
from kvlab.models.capture import capture
from kvlab.models.loading import LoadedModel
from kvlab.request.align import AlignSettings
from kvlab.shapes import KINDS, Progress

Apart = dict[tuple[str, int, str], list[tuple[int, torch.Tensor, torch.Tensor]]]  # kind, student layer, part
Fits = dict[tuple[str, int], CrossFit]  # kind, student layer
Features = dict[tuple[Group, str, tuple[int, ...]], torch.Tensor]  # of teacher layers side by side, in a sample's order


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
    """Fit the teacher and shuffled rows; ``heads`` of each student layer, ``quick`` as in crossfit_ridge."""
    teacher, shuffled = {}, {}
    for number, (kind, layer) in enumerate(_problems(choices)):
        progress("measuring controls", number, len(KINDS) * len(heads))
        choice = choices[kind][layer]
        pairing = sample.with_shuffled(kind, choice.union, layer, choice.columns_of_folds())
        together = crossfit_ridge(pairing, 2 * heads[layer], quick)
        teacher[kind, layer] = together.select(0, heads[layer])
        shuffled[kind, layer] = together.select(heads[layer], heads[layer])
    return teacher, shuffled


@torch.inference_mode()
def random_rows(
    random: LoadedModel,
    batches: Sequence[list[Item]],
    rows: Sequence[Sequence[Rows]],
    number: int,
    choices: dict[str, list[Choice]],
    settings: AlignSettings,
    progress: Progress,
) -> list[Features]:
    """Return features of a random-weights teacher in the order of ``rows`` (teacher ``number``, by sample, batch)."""
    features: list[dict[tuple, list[torch.Tensor]]] = [{} for _ in rows]
    for done, batch in enumerate(batches):
        progress("reading with random weights", done, len(batches))
        captured = finite(capture(random, [i.teachers[number] for i in batch], settings.keys == "pre-rope"), random)
        for into, sample_rows in zip(features, rows):
            places = sample_rows[done]
            like = Rows(places.fold, places.picked, captured, None, None, places.steps)
            for part in like.parts:
                for kind in KINDS:
                    for union in {choice.union for choice in choices[kind]}:
                        key = (like.fold, part), kind, union
                        into.setdefault(key, []).append(like.side_by_side(kind, union, part))
    return [{key: torch.cat(pieces) for key, pieces in by_key.items()} for by_key in features]


def random_weights(
    sample: Sample, features: Features, choices: dict[str, list[Choice]], heads: Sequence[int], progress: Progress
) -> Fits:
    """Fit the control from the features of ``random_rows``."""
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


def random_in_place(
    samples: Sequence[Sample],
    common: Sequence[Sample],
    random: Sequence[list[Features]],
    controls: Sequence[Controls],
    choices: Sequence[dict[str, list[Choice]]],
    heads: Sequence[int],
    progress: Progress,
) -> dict[tuple[str, int], OverRandom]:
    """Measure what the fusion on the sample gains over random weights in the place of all teachers but one.

    All but ``heads`` are by teacher: its own sample, its sample of the rows that all teachers cover, the features of
    random weights on the first and on the second, and its controls, whose fits hold the penalties.
    """
    gains = {}
    for number, (kind, layer) in enumerate(_problems(choices[0])):
        progress("fusing with random weights", number, len(KINDS) * len(heads))
        chosen = [teacher_choices[kind][layer] for teacher_choices in choices]
        alone, side_by_side = [], []
        for sources in (samples, [features for features, _ in random]):
            for sample, source, choice in zip(samples, sources, chosen):
                features = _rows(source, kind, choice.union)
                alone.append(sample.sums(features, partial(sample.y, kind, layer), choice.columns_of_folds()))
        for sources in (common, [features for _, features in random]):
            side_by_side += [_rows(source, kind, choice.union) for source, choice in zip(sources, chosen)]
        everything = CommonRows(common[0].groups, common[0].folds, side_by_side, partial(common[0].y, kind, layer))
        fits = [c.teacher[kind, layer] for c in controls] + [c.random[kind, layer] for c in controls]
        gains[kind, layer] = over_random(everything, alone, fits, heads[layer])
    return gains


def _rows(source: Sample | Features, kind: str, union: tuple[int, ...]) -> Callable[[Group], torch.Tensor]:
    """Return a function from a group to the features of teacher layers side by side."""
    if isinstance(source, Sample):
        return partial(source.side_by_side, kind, union)
    return lambda group: source[group, kind, union]


def _problems(choices: dict[str, list[Choice]]) -> list[tuple[str, int]]:
    return [(kind, layer) for kind in KINDS for layer in range(len(choices[kind]))]


def rows_apart(sample: Sample, choices: dict[str, list[Choice]]) -> Apart:
    """Return the sample's rows that are scored separately, for each problem: (fold, features, targets)."""
    return {
        (kind, layer, part): [
            (group[0], sample.side_by_side(kind, choices[kind][layer].union, group), sample.y(kind, layer, group))
            for group in sample.groups
            if group[1] == part
        ]
        for kind, layer in _problems(choices)
        for part in APART
    }
