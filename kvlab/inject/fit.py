"""Fit the maps of a functional test, of the teachers and of their controls, on the fitted documents alone.

Every source gives an affine map per teacher, kind and student layer, and the weights that fuse several teachers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from kvlab.align import projectors as head_maps
from kvlab.align.align_sums import AlignSums
from kvlab.align.batches import Rows, batches, read
from kvlab.align.crossfit import CrossFit, crossfit_ridge
from kvlab.align.fold_sums import total
from kvlab.align.fusion import FusionSums, fuse
from kvlab.align.layers import Choice, choose
from kvlab.align.moments import about_own_mean
from kvlab.align.sample import Sample, announced, read_sample
from kvlab.align.scoring import identity_fits, solver, whole_map
from kvlab.align.shapes import target_shape
from kvlab.errors import AlignError
from kvlab.inject.own import Problem
from kvlab.inject.split import Split
from kvlab.language import Message
from kvlab.models.loading import LoadedModel
from kvlab.request.align import AlignSettings
from kvlab.shapes import KINDS, Progress

Map = tuple[torch.Tensor, torch.Tensor]  # weights [P, Q], bias [Q]
FITTING, READING_RANDOM = "fitting the map", "reading with random weights"


@dataclass
class Source:
    """One way to predict the student's cache. Axes: A teachers, P features, Q = H * D channels of a student layer."""

    maps: dict[Problem, list[Map]]  # [A]
    weights: dict[Problem, torch.Tensor]  # [A, Q]
    mean: dict[Problem, torch.Tensor]  # [Q], of the student on the fitted rows

    def predict(self, problem: Problem, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Predict [A][N, P] -> [N, Q]: the mean plus the weighted predictions about it."""
        mean = self.mean[problem]
        parts = zip(self.maps[problem], features, self.weights[problem], strict=True)
        return mean + sum((x.float() @ w + bias - mean) * share for (w, bias), x, share in parts)


@dataclass
class Fit:
    layers: list[dict[Problem, tuple[int, ...]]]  # of each teacher, side by side
    sources: dict[str, Source]  # "projected", "identity" and, where asked for, "random"
    rows: int


@dataclass
class _Sums:
    """The sums over the documents read by one set of teachers."""

    by_teacher: list[AlignSums]
    fusion: FusionSums

    def add(self, rows: Sequence[Rows], common: Sequence[Rows]) -> None:
        for sums, teacher_rows in zip(self.by_teacher, rows):
            sums.add_batch(teacher_rows)
        self.fusion.add_batch(common)


@torch.inference_mode()
def fit(
    teachers: Sequence[LoadedModel],
    randoms: Sequence[LoadedModel],
    student: LoadedModel,
    split: Split,
    settings: AlignSettings,
    progress: Progress,
) -> Fit:
    """Fit every source. Every model reads every document once; with random teachers, the student reads it again."""
    settings = settings.model_copy(update={"folds": split.folds})
    grouped = batches(split.fitted, settings.batch_tokens)
    stream = announced(grouped, FITTING, progress)
    first = read_sample(
        stream,
        lambda batch: read(teachers, student, batch, settings, checked=False),
        settings.sample_tokens,
        split.folds,
    )
    layers_s = len(student.geometry.kv_layers)
    samples = [
        Sample(rows, len(teacher.geometry.kv_layers), layers_s, split.folds, settings.seed)
        for rows, teacher in zip(first.rows, teachers)
    ]
    _check_rows(samples, settings)
    share = len(first.batches) / len(grouped)
    choices = [choose(s, share, settings, progress).choices for s in samples]
    del samples
    sums = _empty(choices, split.folds, student, identity=True)
    for number in range(len(first.batches)):
        sums.add([rows[number] for rows in first.rows], [rows[number] for rows in first.common])
    del first
    for batch in stream:
        batch_read = read(teachers, student, batch, settings)
        sums.add(batch_read.teachers, batch_read.common)
    if len(teachers) > 1:
        _check_common_rows(sums.fusion, settings)
    sources = {"projected": _source(sums, teachers, student, settings.projector), "identity": _identity(sums, student)}
    if randoms:
        random_sums = _empty(choices, split.folds, student, identity=False)
        for batch in announced(grouped, READING_RANDOM, progress):
            batch_read = read(randoms, student, batch, settings)
            random_sums.add(batch_read.teachers, batch_read.common)
        sources["random"] = _source(random_sums, randoms, student, "ridge", quick=True)
    progress(FITTING, len(grouped), len(grouped))
    chosen = [{(k, n): c[k][n].overall for k in KINDS for n in range(layers_s)} for c in choices]
    rows = sum(fold.n for fold in sums.by_teacher[0].pairing(KINDS[0], 0).features.fit())
    return Fit(chosen, sources, rows)


def _check_rows(samples: Sequence[Sample], settings: AlignSettings) -> None:
    """Raise AlignError ``no-rows`` where a teacher has too few rows to fit on."""
    for sample in samples:
        if sum(sample.count(group) for group in sample.fit_groups) < 2 * sample.folds:
            raise AlignError(
                "no-rows",
                expected=Message("tokens that a map can be fitted on: after the sinks, read alike by both models"),
                found=Message(
                    "fewer than {n}, rule {rule}, {sinks} sinks",
                    n=2 * sample.folds,
                    rule=settings.time,
                    sinks=settings.sinks,
                ),
                remedy=Message("add longer prompts, or also fit on the bundled samples (--calibration samples)"),
            )


def _check_common_rows(fusion: FusionSums, settings: AlignSettings) -> None:
    """Raise AlignError ``no-rows`` where all teachers together have no common rows, though each has enough alone."""
    pairing = next(iter(fusion.pairings.values()), None)
    if pairing is None or not sum(fold.n for fold in pairing.targets.fit()):
        raise AlignError(
            "no-rows",
            expected=Message("tokens that all teachers and the student read alike, to fuse the teachers on"),
            found=Message("none, rule {rule}, {sinks} sinks", rule=settings.time, sinks=settings.sinks),
            remedy=Message("add longer prompts, or test one teacher at a time"),
        )


def _empty(choices: list[dict[str, list[Choice]]], folds: int, student: LoadedModel, identity: bool) -> _Sums:
    by_width: dict[int, list[Problem]] = {}
    for kind in KINDS if identity else ():
        for layer in range(len(student.geometry.kv_layers)):
            by_width.setdefault(target_shape(student.geometry, kind, layer)[1], []).append((kind, layer))
    return _Sums([AlignSums(c, folds, by_width) for c in choices], FusionSums(choices, folds))


def _source(
    sums: _Sums, teachers: Sequence[LoadedModel], student: LoadedModel, projector: str, quick: bool = False
) -> Source:
    source = Source({}, {}, {})
    for problem in ((kind, n) for kind in KINDS for n in range(len(student.geometry.kv_layers))):
        kind, layer = problem
        heads, width = target_shape(student.geometry, kind, layer)
        pairings = [s.pairing(kind, layer) for s in sums.by_teacher]
        ridges = [crossfit_ridge(pairing, heads, quick) for pairing in pairings]
        source.maps[problem] = [
            _map(pairing, s.choices[kind][layer], ridge, teacher, kind, heads, projector)
            for pairing, s, ridge, teacher in zip(pairings, sums.by_teacher, ridges, teachers)
        ]
        if len(teachers) == 1:
            weights = torch.ones(1, heads)
            outputs = pairings[0].targets
        else:
            common = sums.fusion.pairings[problem]
            weights = fuse(common, pairings, ridges, heads).weights.float()
            outputs = common.targets
        fitted = total(outputs.fit())
        source.weights[problem] = weights.repeat_interleave(width, dim=1).to(student.device)
        source.mean[problem] = (fitted.mean() + fitted.pilot_y).float()
    return source


def _map(pairing, choice: Choice, ridge: CrossFit, teacher: LoadedModel, kind: str, heads: int, projector: str) -> Map:
    penalty = float(ridge.penalties.log().mean().exp())
    solve = solver(projector, teacher.geometry, kind, choice.union, heads, penalty)
    weights, bias = whole_map(pairing, choice, solve)
    return weights.float(), bias.float()


def _identity(sums: _Sums, student: LoadedModel) -> Source:
    """Fit a ridge from each teacher's token embedding; the source is their mean."""
    source = Source({}, {}, {})
    for s in sums.by_teacher:
        fits = identity_fits(s)
        for width, problems in s.identity_layers.items():
            pairing, first = s.identity(width), 0
            inputs, outputs = total(pairing.features.fit()), total(pairing.targets.fit())
            everything = about_own_mean(inputs, outputs)
            means_x, means_y = everything.mean_x + inputs.pilot, everything.mean_y + outputs.pilot_y
            for problem in problems:
                ridge = fits[problem]
                channels = slice(first, first + ridge.heads * width)
                first = channels.stop
                penalty = float(ridge.penalties.log().mean().exp())
                train = replace(everything, xy=everything.xy[:, channels])
                w = head_maps.ridge(train, head_maps.absolute_penalty(train, penalty))
                bias = means_y[channels] - w.T @ means_x
                source.maps.setdefault(problem, []).append((w.float(), bias.float()))
                source.mean[problem] = means_y[channels].float()
    for problem, maps in source.maps.items():
        share = torch.full((len(maps), len(source.mean[problem])), 1 / len(maps))
        source.weights[problem] = share.to(student.device)
    return source
