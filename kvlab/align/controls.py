"""Measure the controls that a score must beat, on the sample: shuffled rows, and a teacher of random weights.

Both are fitted and scored like the teacher itself, which is scored on the same rows for comparison. The control of a
fusion has random weights in the place of all teachers but one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from kvlab.align.align_sums import AlignSums, Beside
from kvlab.align.batches import Rows, finite
from kvlab.align.crossfit import ByClass, Unseen, ridge_by_class
from kvlab.align.fold_sums import APART, HOST, Classes, FoldSums, weighed
from kvlab.align.fusion import OverRandom, over_random
from kvlab.align.items import Item
from kvlab.align.layers import Choice, taken
from kvlab.align.sample import Group, Sample
from kvlab.align.stacking import CommonRows
from kvlab.models.capture import capture
from kvlab.models.loading import LoadedModel
from kvlab.request.align import AlignSettings
from kvlab.shapes import KINDS, Progress

# kind, student layer, use -> (fold, class, features, targets) of each group of rows
Apart = dict[tuple[str, int, str], list[tuple[int, int, torch.Tensor, torch.Tensor]]]
Fits = dict[tuple[str, int], ByClass]  # kind, student layer


@dataclass
class Controls:
    """Ridge on the sample's rows, from the teacher's features, against shuffled rows, and from random weights; and the
    sample's rows that are in no fit."""

    teacher: Fits = field(default_factory=dict)
    shuffled: Fits = field(default_factory=dict)
    random: Fits = field(default_factory=dict)  # empty where it was not measured
    chosen: Fits = field(default_factory=dict)  # the user's projector where it is not ridge, to compare with random
    apart: Apart = field(default_factory=dict)
    unseen: dict[tuple[Beside, Classes], Unseen] = field(default_factory=dict)  # rows, where the sample is everything


def teacher_and_shuffled(
    sums: AlignSums, sample: Sample, heads: Sequence[int], progress: Progress
) -> tuple[Fits, Fits]:
    """Fits of the teacher, and of its rows against targets in shuffled order.

    ``sums``: of the sample and nothing else; ``heads`` of each student layer.
    """
    fits: dict[str, Fits] = {"teacher": {}, "shuffled": {}}
    for number, (kind, union, layers) in enumerate(alike := _same_features(sums.choices)):
        progress("measuring controls", number, len(alike))
        pairings = {}
        for layer in layers:
            real = sums.pairing(kind, layer)
            pairings["teacher", layer] = real
            pairings["shuffled", layer] = replace(real, targets=FoldSums(real.targets.pilots, real.targets.folds))
        for group in sample.groups:
            if group[1].use in APART:
                continue
            x = pairings["teacher", layers[0]].features.shift(sums.x(kind, union, sample, group))
            for layer in layers:
                shuffled = pairings["shuffled", layer].targets
                y = shuffled.shift(sample.y(kind, layer, group, shuffled=True))
                for use, weights in weighed(group[1], sample.weights(layer, group)):
                    shuffled.add_shifted(group[0], use, x, y, weights=weights)
        for (name, layer), fit in ridge_by_class(pairings, {key: heads[key[1]] for key in pairings}).items():
            fits[name][kind, layer] = fit if name == "teacher" else fit.scores_alone()
    return fits["teacher"], fits["shuffled"]


@dataclass
class RandomRows:
    """Features of random weights in the order of a sample, by group, kind and teacher layer; on the host."""

    rows: dict[tuple[Group, str, int], torch.Tensor]
    device: torch.device

    def side_by_side(self, kind: str, layers: Sequence[int], group: Group) -> torch.Tensor:
        return torch.cat([self.rows[group, kind, layer].to(self.device) for layer in layers], dim=1)


@torch.inference_mode()
def random_rows(
    random: LoadedModel,
    batches: Sequence[list[Item]],
    rows: Sequence[Sequence[Rows]],
    number: int,
    choices: dict[str, list[Choice]],
    settings: AlignSettings,
    progress: Progress,
) -> list[RandomRows]:
    """Return features of a random-weights teacher in the order of ``rows`` (teacher ``number``, by sample, batch)."""
    pieces: list[dict[tuple, list[torch.Tensor]]] = [{} for _ in rows]
    for done, batch in enumerate(batches):
        progress("reading with random weights", done, len(batches))
        captured = finite(capture(random, [i.teachers[number] for i in batch], settings.keys == "pre-rope"), random)
        for into, of_sample in zip(pieces, rows):
            places = of_sample[done]
            like = Rows(places.fold, places.picked, captured, None, None, None, places.steps)
            for part in like.parts:
                for kind in KINDS:
                    for layer in taken(choices[kind]):
                        into.setdefault(((like.fold, part), kind, layer), []).append(like.x(kind, layer, part).to(HOST))
    return [RandomRows({key: torch.cat(of) for key, of in by_key.items()}, random.device) for by_key in pieces]


def random_weights(
    sample: Sample, features: RandomRows, choices: dict[str, list[Choice]], heads: Sequence[int], progress: Progress
) -> Fits:
    """Fits from the features of ``random_rows``; their scores alone."""
    fits: Fits = {}
    for number, (kind, union, layers) in enumerate(alike := _same_features(choices)):
        progress("fitting on random weights", number, len(alike))
        targets = [partial(sample.y, kind, layer) for layer in layers]
        of_layers = sample.sums(partial(features.side_by_side, kind, union), targets, layers)
        pairings = {
            layer: replace(pairing, columns=choices[kind][layer].columns_of_folds())
            for layer, pairing in zip(layers, of_layers)
        }
        for layer, fit in ridge_by_class(pairings, {layer: heads[layer] for layer in layers}).items():
            fits[kind, layer] = fit.scores_alone()
    return fits


def random_in_place(
    samples: Sequence[Sample],
    common: Sequence[Sample],
    random: Sequence[list[RandomRows]],
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
        chosen = [of_teacher[kind][layer] for of_teacher in choices]
        unions = [choice.union for choice in chosen]
        alone = [
            replace(sample.sums(rows, [partial(sample.y, kind, layer)], [layer])[0], columns=choice.columns_of_folds())
            for sources in (samples, [features for features, _ in random])
            for sample, source, choice in zip(samples, sources, chosen)
            for rows in [partial(source.side_by_side, kind, choice.union)]
        ]
        side_by_side = [
            partial(source.side_by_side, kind, union)
            for sources in (common, [features for _, features in random])
            for source, union in zip(sources, unions)
        ]
        y, weights = partial(common[0].y, kind, layer), partial(common[0].weights, layer)
        everything = CommonRows(common[0].groups, common[0].folds, side_by_side, y, weights)
        penalties = [c.teacher[kind, layer].fits for c in controls] + [c.random[kind, layer].fits for c in controls]
        widths = 2 * [sum(choice.widths) for choice in chosen]
        gains[kind, layer] = over_random(everything, alone, penalties, widths, heads[layer])
    return gains


def _problems(choices: dict[str, list[Choice]]) -> list[tuple[str, int]]:
    return [(kind, layer) for kind in KINDS for layer in range(len(choices[kind]))]


def _same_features(choices: dict[str, list[Choice]]) -> list[tuple[str, tuple[int, ...], list[int]]]:
    """List kind, teacher layers and the student layers that take them."""
    layers: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for kind, layer in _problems(choices):
        layers.setdefault((kind, choices[kind][layer].union), []).append(layer)
    return [(*features, of) for features, of in layers.items()]


def rows_apart(sample: Sample, sums: AlignSums) -> Apart:
    """The rows of the sample that are scored apart, of each problem, with the features of ``AlignSums``."""
    rows: Apart = {}
    for kind, layer in _problems(sums.choices):
        union = sums.choices[kind][layer].union
        for use in APART:
            rows[kind, layer, use] = [
                (fold, part.row_class, sums.x(kind, union, sample, (fold, part)), sample.y(kind, layer, (fold, part)))
                for fold, part in sample.groups
                if part.use == use
            ]
    return rows
