"""One forward per model and document -> the sums from which every score follows, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from kvlab.align import time as time_rules
from kvlab.align.crossfit import FIT_AND_SCORE, FIT_ONLY, SCORE_ONLY, FoldSums
from kvlab.align.reading import Item
from kvlab.align.rows import row_parts
from kvlab.align.statistics import Inputs, Outputs
from kvlab.capture import capture
from kvlab.errors import AlignError
from kvlab.models import LoadedModel
from kvlab.types import KINDS, KV, TimeMap


@dataclass
class Pairing:
    """The sums of one student layer and kind: its targets against teacher features, and against token identity."""

    features: FoldSums
    targets: FoldSums  # columns: the student's channels, then the same channels in shuffled row order
    identity_targets: FoldSums


@dataclass
class Sums:
    """Everything one pass over the documents leaves behind."""

    folds: int
    identity: FoldSums | None = None
    pairings: dict[tuple[str, int], Pairing] = field(default_factory=dict)
    inspected: dict[str, dict] = field(default_factory=dict)


def accumulate(teacher, student, items, layer_map, settings, progress) -> Sums:
    sums = Sums(folds=1 + max(item.fold for item in items))
    inspected = {item.document.id for item in [i for i in items if i.scored][: settings.inspect]}
    shuffle = torch.Generator().manual_seed(settings.seed)
    done = 0
    for batch in _batches(items, settings.batch_tokens):
        progress("reading caches", done, len(items))
        kv_t = capture(teacher, [i.teacher for i in batch], settings.keys == "pre-rope")
        kv_s = capture(student, [i.student for i in batch], settings.keys == "pre-rope")
        _check_finite(kv_t, teacher)
        _check_finite(kv_s, student)
        _add_batch(sums, teacher, batch, kv_t, kv_s, layer_map, settings, shuffle, inspected)
        done += len(batch)
    progress("reading caches", done, len(items))
    return sums


def _batches(items: list[Item], batch_tokens: int) -> Iterator[list[Item]]:
    """Documents of one fold and role, of similar length, with at most ``batch_tokens`` padded tokens."""
    ordered = sorted(items, key=lambda i: (i.fold, not i.scored, len(i.student) + len(i.teacher)))
    batch: list[Item] = []
    for item in ordered:
        longest = max(len(item.student), len(item.teacher))
        same = batch and (batch[0].fold, batch[0].scored) == (item.fold, item.scored)
        if batch and (not same or longest * (len(batch) + 1) > batch_tokens):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _check_finite(caches: list[KV], loaded: LoadedModel) -> None:
    for name in ("keys", "values"):
        for position, layer in enumerate(loaded.geometry.kv_layers):
            for cache in caches:
                x = getattr(cache, name)[position]
                if not torch.isfinite(x).all():
                    bad = (~torch.isfinite(x)).flatten(1).any(1).nonzero().flatten().tolist()
                    raise AlignError(
                        "cache-not-finite",
                        expected=f"finite {name}",
                        found=f"NaN or Inf in {name} of layer {layer}, KV head {bad[0]} of {loaded.name}",
                        remedy="load the model in float32 or bfloat16 (--dtype), or check its weights",
                    )


def _add_batch(sums, teacher, batch, kv_t, kv_s, layer_map, settings, shuffle, inspected) -> None:
    rows = [row_parts(item, settings) for item in batch]
    embedding = teacher.model.get_input_embeddings()
    fold = batch[0].fold
    with torch.inference_mode():
        identity = [
            time_rules.resample(i.map, embedding(torch.from_numpy(i.teacher.ids).to(teacher.device)).float())
            for i in batch
        ]
    parts = {
        part: [torch.from_numpy(r[part]) for r in rows]
        for part in ((FIT_AND_SCORE, SCORE_ONLY) if batch[0].scored else (FIT_ONLY,))
    }
    permutations = {p: torch.randperm(sum(len(r) for r in chosen), generator=shuffle) for p, chosen in parts.items()}

    if sums.identity is None:
        sums.identity = FoldSums(_inputs(torch.cat(identity).mean(0)), sums.folds)
    for part, chosen in parts.items():
        sums.identity.add(fold, part, _rows(identity, chosen))

    for kind in KINDS:
        for layer, teacher_layers in enumerate(layer_map.teacher_layers):
            x = [_features(kv, i.map, kind, teacher_layers) for kv, i in zip(kv_t, batch)]
            y = [_flat(_layers(kv, kind)[layer]) for kv in kv_s]
            pairing = sums.pairings.get((kind, layer))
            if pairing is None:
                pairing = _pairing(torch.cat(x), torch.cat(y), torch.cat(identity), sums.folds)
                sums.pairings[kind, layer] = pairing
            for part, chosen in parts.items():
                xs, ys, es = _rows(x, chosen), _rows(y, chosen), _rows(identity, chosen)
                pairing.features.add(fold, part, xs)
                pairing.targets.add(fold, part, xs, torch.cat([ys, ys[permutations[part]]], dim=1))
                pairing.identity_targets.add(fold, part, es, ys)
            for item, xi, yi in zip(batch, x, y):
                if item.scored and item.document.id in inspected:
                    sums.inspected.setdefault(item.document.id, {})[kind, layer] = (xi.cpu(), yi.cpu())


def _features(kv: KV, time_map: TimeMap, kind: str, teacher_layers: tuple[int, ...]) -> torch.Tensor:
    """[Ts, P]: all heads of the chosen teacher layers, resampled onto the student's timeline."""
    chosen = torch.cat([_layers(kv, kind)[layer] for layer in teacher_layers])
    return _flat(time_rules.resample(time_map, chosen))


def _layers(kv: KV, kind: str) -> list[torch.Tensor]:
    return kv.keys if kind == "key" else kv.values


def _flat(x: torch.Tensor) -> torch.Tensor:
    """[H, T, D] -> [T, H * D], head-major."""
    return x.transpose(0, 1).flatten(1)


def _rows(tensors: list[torch.Tensor], chosen: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([x[c.to(x.device)] for x, c in zip(tensors, chosen)])


def _inputs(pilot: torch.Tensor):
    return lambda: Inputs.empty(pilot)


def _pairing(x: torch.Tensor, y: torch.Tensor, identity: torch.Tensor, folds: int) -> Pairing:
    pilot_x, pilot_y, pilot_e = x.mean(0), y.mean(0), identity.mean(0)
    pilot_yy = torch.cat([pilot_y, pilot_y])
    return Pairing(
        features=FoldSums(_inputs(pilot_x), folds),
        targets=FoldSums(lambda: Outputs.empty(pilot_x, pilot_yy), folds),
        identity_targets=FoldSums(lambda: Outputs.empty(pilot_e, pilot_y), folds),
    )
