"""One forward per model and document -> the sums from which every score follows, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from kvlab.align.crossfit import FIT_AND_SCORE, FIT_ONLY, SCORE_ONLY, FoldSums
from kvlab.align.reading import Item
from kvlab.align.rows import row_parts
from kvlab.align.statistics import Inputs, Outputs
from kvlab.capture import CapturedBatch, capture
from kvlab.errors import AlignError
from kvlab.models import LoadedModel
from kvlab.request import AlignSettings
from kvlab.types import KINDS, LayerMap, Progress


@dataclass
class Pairing:
    """The sums of one student layer and kind against the features of its teacher layers."""

    features: FoldSums
    targets: FoldSums  # columns: the student's channels, then the same channels in shuffled row order


@dataclass
class Sums:
    """Everything one pass over the documents leaves behind."""

    folds: int
    pairings: dict[tuple[str, int], Pairing] = field(default_factory=dict)
    identity: FoldSums | None = None  # the teacher's context-free token embedding
    identity_targets: dict[str, FoldSums] = field(default_factory=dict)  # by kind, columns of all student layers
    inspected: dict[str, dict] = field(default_factory=dict)  # id -> (kind, layer) -> x [Ts, P], y [Ts, Q]


@dataclass(frozen=True)
class Rows:
    """Student steps (document b, step s) of a batch, and the weighted teacher steps (b, t) that stand for them."""

    student: tuple[torch.Tensor, torch.Tensor]  # b [N], s [N]
    teacher: tuple[torch.Tensor, torch.Tensor]  # b [M], t [M]
    row: torch.Tensor  # [M] in 0..N
    weight: torch.Tensor  # [M]
    one_to_one: bool

    def targets(self, x: torch.Tensor) -> torch.Tensor:
        """[B, H, Ts, D] -> [N, H * D], head-major."""
        return _steps(x, self.student)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """[B, H, Tt, D] -> [N, H * D] on the student's steps."""
        entries = _steps(x, self.teacher)
        if self.one_to_one:
            return entries
        out = entries.new_zeros(len(self.student[0]), entries.shape[1])
        return out.index_add_(0, self.row, entries * self.weight.to(entries.dtype)[:, None])


def _steps(x: torch.Tensor, at: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return x.transpose(1, 2)[at].flatten(1)


def accumulate(
    teacher: LoadedModel,
    student: LoadedModel,
    items: list[Item],
    layer_map: LayerMap,
    settings: AlignSettings,
    progress: Progress,
) -> Sums:
    """Read every document once with both models."""
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
        with torch.inference_mode():
            embedded = teacher.model.get_input_embeddings()(kv_t.ids).float().unsqueeze(1)  # [B, 1, Tt, hidden]
            _add_batch(sums, batch, kv_t, kv_s, embedded, layer_map, settings, shuffle)
            _keep_inspected(sums, batch, kv_t, kv_s, layer_map, inspected)
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


def _check_finite(captured: CapturedBatch, loaded: LoadedModel) -> None:
    for kind in KINDS:
        for position, x in enumerate(captured.of(kind)):
            for b, tokens in enumerate(captured.tokens if not torch.isfinite(x).all() else []):
                bad = (~torch.isfinite(x[b, :, : len(tokens)])).flatten(1).any(1).nonzero().flatten().tolist()
                if bad:
                    layer = loaded.geometry.kv_layers[position]
                    raise AlignError(
                        "cache-not-finite",
                        expected=f"finite {kind}s",
                        found=f"NaN or Inf in the {kind}s of layer {layer}, KV head {bad[0]} of {loaded.name}",
                        remedy="load the model in float32 or bfloat16 (--dtype), or check its weights",
                    )


def _add_batch(
    sums: Sums,
    batch: list[Item],
    kv_t: CapturedBatch,
    kv_s: CapturedBatch,
    embedded: torch.Tensor,
    layer_map: LayerMap,
    settings: AlignSettings,
    shuffle: torch.Generator,
) -> None:
    fold = batch[0].fold
    parts = {
        part: rows
        for part in ((FIT_AND_SCORE, SCORE_ONLY) if batch[0].scored else (FIT_ONLY,))
        if len((rows := _rows(batch, [row_parts(i, settings)[part] for i in batch], embedded.device)).student[0])
    }
    permutation = {part: torch.randperm(len(r.student[0]), generator=shuffle) for part, r in parts.items()}
    embeddings = {part: rows.features(embedded) for part, rows in parts.items()}
    for kind in KINDS:
        targets = {part: [rows.targets(y) for y in kv_s.of(kind)] for part, rows in parts.items()}
        for layer, teacher_layers in enumerate(layer_map.teacher_layers):
            features = kv_t.side_by_side(kind, teacher_layers)
            for part, rows in parts.items():
                x, y = rows.features(features), targets[part][layer]
                if (kind, layer) not in sums.pairings:
                    sums.pairings[kind, layer] = _pairing(x.mean(0), y.mean(0), sums.folds)
                pairing = sums.pairings[kind, layer]
                pairing.features.add(fold, part, x)
                pairing.targets.add(fold, part, x, torch.cat([y, y[permutation[part]]], dim=1))
        for part, e in embeddings.items():
            every_layer = torch.cat(targets[part], dim=1)
            if sums.identity is None:
                sums.identity = _fold_inputs(e.mean(0), sums.folds)
            if kind not in sums.identity_targets:
                pilot_e = sums.identity.make().pilot
                sums.identity_targets[kind] = _fold_outputs(pilot_e, every_layer.mean(0), sums.folds)
            if kind == KINDS[0]:
                sums.identity.add(fold, part, e)
            sums.identity_targets[kind].add(fold, part, e, every_layer)


def _rows(batch: list[Item], chosen: list[np.ndarray], device: torch.device) -> Rows:
    """One batch-wide map from the documents' maps, for the chosen student steps of each."""
    student_b, student_s, teacher_b, teacher_t, row, weight = [], [], [], [], [], []
    offset = 0
    for b, (item, steps) in enumerate(zip(batch, chosen, strict=True)):
        number = np.full(item.map.student_length, -1)
        number[steps] = np.arange(len(steps)) + offset
        kept = number[item.map.rows] >= 0
        student_b.append(np.full(len(steps), b))
        student_s.append(steps)
        teacher_b.append(np.full(int(kept.sum()), b))
        teacher_t.append(item.map.columns[kept])
        row.append(number[item.map.rows[kept]])
        weight.append(item.map.weights[kept])
        offset += len(steps)
    joined = [torch.from_numpy(np.concatenate(part)).to(device) for part in (student_b, student_s)]
    entries = [torch.from_numpy(np.concatenate(part)).to(device) for part in (teacher_b, teacher_t, row, weight)]
    one_to_one = len(entries[2]) == offset and bool((entries[3] == 1).all())
    return Rows(tuple(joined), (entries[0], entries[1]), entries[2], entries[3], one_to_one)


def _fold_inputs(pilot: torch.Tensor, folds: int) -> FoldSums:
    return FoldSums(lambda: Inputs.empty(pilot), folds)


def _fold_outputs(pilot_x: torch.Tensor, pilot_y: torch.Tensor, folds: int) -> FoldSums:
    return FoldSums(lambda: Outputs.empty(pilot_x, pilot_y), folds)


def _pairing(pilot_x: torch.Tensor, pilot_y: torch.Tensor, folds: int) -> Pairing:
    return Pairing(
        features=_fold_inputs(pilot_x, folds),
        targets=_fold_outputs(pilot_x, torch.cat([pilot_y, pilot_y]), folds),
    )


def _keep_inspected(
    sums: Sums,
    batch: list[Item],
    kv_t: CapturedBatch,
    kv_s: CapturedBatch,
    layer_map: LayerMap,
    inspected: set[str],
) -> None:
    """Features and targets of whole documents, for the detail panes. Rows without teacher signal are zero."""
    for item in batch:
        if not item.scored or item.document.id not in inspected:
            continue
        everything = [np.arange(len(i.student)) if i is item else np.arange(0) for i in batch]
        rows = _rows(batch, everything, kv_t.keys[0].device)
        sums.inspected[item.document.id] = {
            (kind, layer): (
                rows.features(kv_t.side_by_side(kind, teacher_layers)).cpu(),
                rows.targets(kv_s.of(kind)[layer]).cpu(),
            )
            for kind in KINDS
            for layer, teacher_layers in enumerate(layer_map.teacher_layers)
        }
