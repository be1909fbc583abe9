"""Fit, save and load the maps from teacher to student space; training may change them.

A map is a module over rows [N, Ht * Dt] -> [N, Hs * Ds] of one student layer and kind. ``ridge`` is closed form and
frozen; ``structured`` is the trainable KVProjector; without a projector rows stay as they are.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from kvlab.align import projectors as head_maps
from kvlab.align.align_sums import AlignSums
from kvlab.align.batches import Read, batches, read
from kvlab.align.class_maps import ClassMaps, class_maps
from kvlab.align.crossfit import ByClass, ridge_by_class
from kvlab.align.fold_sums import Pairing, total
from kvlab.align.items import Item
from kvlab.align.layers import Choice, choose, depth
from kvlab.align.moments import about_own_mean
from kvlab.align.rows import LAST_CLASS
from kvlab.align.sample import Sample, announced, read_sample
from kvlab.align.shapes import check_one_width, feature_shape, target_shape
from kvlab.models.loading import LoadedModel
from kvlab.request.align import AlignSettings
from kvlab.shapes import KINDS, Geometry, Progress
from kvlab.train import checkpoint

Problem = tuple[str, int]  # kind, position of a student layer among those with a cache
PHASE = "fitting the map"


class Affine(nn.Module):
    """Frozen maps y = x W + b by class of row: x [N, P], row classes [N] -> y [N, Q]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, places: Sequence[int] = (0,)):
        """``weight`` [C, P, Q] and ``bias`` [C, Q] of each map; ``places``: the map of each class of row."""
        super().__init__()
        # Kept with the run's maps, not with its checkpoints: it never changes.
        self.register_buffer("weight", weight.float(), persistent=False)
        self.register_buffer("bias", bias.float(), persistent=False)
        self.register_buffer("places", torch.tensor(places), persistent=False)

    @classmethod
    def of(cls, maps: ClassMaps) -> Self:
        places = [maps.place(row_class) for row_class in range(LAST_CLASS + 1)]
        return cls(torch.stack(maps.weights), torch.stack(maps.biases), places)

    def forward(self, x: torch.Tensor, row_classes: torch.Tensor) -> torch.Tensor:
        y = torch.addmm(self.bias[0], x, self.weight[0])
        place = self.places[row_classes]
        for number in range(1, len(self.weight)):
            # Computing every map on every row does not wait for the GPU to count the rows of each class.
            y = torch.where((place == number)[:, None], torch.addmm(self.bias[number], x, self.weight[number]), y)
        return y


class Unprojected(nn.Module):
    """Rows as they are, without a projector."""

    def forward(self, x: torch.Tensor, row_classes: torch.Tensor) -> torch.Tensor:
        return x


class Structured(head_maps.StructuredProjection):
    """The seed's projection on rows: [N, Ht * Dt] -> [N, Hs * Ds], started at the group mean."""

    def forward(self, x: torch.Tensor, row_classes: torch.Tensor) -> torch.Tensor:
        by_head = x.unflatten(1, (self.heads.shape[1], -1)).transpose(0, 1).unsqueeze(0)  # [1, Ht, N, Dt]
        return super().forward(by_head)[0].transpose(0, 1).flatten(1)


@dataclass(frozen=True)
class Fitted:
    """The maps of one teacher and their measures before step 1, per kind and student layer."""

    layers: dict[Problem, tuple[int, ...]]  # of the teacher, side by side
    maps: dict[Problem, nn.Module]
    scale: dict[Problem, float]  # standard deviation of the map's targets, the unit of the KV loss
    variance: dict[Problem, float]  # of the student's own rows, mean over channels, before it is trained
    r2: dict[Problem, float]  # held out, of a ridge map; NaN otherwise
    rows: int


def fit(
    teachers: Sequence[LoadedModel],
    student: LoadedModel,
    items: Sequence[Item],
    kind_of_map: str,
    settings: AlignSettings,
    progress: Progress,
) -> list[Fitted]:
    """Fit the maps of every teacher on ``items``, read once; documents of the layer sample are read twice.

    ``kind_of_map``: "ridge", "structured" or "identity".
    """
    folds = min(settings.folds, len(items))
    settings = settings.model_copy(update={"folds": folds})
    grouped = batches([replace(item, fold=n % folds) for n, item in enumerate(items)], settings.batch_tokens)
    choices = _choices(teachers, student, grouped, settings, progress)
    sums = [AlignSums(teacher_choices, settings.folds) for teacher_choices in choices]
    for batch in announced(grouped, PHASE, progress):
        batch_read = read(teachers, student, batch, settings)
        with torch.inference_mode():
            for teacher_sums, rows in zip(sums, batch_read.teachers):
                teacher_sums.add_batch(rows)
    progress(PHASE, len(grouped), len(grouped))
    return [_fitted(s, t.geometry, student.geometry, kind_of_map) for s, t in zip(sums, teachers)]


def _choices(teachers, student, grouped, settings, progress) -> list[dict[str, list[Choice]]]:
    layers_s = len(student.geometry.kv_layers)
    if settings.layers == "depth":
        return [{kind: _by_depth(t.geometry, kind, layers_s, settings.folds) for kind in KINDS} for t in teachers]

    def read_batch(batch: list[Item]) -> Read:
        return replace(read(teachers, student, batch, settings, checked=False), common=[])

    first = read_sample(announced(grouped, PHASE, progress), read_batch, settings.sample_tokens, settings.folds)
    samples = [Sample(r, len(t.geometry.kv_layers), layers_s, settings.folds, 0) for r, t in zip(first.rows, teachers)]
    return [choose(sample, settings, progress).choices for sample in samples]


def _by_depth(teacher: Geometry, kind: str, layers_s: int, folds: int) -> list[Choice]:
    def width_of(layer: int) -> int:
        heads, width = feature_shape(teacher, kind, layer)
        return heads * width

    chosen = depth(len(teacher.kv_layers), layers_s)
    return [Choice.of((at,), [(at,)] * folds, width_of) for at in chosen]


def _fitted(sums: AlignSums, teacher: Geometry, student: Geometry, kind_of_map: str) -> Fitted:
    fitted = Fitted({}, {}, {}, {}, {}, rows=0)
    ridges = _ridges(sums, student) if kind_of_map == "ridge" else {}
    for kind in KINDS:
        for layer, choice in enumerate(sums.choices[kind]):
            problem, pairing = (kind, layer), sums.pairing(kind, layer)
            fitted.layers[problem] = choice.overall
            inputs, outputs = pairing.score()  # all rows, which count alike
            everything = about_own_mean(total(inputs), total(outputs)).features(choice.columns(choice.overall))
            fitted.variance[problem] = float(everything.yy.mean()) / everything.n
            fitted.r2[problem] = float("nan")
            if kind_of_map == "ridge":
                fit = ridges[problem]
                maps = class_maps(pairing, choice.columns(choice.overall), fit.fits)
                fitted.maps[problem] = Affine.of(maps)
                fitted.r2[problem] = 1 - float(fit.rss.sum() / fit.tss.nansum())
                variance = _variance_of_targets(pairing, choice, maps)
            elif kind_of_map == "structured":
                fitted.maps[problem] = structured(teacher, student, problem, choice.overall)
                variance = everything.yy.mean() / everything.n  # the variance it is trained towards
            else:
                fitted.maps[problem] = Unprojected()
                variance = everything.xx.diagonal().mean() / everything.n
            fitted.scale[problem] = max(float(variance) ** 0.5, torch.finfo(torch.float32).tiny)
    return replace(fitted, rows=everything.n)


def _ridges(sums: AlignSums, student: Geometry) -> dict[Problem, ByClass]:
    pairings = {(kind, layer): sums.pairing(kind, layer) for kind in KINDS for layer in range(len(sums.choices[kind]))}
    return ridge_by_class(pairings, {problem: target_shape(student, *problem)[0] for problem in pairings})


def _variance_of_targets(pairing: Pairing, choice: Choice, maps: ClassMaps) -> float:
    """Return the variance, mean over channels, of what the maps make of all rows, which count alike."""
    squares, sums, n, columns = 0.0, 0.0, 0, choice.columns(choice.overall)
    for classes, weight, bias in zip(pairing.by_class(), maps.weights, maps.biases, strict=True):
        inputs, outputs = classes.score()
        train = about_own_mean(total(inputs), total(outputs)).features(columns)
        w = weight.double()
        mean = (train.mean_x + inputs[0].pilot[columns]) @ w + bias.double()  # of the predictions
        squares = squares + (w * (train.xx @ w)).sum(0) + train.n * mean.square()
        sums, n = sums + train.n * mean, n + train.n
    return float((squares / n - (sums / n).square()).mean())


def structured(teacher: Geometry, student: Geometry, problem: Problem, layers: Sequence[int]) -> Structured:
    kind, layer = problem
    check_one_width(teacher, kind, tuple(layers))
    shapes = [feature_shape(teacher, kind, at) for at in layers]
    heads_s, width_s = target_shape(student, kind, layer)
    return Structured(sum(heads for heads, _ in shapes), heads_s, shapes[0][1], width_s)


def save(fitted: Sequence[Fitted], path: Path, **metadata: str) -> None:
    """Save all maps of a run, teacher by teacher; replace the file as a whole. Raises RunError ``disk-full``."""
    tensors, facts = {}, []
    for t, teacher in enumerate(fitted):
        facts.append({"rows": teacher.rows, "problems": []})
        for (kind, layer), module in teacher.maps.items():
            state = {}
            if isinstance(module, Affine):
                state = {"weight": module.weight, "bias": module.bias, "places": module.places}
            state |= dict(module.named_parameters())
            tensors |= {f"{t}.{kind}.{layer}.{n}": x.detach().cpu().contiguous() for n, x in state.items()}
            numbers = {name: getattr(teacher, name)[kind, layer] for name in ("layers", "scale", "variance", "r2")}
            kind_of_map = {Affine: "ridge", Structured: "structured"}.get(type(module), "identity")
            facts[-1]["problems"].append({"kind": kind, "layer": layer, "map": kind_of_map, **numbers})
    draft = path.with_name(f".{path.name}.tmp")
    with checkpoint.written(draft):
        save_file(tensors, draft, metadata={"kvlab": json.dumps(facts)} | metadata)
        draft.replace(path)


def load(path: Path, teachers: Sequence[Geometry], student: Geometry) -> list[Fitted]:
    """Load what ``save`` wrote; a structured map starts untrained, because the checkpoint holds its weights."""
    fitted = []
    with safe_open(path, framework="pt") as file:
        for t, facts in enumerate(json.loads(file.metadata()["kvlab"])):
            teacher = Fitted({}, {}, {}, {}, {}, rows=facts["rows"])
            for fact in facts["problems"]:
                problem = fact["kind"], fact["layer"]
                for name in ("scale", "variance", "r2"):
                    getattr(teacher, name)[problem] = fact[name]
                teacher.layers[problem] = tuple(fact["layers"])
                prefix = f"{t}.{fact['kind']}.{fact['layer']}"
                if fact["map"] == "ridge":
                    module = _affine(file, prefix)
                elif fact["map"] == "structured":
                    module = structured(teachers[t], student, problem, teacher.layers[problem])
                else:
                    module = Unprojected()
                teacher.maps[problem] = module
            fitted.append(teacher)
    return fitted


def _affine(file: Any, prefix: str) -> Affine:
    """Read a ridge map; a run of before there were maps by class of row has one [P, Q] for all."""
    weight, bias = (file.get_tensor(f"{prefix}.{name}") for name in ("weight", "bias"))
    if weight.ndim == 2:
        return Affine(weight[None], bias[None], [0] * (LAST_CLASS + 1))
    return Affine(weight, bias, file.get_tensor(f"{prefix}.places").tolist())
