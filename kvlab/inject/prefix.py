"""Cut a document in two, and build the rows that replace the cache of its prefix."""

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
    """All models of the test. ``randoms``: of the teachers' architectures, or empty."""

    teachers: Sequence[LoadedModel]
    randoms: Sequence[LoadedModel]
    student: LoadedModel
    settings: AlignSettings


@dataclass(frozen=True, eq=False)
class Reading:
    """A judged document, and the student's own forward over all of it."""

    item: Item
    own: Own


@dataclass(frozen=True, eq=False)
class Prefix:
    """The first ``cut`` student tokens and, of these, the replaced steps ``rows`` [N]; others keep the own cache.

    ``compared[source][problem]`` [H, N, D] float32, the output of the maps; ``cached``: the same rotated to the steps'
    positions, in the model's number type.
    """

    cut: int
    rows: torch.Tensor
    compared: dict[str, dict[Problem, torch.Tensor]]
    cached: dict[str, dict[Problem, torch.Tensor]]

    def variant(self, name: str) -> Variant:
        """Return the variant that replaces the whole cache by one source; "own" replaces nothing."""
        return Variant(name, self.cached.get(name, {}))


@torch.inference_mode()
def read_document(models: Models, item: Item) -> Reading:
    return Reading(item, read_own(models.student, item.student, models.settings.keys == "pre-rope"))


def cut_at(share: float, item: Item) -> int:
    """Count the tokens of the prefix: the beginning that another document shares, and ``share`` of the rest.

    Take at least one token of the rest and leave two to continue; return 0 where the rest has fewer than four.
    """
    shared = int(repeated_steps(item.student, item.repeated).sum())
    rest = len(item.student) - shared
    return shared + max(1, min(round(share * rest), rest - 2)) if rest >= 4 else 0


@torch.inference_mode()
def prefix_of(models: Models, fit: Fit, reading: Reading, cut: int) -> Prefix | None:
    """Build the prefix; None where it has nothing to replace: no teacher step, or only sinks and special tokens.

    The teachers read only what ends at or before the last byte of the prefix: rotations that depend on the length of
    the text (longrope, dynamic) would otherwise give another cache for the same bytes.
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
    return replaced_prefix(reading.own, models.student.geometry, cut, picked[0].student[1], compared)


def _captured(readers: Sequence[LoadedModel], first: Item, settings: AlignSettings) -> list[CapturedBatch]:
    """Capture the caches of the teachers with one forward each."""
    pre_rope = settings.keys == "pre-rope"
    return [finite(capture(reader, [tokens], pre_rope), reader) for reader, tokens in zip(readers, first.teachers)]


def with_controls(
    projected: dict[Problem, torch.Tensor], mean: dict[Problem, torch.Tensor], seed: int, tokens: Tokens, cut: int
) -> dict[str, dict[Problem, torch.Tensor]]:
    """Return the projected rows [N, Q], and the controls made from them and from the student's mean [Q]."""
    orders = _orders(seed, tokens, cut, len(next(iter(projected.values()))))
    sources = {"projected": projected}
    for name, rows in controls.ROWS.items():
        sources[name] = {p: rows(x, mean[p], orders[p[0]].to(x.device)) for p, x in projected.items()}
    return sources


def replaced_prefix(
    own: Own, student: Geometry, cut: int, rows: torch.Tensor, compared: dict[str, dict[Problem, torch.Tensor]]
) -> Prefix:
    """Return the prefix of ``cut`` tokens with its steps ``rows`` [N] replaced by [N, Q] of every source."""
    shaped, cached = {}, {}
    for name, projected in compared.items():
        shaped[name] = {p: x.unflatten(1, target_shape(student, *p)).transpose(0, 1) for p, x in projected.items()}
        cached[name] = {p: own.as_cached(p, x, rows) for p, x in shaped[name].items()}
    return Prefix(cut, rows, shaped, cached)


def _orders(seed: int, tokens: Tokens, cut: int, count: int) -> dict[str, torch.Tensor]:
    """Order keys and values differently: attention hardly notices a common permutation of both.

    Where keys carry their positions along (compared as cached), a common order would change nothing at all.
    """
    random = np.random.default_rng([seed, cut, len(tokens)])
    return {kind: torch.from_numpy(random.permutation(count)) for kind in KINDS}


def _picked(models: Models, first: Item) -> list[Picked] | None:
    """Pick the steps of each teacher for the replaced rows; None where there are no such rows."""
    maps = [(teacher, first.student, time_map) for teacher, time_map in zip(first.teachers, first.maps)]
    parts = [row_parts(*teacher_map, True, models.settings) for teacher_map in maps]
    usable = common_parts(parts)
    steps = np.sort(np.concatenate([usable[FIT_AND_SCORE], usable[SCORE_ONLY]]))
    if not len(steps):
        return None
    return [pick([teacher_map], [steps], models.student.device) for teacher_map in maps]


def first_tokens(item: Item, cut: int, time: str) -> Item:
    """Cut the item to the first ``cut`` student tokens and the teachers' tokens of the same bytes, with new time maps.

    The whole cache of these is replaced, including a beginning that other documents share.
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
    """Predict [N, Q] of every kind and layer."""
    features_of, predicted = {}, {}
    for problem in fit.layers[0]:
        features = []
        for number, (teacher_cache, rows, layers) in enumerate(zip(captured, picked, fit.layers)):
            kind = problem[0]
            if (number, kind, layers[problem]) not in features_of:
                by_layer = teacher_cache.features(kind)
                steps = [rows.features(by_layer[layer]) for layer in layers[problem]]
                features_of[number, kind, layers[problem]] = torch.cat(steps, dim=1)
            features.append(features_of[number, kind, layers[problem]])
        predicted[problem] = fit.sources[source].predict(problem, features)
    return predicted


def _identity(
    models: Models, fit: Fit, captured: Sequence[CapturedBatch], picked: Sequence[Picked]
) -> dict[Problem, torch.Tensor]:
    embedded = []
    for teacher, teacher_cache, rows in zip(models.teachers, captured, picked):
        embeddings = teacher.model.get_input_embeddings()(teacher_cache.ids)
        embedded.append(rows.features(embeddings.float().unsqueeze(1)))
    return {problem: fit.sources["identity"].predict(problem, embedded) for problem in fit.layers[0]}
