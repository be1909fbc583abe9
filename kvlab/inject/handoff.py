"""Hand a text over: the teacher reads it, the student goes on from the cache that a map makes of the teacher's.

The student itself reads only what has no row of the map: special tokens, the first content tokens (sinks), tokens that
no teacher step stands for, the last ``read_last`` tokens, and always the last of all, which its next forward takes.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from typing import Any

import torch
from transformers import DynamicCache

from kvlab.align.class_maps import ClassMaps
from kvlab.align.items import Item, check_ids, time_map
from kvlab.errors import AlignError
from kvlab.inject.fit import Fit, Source
from kvlab.inject.map_file import MapFile
from kvlab.inject.own import Problem, check_cache
from kvlab.inject.prefix import Inputs, Models, inputs_of
from kvlab.language import Message
from kvlab.models import cache_names, chat
from kvlab.models.dry import rotations
from kvlab.models.forward import empty_cache
from kvlab.models.identity import check_same, identity
from kvlab.models.loading import LoadedModel
from kvlab.models.rotation import rotate
from kvlab.request.align import AlignSettings
from kvlab.shapes import KINDS, Document

SAVED = ("projected", "with-own-token", "own-tokens")  # sources that a map file holds
PARTS = ("weight", "bias", "mean")  # of a map, as a file names them
ROLES = (Message("teacher"), Message("student"))


def map_file(
    fit: Fit, teachers: Sequence[LoadedModel], student: LoadedModel, settings: AlignSettings, **about: Any
) -> MapFile:
    """Return a fit as a map file. ``about``: what else the manifest says, such as documents and scores."""
    sources, tensors = {}, {}
    for name in SAVED:
        source = fit.sources.get(name)
        if source is None or source.correction is not None:
            continue
        problems = {}
        for (kind, layer), maps in source.maps.items():
            problems[f"{kind}.{layer}"] = {
                "teacher_layers": [list(layers[kind, layer]) for layers in fit.layers],
                "classes": [[None if c is None else list(c) for c in of_teacher.classes] for of_teacher in maps],
            }
            place = f"{name}.{kind}.{layer}"
            tensors[f"{place}.share"] = source.weights[kind, layer]
            tensors[f"{place}.mean"] = source.mean[kind, layer]
            for a, of_teacher in enumerate(maps):
                parts = zip(of_teacher.weights, of_teacher.biases, of_teacher.means, strict=True)
                for number, (weight, bias, mean) in enumerate(parts):
                    at = f"{place}.{a}.{number}"
                    tensors |= {f"{at}.weight": weight, f"{at}.bias": bias, f"{at}.mean": mean}
        sources[name] = {"features": source.features, "problems": problems}
    manifest = {
        "teachers": [identity(teacher) for teacher in teachers],
        "student": identity(student),
        "settings": settings.model_dump(mode="json"),
        "dtype": "float32",
        "sources": sources,
        "rows_fitted": fit.rows,
        **about,
    }
    return MapFile(manifest, {name: tensor.detach().float().cpu().clone() for name, tensor in tensors.items()})


def fit_of(found: MapFile, device: torch.device) -> Fit:
    """Return the fit that a map file holds, its numbers on ``device``."""
    tensors = {name: tensor.to(device) for name, tensor in found.tensors.items()}
    sources, layers = {}, []
    for name, about in found.manifest["sources"].items():
        source = Source(about["features"], {}, {}, {})
        layers = [{} for _ in found.manifest["teachers"]]
        for written, of_problem in about["problems"].items():
            kind, _, number = written.partition(".")
            problem, place = (kind, int(number)), f"{name}.{written}"
            source.weights[problem], source.mean[problem] = tensors[f"{place}.share"], tensors[f"{place}.mean"]
            source.maps[problem] = [
                ClassMaps(
                    [None if c is None else tuple(c) for c in classes],
                    *([tensors[f"{place}.{a}.{n}.{part}"] for n in range(len(classes))] for part in PARTS),
                )
                for a, classes in enumerate(of_problem["classes"])
            ]
            for a, of_teacher in enumerate(of_problem["teacher_layers"]):
                layers[a][problem] = tuple(of_teacher)
        sources[name] = source
    return Fit(layers, sources, found.manifest["rows_fitted"])


def handoff(
    found: MapFile,
    teacher: LoadedModel | Sequence[LoadedModel],
    student: LoadedModel,
    text: str,
    *,
    source: str | None = None,
    read_last: int = 0,
    own_layers: int = 0,
) -> DynamicCache:
    """Return the student's cache of all tokens of ``text`` but the last, made from the teacher's.

    The cache has the attributes ``input_ids`` [1, T], to go on with (``student.generate(input_ids,
    past_key_values=cache)`` reads the last of them), ``replaced`` [T - 1] bool (tokens that the student has not
    read), ``approximate`` (True where there is one) and ``map_id``.

    ``source``: "projected", or "with-own-token" (default, where the map has it), whose map also reads the student's own
    token. ``read_last``: so many tokens before the last are read by the student, after the cache of the others.
    ``own_layers``: the student's own keys and values in its first layers, which it computes itself.
    Raises ModelError ``map-mismatch``, AlignError ``handoff-empty``, ``injection-state``, and as ``capture``.
    """
    teachers = [teacher] if isinstance(teacher, LoadedModel) else list(teacher)
    for expected, loaded in zip(found.manifest["teachers"], teachers, strict=True):
        check_same(expected, loaded, ROLES[0])
    check_same(found.manifest["student"], student, ROLES[1])
    check_cache(student, empty_cache(student))
    settings = AlignSettings.model_validate(found.manifest["settings"])
    fit = fit_of(found, student.device)
    item = _item(teachers, student, text, settings)
    ids = torch.from_numpy(item.student.ids)[None].to(student.device)
    cut = len(item.student) - 1
    if cut < 1:
        raise AlignError(
            "handoff-empty",
            expected=Message("a text of at least two tokens"),
            found=str(cut + 1),
            remedy=Message("let the student read it"),
        )
    name = source or next(s for s in ("with-own-token", "projected") if s in fit.sources)
    inputs = inputs_of(Models(teachers, [], student, settings), fit, item, ids, cut)
    replaced = torch.zeros(cut, dtype=torch.bool, device=student.device)
    rows: dict[Problem, torch.Tensor] = {}
    if inputs is not None:
        steps = inputs.picked[0].student[1]
        replaced[steps] = True
        rows = _rows(student, fit.sources[name], inputs, steps, ids[:, :cut], settings.keys == "pre-rope")
    replaced[max(0, cut - read_last) :] = False
    own = first_layers(student, ids[:, :cut], own_layers) if own_layers else {}
    cache = _filled(student, ids[:, :cut], replaced, rows | own)
    cache.input_ids, cache.replaced = ids, replaced
    cache.approximate, cache.map_id = bool(replaced.any()), found.id
    return cache


def _item(teachers: Sequence[LoadedModel], student: LoadedModel, text: str, settings: AlignSettings) -> Item:
    document = Document("handoff", text)
    *of_teachers, own = [chat.read(m.tokenizer, document, settings.chat) for m in (*teachers, student)]
    for loaded, tokens in zip((*teachers, student), (*of_teachers, own)):
        check_ids(loaded, tokens)
    maps = tuple(time_map(tokens, own, document, settings) for tokens in of_teachers)
    return Item(document, tuple(of_teachers), own, maps, 0, True, 0)


def _rows(
    student: LoadedModel, source: Source, inputs: Inputs, steps: torch.Tensor, ids: torch.Tensor, pre_rope: bool
) -> dict[Problem, torch.Tensor]:
    """The map's rows as the student would have cached them, [H, T, D] with zeros where there is none."""
    turns = rotations(student, ids) if pre_rope else {}
    rows = {}
    for problem, features in inputs.features[source.features].items():
        heads = student.geometry.layer_shapes[problem[1]][0]
        predicted = source.predict(problem, features, inputs.row_classes)
        x = predicted.unflatten(1, (heads, -1)).transpose(0, 1)
        if problem in turns:
            turn = turns[problem]
            x = rotate(x[None], replace(turn, cos=turn.cos[:, :, steps], sin=turn.sin[:, :, steps]))[0]
        rows[problem] = x.new_zeros(heads, ids.shape[1], x.shape[-1]).index_copy_(1, steps, x).to(student.dtype)
    return rows


class _Enough(Exception):
    """The first layers have cached."""


@torch.inference_mode()
def first_layers(student: LoadedModel, ids: torch.Tensor, count: int) -> dict[Problem, torch.Tensor]:
    """ids [1, T] -> the student's own keys and values [H, T, D] of its first ``count`` layers with a cache.

    Nothing above them is computed.
    """
    cache = empty_cache(student)
    layers = student.geometry.kv_layers
    store = cache.update

    def update(keys, values, layer, *args, **kwargs):
        if count < len(layers) and layer == layers[count]:
            raise _Enough
        return store(keys, values, layer, *args, **kwargs)

    cache.update = update
    try:
        with student.lock:
            student.model.base_model(input_ids=ids, **cache_names.passing(student.model.base_model, cache))
    except _Enough:
        pass
    finally:
        del cache.update
    found = {}
    for position, layer in enumerate(layers[:count]):
        for kind, x in zip(KINDS, (cache.layers[layer].keys, cache.layers[layer].values), strict=True):
            found[kind, position] = x[0]
    return found


@torch.inference_mode()
def _filled(
    student: LoadedModel, ids: torch.Tensor, replaced: torch.Tensor, rows: dict[Problem, torch.Tensor]
) -> DynamicCache:
    """Fill a cache in the order of the text: with the rows where they replace, else by a forward of the student."""
    cache = empty_cache(student)
    marks = replaced.tolist()
    edges = [0, *(sum(1 for _ in group) for _, group in groupby(marks))]
    starts = torch.tensor(edges).cumsum(0).tolist()
    for first, last in pairwise(starts):
        if marks[first]:
            for position, layer in enumerate(student.geometry.kv_layers):
                keys, values = (rows[kind, position][None, :, first:last] for kind in KINDS)
                cache.update(keys, values, layer)
        else:
            with student.lock:
                passed = cache_names.passing(student.model.base_model, cache)
                student.model.base_model(input_ids=ids[:, first:last], **passed)
    return cache
