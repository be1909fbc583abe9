"""One document cut in two: the prefix whose cache is replaced, and by what."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from kvlab.align.batches import finite
from kvlab.align.fold_sums import FIT_AND_SCORE, SCORE_ONLY
from kvlab.align.items import Item
from kvlab.align.rows import Picked, common_parts, pick, row_parts
from kvlab.align.shapes import target_shape
from kvlab.align.shared_text import repeated_steps
from kvlab.inject import controls
from kvlab.inject.continuation import Variant
from kvlab.inject.fit import Fit
from kvlab.inject.own import Own, Problem, read_own
from kvlab.models.capture import CapturedBatch, capture
from kvlab.models.loading import LoadedModel
from kvlab.request.align import AlignSettings
from kvlab.request.time_rules import MAPS
from kvlab.shapes import KINDS, Geometry, Segment, Tokens


@dataclass(frozen=True, eq=False)
class Models:
    """Everything that reads. ``randoms``: of the teachers' architectures, or none."""

    teachers: Sequence[LoadedModel]
    randoms: Sequence[LoadedModel]
    student: LoadedModel
    settings: AlignSettings


@dataclass(frozen=True, eq=False)
class Reading:
    """A judged document as the student read it, whole."""

    item: Item
    own: Own


@dataclass(frozen=True, eq=False)
class Prefix:
    """The first ``cut`` student tokens and, of these, the replaced steps ``rows`` [N]; others keep the own cache.

    ``compared[source][problem]`` [H, N, D] float32 as the maps give it; ``cached`` the same at the steps' positions,
    rotated and in the model's number type.
    """

    cut: int
    rows: torch.Tensor
    compared: dict[str, dict[Problem, torch.Tensor]]
    cached: dict[str, dict[Problem, torch.Tensor]]

    def variant(self, name: str) -> Variant:
        """The whole cache replaced by one source; nothing for "own"."""
        return Variant(name, self.cached.get(name, {}))


@torch.inference_mode()
def read_document(models: Models, item: Item) -> Reading:
    return Reading(item, read_own(models.student, item.student, models.settings.keys == "pre-rope"))


def cut_at(share: float, item: Item) -> int:
    """How many tokens the prefix has: the beginning that another document has too, and ``share`` of the document's own.

    At least one of its own, and two are left to go on with; 0 where it has fewer than four.
    """
    known = int(repeated_steps(item.student, item.repeated).sum())
    own = len(item.student) - known
    return known + max(1, min(round(share * own), own - 2)) if own >= 4 else 0


@torch.inference_mode()
def prefix_of(models: Models, fit: Fit, reading: Reading, cut: int) -> Prefix | None:
    """None where nothing in the prefix can be replaced: no teacher step, or sinks and special tokens alone.

    The teachers read what ends at or before the byte where the prefix ends, and no more: rotations that depend on the
    length of the text (longrope, dynamic) would make another cache of the same bytes.
    """
    first = first_tokens(reading.item, cut, models.settings.time)
    picked = _picked(models, first)
    if picked is None:
        return None
    captured = _captured(models.teachers, first, models.settings)
    projected = _predicted(fit, "projected", captured, picked)
    compared = with_controls(projected, fit.sources["projected"].mean, models.settings.seed, reading.own.tokens, cut)
    compared["identity"] = _identity(models, fit, captured, picked)
    if models.randoms:
        compared["random"] = _predicted(fit, "random", _captured(models.randoms, first, models.settings), picked)
    return given(reading.own, models.student.geometry, cut, picked[0].student[1], compared)


def _captured(readers: Sequence[LoadedModel], first: Item, settings: AlignSettings) -> list[CapturedBatch]:
    """One forward each."""
    pre_rope = settings.keys == "pre-rope"
    return [finite(capture(reader, [tokens], pre_rope), reader) for reader, tokens in zip(readers, first.teachers)]


def with_controls(
    projected: dict[Problem, torch.Tensor], mean: dict[Problem, torch.Tensor], seed: int, tokens: Tokens, cut: int
) -> dict[str, dict[Problem, torch.Tensor]]:
    """Return the projected rows [N, Q], and what controls make of them and of the student's mean [Q]."""
    orders = _orders(seed, tokens, cut, len(next(iter(projected.values()))))
    sources = {"projected": projected}
    for name, rows in controls.ROWS.items():
        sources[name] = {p: rows(x, mean[p], orders[p[0]].to(x.device)) for p, x in projected.items()}
    return sources


def given(
    own: Own, student: Geometry, cut: int, rows: torch.Tensor, compared: dict[str, dict[Problem, torch.Tensor]]
) -> Prefix:
    """The prefix of ``cut`` tokens with its steps ``rows`` [N] replaced by [N, Q] of every source."""
    shaped = {
        name: {p: x.unflatten(1, target_shape(student, *p)).transpose(0, 1) for p, x in of.items()}
        for name, of in compared.items()
    }
    cached = {name: {p: own.as_cached(p, x, rows) for p, x in of.items()} for name, of in shaped.items()}
    return Prefix(cut, rows, shaped, cached)


def _orders(seed: int, tokens: Tokens, cut: int, count: int) -> dict[str, torch.Tensor]:
    """Keys in one order and values in another: attention does not see that both are permuted alike.

    Where keys carry their positions along (compared as cached), a common order would even change nothing at all.
    """
    random = np.random.default_rng([seed, cut, len(tokens)])
    return {kind: torch.from_numpy(random.permutation(count)) for kind in KINDS}


def _picked(models: Models, first: Item) -> list[Picked] | None:
    """Of each teacher, its steps for the replaced rows."""
    maps = list(zip(first.teachers, [first.student] * len(first.maps), first.maps))
    parts = [row_parts(*of_teacher, True, models.settings) for of_teacher in maps]
    usable = common_parts(parts)
    steps = np.sort(np.concatenate([usable[FIT_AND_SCORE], usable[SCORE_ONLY]]))
    if not len(steps):
        return None
    return [pick([of_teacher], [steps], models.student.device) for of_teacher in maps]


def first_tokens(item: Item, cut: int, time: str) -> Item:
    """The first ``cut`` student tokens, what each teacher has read of the same bytes, and the maps between them.

    The whole cache of these is handed over, a beginning that other documents have too included.
    """
    student = item.student.first(cut)
    end = int(student.spans[-1, 1])
    segments = [Segment(s.name, s.start, min(s.end, end)) for s in item.document.segments if s.start < end]
    teachers = [t.first(int(np.searchsorted(t.spans[:, 1], end, side="right"))) for t in item.teachers]
    maps = tuple(MAPS[time](teacher, student, segments) for teacher in teachers)
    return replace(item, teachers=tuple(teachers), student=student, maps=maps, repeated=0)


def _predicted(
    fit: Fit, source: str, captured: Sequence[CapturedBatch], picked: Sequence[Picked]
) -> dict[Problem, torch.Tensor]:
    """[N, Q] of every kind and layer."""
    features_of, predicted = {}, {}
    for problem in fit.layers[0]:
        features = []
        for number, (of_teacher, rows, layers) in enumerate(zip(captured, picked, fit.layers)):
            kind = problem[0]
            if (number, kind, layers[problem]) not in features_of:
                read = of_teacher.features(kind)
                steps = [rows.features(read[layer]) for layer in layers[problem]]
                features_of[number, kind, layers[problem]] = torch.cat(steps, dim=1)
            features.append(features_of[number, kind, layers[problem]])
        predicted[problem] = fit.sources[source].predict(problem, features)
    return predicted


def _identity(
    models: Models, fit: Fit, read: Sequence[CapturedBatch], picked: Sequence[Picked]
) -> dict[Problem, torch.Tensor]:
    embedded = [
        rows.features(teacher.model.get_input_embeddings()(captured.ids).float().unsqueeze(1))
        for teacher, captured, rows in zip(models.teachers, read, picked)
    ]
    return {problem: fit.sources["identity"].predict(problem, embedded) for problem in fit.layers[0]}
