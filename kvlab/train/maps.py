"""Fit, save and load the maps from teacher to student space; training may change them.

A map is a module over rows [N, Ht * Dt] -> [N, Hs * Ds] of one student layer and kind. ``ridge`` is closed form and
frozen; ``structured`` is the trainable KVProjector; without a projector rows stay as they are.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from kvlab.align import projectors as head_maps
from kvlab.align.align_sums import AlignSums
from kvlab.align.batches import Read, batches, read
from kvlab.align.crossfit import crossfit_ridge
from kvlab.align.fold_sums import Pairing, total
from kvlab.align.items import Item
from kvlab.align.layers import Choice, choose, depth
from kvlab.align.moments import about_own_mean
from kvlab.align.sample import Sample, announced, read_sample
from kvlab.align.scoring import whole_map
from kvlab.align.shapes import check_one_width, feature_shape, target_shape
from kvlab.models.loading import LoadedModel
from kvlab.request.align import AlignSettings
from kvlab.shapes import KINDS, Geometry, Progress
from kvlab.train import checkpoint

Problem = tuple[str, int]  # kind, position of a student layer among those with a cache
PHASE = "fitting the map"


class Affine(nn.Module):
    """y = x W + b, frozen: x [N, P] -> y [N, Q]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        super().__init__()
        # Stored with the run's maps, not in its checkpoints, because it never changes.
        self.register_buffer("weight", weight.float(), persistent=False)
        self.register_buffer("bias", bias.float(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x, self.weight)


class Structured(head_maps.StructuredProjection):
    """The seed's projection on rows: [N, Ht * Dt] -> [N, Hs * Ds], started at the group mean."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
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
    share = len(first.batches) / len(grouped)
    return [choose(sample, share, settings, progress).choices for sample in samples]


def _by_depth(teacher: Geometry, kind: str, layers_s: int, folds: int) -> list[Choice]:
    def width_of(layer: int) -> int:
        heads, width = feature_shape(teacher, kind, layer)
        return heads * width

    chosen = depth(len(teacher.kv_layers), layers_s)
    return [Choice.of((at,), [(at,)] * folds, width_of) for at in chosen]


def _fitted(sums: AlignSums, teacher: Geometry, student: Geometry, kind_of_map: str) -> Fitted:
    fitted = Fitted({}, {}, {}, {}, {}, rows=0)
    for kind in KINDS:
        for layer, choice in enumerate(sums.choices[kind]):
            problem, pairing = (kind, layer), sums.pairing(kind, layer)
            fitted.layers[problem] = choice.overall
            everything = about_own_mean(total(pairing.features.fit()), total(pairing.targets.fit()))
            everything = everything.features(choice.columns(choice.overall))
            fitted.variance[problem] = float(everything.yy.mean()) / everything.n
            fitted.r2[problem] = float("nan")
            if kind_of_map == "ridge":
                heads, _ = target_shape(student, kind, layer)
                fitted.maps[problem], fitted.r2[problem] = _ridge(pairing, choice, heads)
                w = fitted.maps[problem].weight.double()
                variance = (w * (everything.xx @ w)).sum(0).mean() / everything.n
            elif kind_of_map == "structured":
                fitted.maps[problem] = structured(teacher, student, problem, choice.overall)
                variance = everything.yy.mean() / everything.n  # the variance it is trained towards
            else:
                fitted.maps[problem] = nn.Identity()
                variance = everything.xx.diagonal().mean() / everything.n
            fitted.scale[problem] = max(float(variance) ** 0.5, torch.finfo(torch.float32).tiny)
    return replace(fitted, rows=everything.n)


def _ridge(pairing: Pairing, choice: Choice, heads: int) -> tuple[Affine, float]:
    """Fit the map and its held-out R^2; the penalty is the geometric mean of those chosen without each fold."""
    crossfit = crossfit_ridge(pairing, heads)
    penalty = float(crossfit.penalties.log().mean().exp())

    def solve(train, _):
        return head_maps.ridge(train, head_maps.absolute_penalty(train, penalty))

    score = 1 - float(crossfit.rss.sum() / crossfit.tss.nansum())
    return Affine(*whole_map(pairing, choice, solve)), score


def structured(teacher: Geometry, student: Geometry, problem: Problem, layers: Sequence[int]) -> Structured:
    kind, layer = problem
    check_one_width(teacher, kind, tuple(layers))
    shapes = [feature_shape(teacher, kind, at) for at in layers]
    heads_s, width_s = target_shape(student, kind, layer)
    return Structured(sum(heads for heads, _ in shapes), heads_s, shapes[0][1], width_s)


def save(fitted: Sequence[Fitted], path: Path) -> None:
    """Save all maps of a run, teacher by teacher; replace the file as a whole. Raises RunError ``disk-full``."""
    tensors, facts = {}, []
    for t, teacher in enumerate(fitted):
        facts.append({"rows": teacher.rows, "problems": []})
        for (kind, layer), module in teacher.maps.items():
            state = {"weight": module.weight, "bias": module.bias} if isinstance(module, Affine) else {}
            state |= dict(module.named_parameters())
            tensors |= {f"{t}.{kind}.{layer}.{n}": x.detach().cpu().contiguous() for n, x in state.items()}
            numbers = {name: getattr(teacher, name)[kind, layer] for name in ("layers", "scale", "variance", "r2")}
            kind_of_map = {Affine: "ridge", Structured: "structured"}.get(type(module), "identity")
            facts[-1]["problems"].append({"kind": kind, "layer": layer, "map": kind_of_map, **numbers})
    draft = path.with_name(f".{path.name}.tmp")
    with checkpoint.written(draft):
        save_file(tensors, draft, metadata={"kvlab": json.dumps(facts)})
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
                    module = Affine(file.get_tensor(f"{prefix}.weight"), file.get_tensor(f"{prefix}.bias"))
                elif fact["map"] == "structured":
                    module = structured(teachers[t], student, problem, teacher.layers[problem])
                else:
                    module = nn.Identity()
                teacher.maps[problem] = module
            fitted.append(teacher)
    return fitted
