"""Cut a document in two, and build the rows that replace the cache of its prefix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from kvlab.align.align_sums import OWN_TOKENS, TEACHER_TOKEN
from kvlab.align.batches import finite
from kvlab.align.items import Item
from kvlab.align.own_tokens import own_token_features, own_token_width, teacher_token_features
from kvlab.align.rows import Picked, common_parts, pick, row_parts, rows_of
from kvlab.align.shapes import target_shape
from kvlab.align.shared_text import repeated_steps
from kvlab.inject import controls
from kvlab.inject.continuation import Variant
from kvlab.inject.fit import LAYERS, LAYERS_AND_OWN_TOKEN, RANDOM_LAYERS, Fit
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
    mean: dict[Problem, torch.Tensor]  # [N, Q] of the student's fitted rows of each row's class, or [Q]
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
    inputs = inputs_of(models, fit, reading.item, reading.own.ids, cut)
    if inputs is None:
        return None
    predicted = {
        name: {p: source.predict(p, inputs.features[source.features][p], inputs.row_classes) for p in fit.layers[0]}
        for name, source in fit.sources.items()
        if source.features in inputs.features  # random weights may be left out
    }
    mean = {problem: fit.sources["projected"].class_mean(problem, inputs.row_classes) for problem in fit.layers[0]}
    compared = with_controls(predicted["projected"], mean, models.settings.seed, reading.own.tokens, cut)
    rows = inputs.picked[0].student[1]
    return replaced_prefix(reading.own, models.student.geometry, cut, rows, mean, compared | predicted)


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the sources read of a prefix: features by their name, kind and layer [A][N, P]."""

    cut: int
    picked: list[Picked]  # [A]
    row_classes: list[torch.Tensor]  # [A][N]
    features: dict[str, dict[Problem, list[torch.Tensor]]]


def inputs_of(
    models: Models,
    fit: Fit,
    item: Item,
    ids: torch.Tensor,
    cut: int,
    start: int = 0,
    read: Callable[[Item], list[CapturedBatch]] | None = None,
) -> Inputs | None:
    """Read a prefix with every teacher; None where nothing in it can be replaced. ``ids`` [1, T] of the student.

    ``start``: the first step to replace. ``read`` captures the teachers' caches of the item cut to the prefix, instead
    of a forward each.
    """
    first = first_tokens(item, cut, models.settings.time)
    picked = _picked(models, first, start)
    if picked is None:
        return None
    rows, row_classes = picked
    captured = read(first) if read else _captured(models.teachers, first, models.settings)
    own_tokens = rows[0].targets(own_token_features(models.student, ids[:, :cut]))
    own = own_tokens[:, : own_token_width(own_tokens.shape[1])]
    embedded = [
        picks.features(teacher_token_features(teacher, read.ids))
        for teacher, read, picks in zip(models.teachers, captured, rows)
    ]
    features = {
        LAYERS: _layers(fit, captured, rows, own[:, :0]),
        LAYERS_AND_OWN_TOKEN: _layers(fit, captured, rows, own),
        OWN_TOKENS: dict.fromkeys(fit.layers[0], [own_tokens] * len(rows)),
        TEACHER_TOKEN: dict.fromkeys(fit.layers[0], embedded),
    }
    if models.randoms:
        features[RANDOM_LAYERS] = _layers(fit, _captured(models.randoms, first, models.settings), rows, own[:, :0])
    return Inputs(cut, rows, row_classes, features)


def _captured(readers: Sequence[LoadedModel], first: Item, settings: AlignSettings) -> list[CapturedBatch]:
    """Capture the caches of the teachers with one forward each."""
    pre_rope = settings.keys == "pre-rope"
    return [finite(capture(reader, [tokens], pre_rope), reader) for reader, tokens in zip(readers, first.teachers)]


def with_controls(
    projected: dict[Problem, torch.Tensor], mean: dict[Problem, torch.Tensor], seed: int, tokens: Tokens, cut: int
) -> dict[str, dict[Problem, torch.Tensor]]:
    """Return the projected rows [N, Q], and the controls made from them and from the student's mean [N, Q] or [Q]."""
    orders = _orders(seed, tokens, cut, len(next(iter(projected.values()))))
    sources = {"projected": projected}
    for name, rows in controls.ROWS.items():
        sources[name] = {p: rows(x, mean[p], orders[p[0]].to(x.device)) for p, x in projected.items()}
    return sources


def replaced_prefix(
    own: Own,
    student: Geometry,
    cut: int,
    rows: torch.Tensor,
    mean: dict[Problem, torch.Tensor],
    compared: dict[str, dict[Problem, torch.Tensor]],
) -> Prefix:
    """Return the prefix of ``cut`` tokens with its steps ``rows`` [N] replaced by [N, Q] of every source."""
    shaped, cached = {}, {}
    for name, projected in compared.items():
        shaped[name] = {p: x.unflatten(1, target_shape(student, *p)).transpose(0, 1) for p, x in projected.items()}
        cached[name] = {p: own.as_cached(p, x, rows) for p, x in shaped[name].items()}
    return Prefix(cut, rows, mean, shaped, cached)


def _orders(seed: int, tokens: Tokens, cut: int, count: int) -> dict[str, torch.Tensor]:
    """Order keys and values differently: attention hardly notices a common permutation of both.

    Where keys carry their positions along (compared as cached), a common order would change nothing at all.
    """
    random = np.random.default_rng([seed, cut, len(tokens)])
    return {kind: torch.from_numpy(random.permutation(count)) for kind in KINDS}


def _picked(models: Models, first: Item, start: int) -> tuple[list[Picked], list[torch.Tensor]] | None:
    """Pick the replaced rows with each teacher's steps, and the class of each row for each teacher [A][N]."""
    maps = list(zip(first.teachers, [first.student] * len(first.maps), first.maps))
    steps, classes = rows_of(common_parts([row_parts(*of_teacher, True, models.settings) for of_teacher in maps]))
    steps, classes = steps[steps >= start], classes[steps >= start]
    if not len(steps):
        return None
    device = models.student.device
    picked = [pick([of_teacher], [steps], device) for of_teacher in maps]
    return picked, [torch.from_numpy(of_teacher).to(device) for of_teacher in classes.T.copy()]


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


def _layers(
    fit: Fit, captured: Sequence[CapturedBatch], picked: Sequence[Picked], own_token: torch.Tensor
) -> dict[Problem, list[torch.Tensor]]:
    """The teachers' layers side by side [A][N, P], and ``own_token`` [N, E] behind them."""
    known: dict[tuple, torch.Tensor] = {}
    features: dict[Problem, list[torch.Tensor]] = {}
    for problem in fit.layers[0]:
        for number, (caches, rows, layers) in enumerate(zip(captured, picked, fit.layers)):
            key = number, problem[0], layers[problem]
            if key not in known:
                kind_features = caches.features(problem[0])
                steps = [rows.features(kind_features[layer]) for layer in layers[problem]]
                known[key] = torch.cat([*steps, own_token.to(steps[0].dtype)], dim=1)
            features.setdefault(problem, []).append(known[key])
    return features
