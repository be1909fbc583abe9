"""Fit the maps of a functional test, of the teachers and of their controls, on the fitted documents alone.

Every source gives an affine map per teacher, kind and student layer, and the weights that fuse several teachers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from kvlab.align.align_sums import OWN_TOKENS, TEACHER_TOKEN, AlignSums, side_by_side
from kvlab.align.batches import Rows, batches, read
from kvlab.align.class_maps import ClassMaps, class_maps
from kvlab.align.crossfit import Penalties, chosen_penalties, penalties_by_class
from kvlab.align.fold_sums import Pairing, total
from kvlab.align.fusion import FusionSums, fuse
from kvlab.align.layers import Choice, choose
from kvlab.align.sample import Sample, announced, read_sample
from kvlab.align.scoring import solver
from kvlab.align.shapes import target_shape
from kvlab.errors import AlignError
from kvlab.inject.own import Problem
from kvlab.inject.split import Split
from kvlab.language import Message
from kvlab.models.loading import LoadedModel
from kvlab.request.align import AlignSettings
from kvlab.shapes import KINDS, Progress

# What a source reads: the teachers' layers, these and the student's own token, or tokens alone.
LAYERS, LAYERS_AND_OWN_TOKEN = "layers", "layers and own token"
RANDOM_LAYERS = "layers of random weights"
FITTING, READING_RANDOM = "fitting the map", "reading with random weights"


@dataclass
class Source:
    """One way to predict the student's cache. Axes: A teachers, P features, Q = H * D channels of a student layer."""

    features: str  # what its maps read, one of the names above
    maps: dict[Problem, list[ClassMaps]]  # [A]
    weights: dict[Problem, torch.Tensor]  # [A, Q]
    mean: dict[Problem, torch.Tensor]  # [Q], of the student on the fitted rows: predictions are weighted about it
    correction: Callable[[Problem, torch.Tensor, torch.Tensor], torch.Tensor] | None = None  # kvlab.inject.refine

    def predict(
        self, problem: Problem, features: Sequence[torch.Tensor], row_classes: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Predict [A][N, P], [A][N] -> [N, Q]: the mean plus the weighted predictions about it."""
        mean = self.mean[problem]
        parts = zip(self.maps[problem], features, row_classes, self.weights[problem], strict=True)
        rows = mean + sum((maps.predict(x.float(), classes) - mean) * share for maps, x, classes, share in parts)
        if self.correction is None:
            return rows
        return rows + self.correction(problem, torch.cat(list(features), dim=1), row_classes[0])

    def class_mean(self, problem: Problem, row_classes: Sequence[torch.Tensor]) -> torch.Tensor:
        """[A][N] -> [N, Q]: the student's mean on the fitted rows of each row's class; the mean over teachers."""
        means = [maps.mean(classes) for maps, classes in zip(self.maps[problem], row_classes, strict=True)]
        return sum(means) / len(means)


@dataclass
class Fit:
    layers: list[dict[Problem, tuple[int, ...]]]  # of each teacher, side by side
    sources: dict[str, Source]  # "projected" and, by name, everything it is compared with that is fitted
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
    choices = [choose(s, settings, progress).choices for s in samples]
    del samples
    sums = _empty(choices, settings, student, tokens=True)
    for number in range(len(first.batches)):
        sums.add([rows[number] for rows in first.rows], [rows[number] for rows in first.common])
    del first
    for batch in stream:
        batch_read = read(teachers, student, batch, settings)
        sums.add(batch_read.teachers, batch_read.common)
    if len(teachers) > 1:
        _check_common_rows(sums.fusion, settings)
    sources = _sources(sums, teachers, student, settings.projector)
    if randoms:
        random_sums = _empty(choices, settings, student, tokens=False)
        for batch in announced(grouped, READING_RANDOM, progress):
            batch_read = read(randoms, student, batch, settings)
            random_sums.add(batch_read.teachers, batch_read.common)
        sources["random"] = replace(_fused(random_sums, randoms, student, "ridge"), features=RANDOM_LAYERS)
    progress(FITTING, len(grouped), len(grouped))
    chosen = [{(k, n): c[k][n].overall for k in KINDS for n in range(layers_s)} for c in choices]
    rows = sum(fold.n for fold in sums.by_teacher[0].pairing(KINDS[0], 0).targets.fit())
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


def _empty(
    choices: list[dict[str, list[Choice]]], settings: AlignSettings, student: LoadedModel, tokens: bool
) -> _Sums:
    folds, weighted = settings.folds, settings.row_weights != "equal"
    token_layers = side_by_side(student.geometry, weighted) if tokens else {}
    return _Sums([AlignSums(c, folds, token_layers) for c in choices], FusionSums(choices, folds))


def _problems(student: LoadedModel) -> list[Problem]:
    return [(kind, layer) for kind in KINDS for layer in range(len(student.geometry.kv_layers))]


def _sources(sums: _Sums, teachers: Sequence[LoadedModel], student: LoadedModel, projector: str) -> dict[str, Source]:
    projected = _fused(sums, teachers, student, projector)
    sources = {"projected": projected, "identity": _from_tokens(sums, student, TEACHER_TOKEN)}
    sources["own-tokens"] = _from_tokens(sums, student, OWN_TOKENS)
    if projector == "ridge":
        maps = _ridges(sums, student, with_own_token=True)[0]
        # Weighed as without the token, which all teachers have alike.
        sources["with-own-token"] = replace(projected, features=LAYERS_AND_OWN_TOKEN, maps=maps)
    return sources


def _ridges(
    sums: _Sums, student: LoadedModel, with_own_token: bool
) -> tuple[dict[Problem, list[ClassMaps]], list[dict[Problem, list[Penalties]]]]:
    """The maps [A] of every problem, and of each teacher the penalties that they have."""
    heads = {problem: target_shape(student.geometry, *problem)[0] for problem in _problems(student)}
    maps: dict[Problem, list[ClassMaps]] = {problem: [] for problem in heads}
    penalties = []
    for s in sums.by_teacher:
        pairings = {problem: s.pairing(*problem, with_own_token) for problem in heads}
        penalties.append(penalties_by_class(pairings, heads))
        for (kind, layer), pairing in pairings.items():
            columns = s.columns(kind, layer, with_own_token)
            maps[kind, layer].append(class_maps(pairing, columns, penalties[-1][kind, layer]))
    return maps, penalties


def _fused(sums: _Sums, teachers: Sequence[LoadedModel], student: LoadedModel, projector: str) -> Source:
    """The teachers' maps, weighted per head on the rows that all of them cover."""
    maps, penalties = _ridges(sums, student, with_own_token=False)
    source = Source(LAYERS, maps, {}, {})
    for problem in _problems(student):
        heads, width = target_shape(student.geometry, *problem)
        pairings = [s.pairing(*problem) for s in sums.by_teacher]
        chosen = [of_teacher[problem] for of_teacher in penalties]
        if projector != "ridge":
            teachers_and_sums = zip(teachers, sums.by_teacher, pairings, chosen)
            source.maps[problem] = [_other(projector, problem, heads, *one) for one in teachers_and_sums]
        if len(teachers) == 1:
            weights = torch.ones(1, heads)
            outputs = pairings[0].targets
        else:
            common = sums.fusion.pairings[problem]
            weights = fuse(common, pairings, chosen, sums.fusion.widths(*problem), heads).weights.float()
            outputs = common.targets
        fitted = total(outputs.fit())
        source.weights[problem] = weights.repeat_interleave(width, dim=1).to(student.device)
        source.mean[problem] = (fitted.plain_mean() + fitted.pilot_y).float()
    return source


def _other(
    projector: str,
    problem: Problem,
    heads: int,
    teacher: LoadedModel,
    sums: AlignSums,
    pairing: Pairing,
    penalties: Sequence[Penalties],
) -> ClassMaps:
    """The maps of a projector that is not ridge."""
    kind, layer = problem
    choice = sums.choices[kind][layer]
    solve = solver(projector, teacher.geometry, kind, choice.union, heads, penalty=1.0)
    return class_maps(pairing, sums.columns(kind, layer), penalties, partial(solve, some=choice.overall))


def _from_tokens(sums: _Sums, student: LoadedModel, name: str) -> Source:
    """Fit a ridge from token features for each teacher's rows; the source is their mean."""
    source = Source(name, {problem: [] for problem in _problems(student)}, {}, {})
    for s in sums.by_teacher:
        for beside_each_other, problems in s.token_layers.items():
            width = beside_each_other[0]
            together, first = s.token_pairing(name, beside_each_other), 0
            heads = [target_shape(student.geometry, *problem)[0] for problem in problems]
            classes = [chosen_penalties(of_class, sum(heads)) for of_class in together.by_class()]
            columns = torch.arange(len(together.features.pilots[0]))
            maps = class_maps(together, columns, classes)
            for problem, count in zip(problems, heads):
                channels = slice(first, first + count * width)
                source.maps[problem].append(maps.channels(channels))
                first = channels.stop
            outputs = total(together.targets.fit())
            means = (outputs.plain_mean() + outputs.pilot_y).float().split([h * width for h in heads])
            source.mean |= dict(zip(problems, means))
    for problem, maps in source.maps.items():
        share = torch.full((len(maps), len(source.mean[problem])), 1 / len(maps))
        source.weights[problem] = share.to(student.device)
    return source
