"""Group items into batches of one fold, run one forward per model on each, and pair the rows of both models."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, zip_longest
from typing import Any

import numpy as np
import torch

from kvlab.align.fold_sums import HOST, Part
from kvlab.align.items import Item
from kvlab.align.own_tokens import own_token_features, teacher_token_features
from kvlab.align.rkv import keep_steps
from kvlab.align.rows import NO_STEPS, Picked, common_parts, pick, row_parts, selectable
from kvlab.errors import AlignError
from kvlab.language import Message
from kvlab.models.attention import observed_attention, observers, received_attention
from kvlab.models.capture import CapturedBatch, capture
from kvlab.models.loading import LoadedModel
from kvlab.request.align import AlignSettings
from kvlab.request.time_rules import RULES
from kvlab.request.time_rules.nearest import NO_STEP
from kvlab.shapes import KINDS, HeadSteps, TimeMap, Tokens


def batches(items: Sequence[Item], batch_tokens: int) -> list[list[Item]]:
    """Group documents of one fold and role and of similar length, at most ``batch_tokens`` padded tokens per batch.

    The folds take turns and batches of all lengths are mixed, so that the first batches are typical of all.
    """
    of_fold: dict[tuple, list[list[Item]]] = {}
    for item in sorted(items, key=lambda i: i.longest):
        groups = of_fold.setdefault((item.fold, item.scored), [])
        if not groups or item.longest * (len(groups[-1]) + 1) > batch_tokens:
            groups.append([])
        groups[-1].append(item)
    for groups in of_fold.values():
        random.Random(0).shuffle(groups)
    in_turn = zip_longest(*(of_fold[key] for key in sorted(of_fold, key=lambda k: (not k[1], k[0]))))
    return [batch for turn in in_turn for batch in turn if batch is not None]


ALL = Part("all")  # of a whole document


@dataclass
class Rows:
    """The rows of one batch under one teacher's time map, by part; gathered on demand.

    ``x(kind, layer, part)`` [N, P] features, ``y(kind, layer, part)`` [N, Q] targets, ``e(part)`` [N, E] the
    teacher's context-free token embeddings, ``own(part)`` [N, 3 Es] the student's, of the row's own token and the two
    before it, ``weights(layer, part)`` [N] those of the rows in the fit of a student layer. Layers are positions among
    the cached ones.
    """

    fold: int
    picked: dict[Part, Picked]
    teacher: CapturedBatch
    student: CapturedBatch
    embedded: torch.Tensor  # [B, 1, Tt, E]
    own_tokens: torch.Tensor  # [B, 1, Ts, 3 Es]
    steps: list[torch.Tensor] | None = None  # rule rkv: per cached teacher layer [B, H, Ts], -1 where none
    _gathered: dict[tuple, torch.Tensor] | None = None  # on the host
    received: list[torch.Tensor] | None = None  # per cached student layer [B, Ts]; None: rows are fitted alike

    @property
    def device(self) -> torch.device:
        return next(iter(self.picked.values())).student[0].device

    def _kept(self, *name: Any) -> torch.Tensor | None:
        rows = self._gathered.get(name)
        return None if rows is None else rows.to(self.device, non_blocking=True)

    @property
    def parts(self) -> list[Part]:
        return [part for part, picked in self.picked.items() if len(picked)]

    def x(self, kind: str, layer: int, part: Part) -> torch.Tensor:
        if self._gathered is not None:
            return self._kept("x", kind, layer, part)
        features = self.teacher.features(kind)[layer]
        if self.steps is None:
            return self.picked[part].features(features)
        return self.picked[part].features_by_head(features, self.steps[layer])

    def y(self, kind: str, layer: int, part: Part) -> torch.Tensor:
        if self._gathered is not None:
            return self._kept("y", kind, layer, part)
        return self.picked[part].targets(self.student.of(kind)[layer])

    def e(self, part: Part) -> torch.Tensor:
        if self._gathered is not None:
            return self._kept("e", part)
        if self.steps is None:
            return self.picked[part].features(self.embedded)
        # Each head keeps other steps, so the token-only baseline is the mean of the embeddings over all heads.
        by_layer = [
            self.picked[part]
            .features_by_head(self.embedded.expand(-1, steps.shape[1], -1, -1), steps)
            .unflatten(1, (steps.shape[1], -1))
            .mean(1)
            for steps in self.steps
        ]
        return torch.stack(by_layer).mean(0)

    def own(self, part: Part) -> torch.Tensor:
        if self._gathered is not None:
            return self._kept("own", part)
        return self.picked[part].targets(self.own_tokens)

    def weights(self, layer: int, part: Part) -> torch.Tensor | None:
        if self._gathered is not None:
            return self._kept("w", layer, part)
        return None if self.received is None else self.received[layer][self.picked[part].student]

    def side_by_side(self, kind: str, layers: Sequence[int], part: Part) -> torch.Tensor:
        """[N, sum of P]: the features of several teacher layers."""
        if len(layers) == 1:
            return self.x(kind, layers[0], part)
        return torch.cat([self.x(kind, layer, part) for layer in layers], dim=1)

    def keep(self) -> Rows:
        """Return a copy that holds all gathered rows, on the host, and no longer the caches."""
        gathered = {("e", part): self.e(part) for part in self.parts}
        gathered |= {("own", part): self.own(part) for part in self.parts}
        for part in self.parts:
            for kind in KINDS:
                for layer in range(len(self.teacher.of(kind))):
                    gathered["x", kind, layer, part] = self.x(kind, layer, part)
                for layer in range(len(self.student.of(kind))):
                    gathered["y", kind, layer, part] = self.y(kind, layer, part)
            for layer in range(len(self.received or ())):
                gathered["w", layer, part] = self.weights(layer, part)
        gathered = {name: rows.to(HOST) for name, rows in gathered.items()}
        return Rows(self.fold, self.picked, None, None, None, None, self.steps, gathered)

    def places(self) -> Rows:
        """Return a copy with nothing but the places of the rows."""
        return Rows(self.fold, self.picked, None, None, None, None, self.steps)


@dataclass(frozen=True)
class Read:
    """One batch with the rows and caches of every model."""

    items: list[Item]
    teachers: list[Rows]  # of each teacher
    common: list[Rows] = field(default_factory=list)  # of each teacher on the steps that all of them cover
    head_steps: list[list[HeadSteps]] = field(default_factory=list)  # rule rkv: of each teacher and document
    captured: list[tuple[CapturedBatch, LoadedModel]] = field(default_factory=list)

    def check(self) -> None:
        """Wait for the device and check every cache. Raises AlignError ``cache-not-finite`` naming layer and head."""
        for captured, loaded in self.captured:
            finite(captured, loaded)


@torch.inference_mode()
def read(
    teachers: Sequence[LoadedModel],
    student: LoadedModel,
    batch: list[Item],
    settings: AlignSettings,
    checked: bool = True,
) -> Read:
    """Read a batch with one forward per model. ``checked``: call ``Read.check``; else the caller does so later.

    The places of the rows go to the device before the forwards, because a copy to a busy device waits for it.
    """
    parts = [
        [row_parts(i.teachers[t], i.student, i.maps[t], i.scored, settings, i.repeated) for i in batch]
        for t in range(len(teachers))
    ]
    shared = [common_parts(document_parts) for document_parts in zip(*parts)]
    picks = [_picks(batch, t, [parts[t], *([shared] * (len(teachers) > 1))], student) for t in range(len(teachers))]
    kv_s = capture(student, [i.student for i in batch], settings.keys == "pre-rope")
    own_tokens = own_token_features(student, kv_s.ids)
    received = received_attention(student, kv_s.tokens) if settings.row_weights == "attention" else None
    batch_read = Read(batch, [], captured=[(kv_s, student)])
    for t, (teacher, teacher_picks) in enumerate(zip(teachers, picks)):
        kv_t = capture(teacher, [i.teachers[t] for i in batch], settings.keys == "pre-rope")
        batch_read.captured.append((kv_t, teacher))
        embedded = teacher_token_features(teacher, kv_t.ids)
        steps = None
        if RULES[settings.time].per_head:
            maps = [(i.teachers[t], i.student, i.maps[t]) for i in batch]
            batch_read.head_steps.append(_kept_steps(teacher, kv_t, batch, t, settings))
            steps = _student_steps(batch_read.head_steps[-1], maps, kv_s.ids.shape[1])
        for picked, into in zip(teacher_picks, (batch_read.teachers, batch_read.common)):
            rows = Rows(batch[0].fold, picked, kv_t, kv_s, embedded, own_tokens, steps, received=received)
            into.append(rows)
    if checked:
        batch_read.check()
    return batch_read


def _picks(batch: list[Item], t: int, chosen: list[list[dict]], student: LoadedModel) -> list[dict[Part, Picked]]:
    """The rows of each choice of parts (of every document), from teacher number ``t``."""
    maps = [(i.teachers[t], i.student, i.maps[t]) for i in batch]
    picks = []
    for of_documents in chosen:
        parts = sorted({part for parts in of_documents for part in parts})
        picks.append(
            {part: pick(maps, [of.get(part, NO_STEPS) for of in of_documents], student.device) for part in parts}
        )
    return picks


def _kept_steps(
    teacher: LoadedModel, captured: CapturedBatch, batch: list[Item], t: int, settings: AlignSettings
) -> list[HeadSteps]:
    """Choose for each document the teacher steps that each head keeps: as many as the student has, without sinks."""
    tokens = [i.teachers[t] for i in batch]
    attention = observed_attention(teacher, tokens, [observers(i.teachers[t], i.document.segments) for i in batch])
    kept_steps = []
    for b, item in enumerate(batch):
        length = len(tokens[b])
        left_out = np.ones(length, dtype=bool)
        left_out[selectable(tokens[b], settings.sinks)] = False
        keys = [k[b, :, :length] for k in captured.keys]
        seen = [a[b, :, :length] for a in attention]
        kept_steps.append(keep_steps(keys, seen, replace(tokens[b], special=left_out), len(item.maps[t].rows)))
    return kept_steps


def _student_steps(
    kept_steps: list[HeadSteps], maps: list[tuple[Tokens, Tokens, TimeMap]], longest: int
) -> list[torch.Tensor]:
    """Place each document's kept steps on the student steps that they stand for: per layer [B, H, Ts]."""
    layers = []
    for layer in range(len(kept_steps[0].steps)):
        first = kept_steps[0].steps[layer]
        steps = first.new_full((len(kept_steps), len(first), longest), NO_STEP)
        for b, (document_steps, (_, _, time_map)) in enumerate(zip(kept_steps, maps)):
            steps[b, :, torch.from_numpy(time_map.rows).to(first.device)] = document_steps.steps[layer]
        layers.append(steps)
    return layers


def whole_document(read_batch: Read, number: int, teacher: int) -> Rows:
    """All of one document's student steps as the one part ALL; rows without a teacher step are zero."""
    rows = read_batch.teachers[teacher]
    maps = [(i.teachers[teacher], i.student, i.maps[teacher]) for i in read_batch.items]
    steps = [np.arange(len(i.student)) if b == number else np.arange(0) for b, i in enumerate(read_batch.items)]
    picked = {ALL: pick(maps, steps, rows.embedded.device)}
    return Rows(rows.fold, picked, rows.teacher, rows.student, rows.embedded, rows.own_tokens, rows.steps)


def finite(captured: CapturedBatch, loaded: LoadedModel) -> CapturedBatch:
    """Return the batch, or raise AlignError ``cache-not-finite`` naming layer and head."""
    # One test for all layers: on a GPU every test waits for all work queued before it.
    if bool(torch.stack([x.sum() for kind in KINDS for x in captured.of(kind)]).isfinite().all()):
        return captured
    for kind in KINDS:
        for position, x in enumerate(captured.of(kind)):
            for b, tokens in enumerate(captured.tokens):
                bad = (~torch.isfinite(x[b, :, : len(tokens)])).flatten(1).any(1).nonzero().flatten().tolist()
                if bad:
                    keys_or_values = Message("keys") if kind == "key" else Message("values")
                    raise AlignError(
                        "cache-not-finite",
                        expected=Message("finite {keys_or_values}", keys_or_values=keys_or_values),
                        found=Message(
                            "NaN or Inf in the {keys_or_values} of layer {layer}, KV head {head} of {name}",
                            keys_or_values=keys_or_values,
                            layer=loaded.geometry.kv_layers[position],
                            head=bad[0],
                            name=loaded.name,
                        ),
                        remedy=Message("load the model in float32 or bfloat16 (--dtype), or check its weights"),
                    )
    return captured


class InOrder:
    """The batches of every window, in which the folds take turns; after ``fold_by_fold`` one fold after the other."""

    def __init__(self, windows: Iterator[list[Item]], batch_tokens: int):
        self._windows, self._batch_tokens = windows, batch_tokens
        self._left: deque[list[Item]] = deque()
        self._windows_at_once = 0

    def __iter__(self) -> InOrder:
        return self

    def __next__(self) -> list[Item]:
        while not self._left:
            self._left.extend(batches(next(self._windows), self._batch_tokens))
            if self._windows_at_once:
                self._gather()
        return self._left.popleft()

    def fold_by_fold(self, windows: int) -> None:
        """Read so many windows together, so that a fold's sums are seldom fetched."""
        self._windows_at_once = windows
        self._gather()

    def _gather(self) -> None:
        for window in islice(self._windows, self._windows_at_once - 1):
            self._left.extend(batches(window, self._batch_tokens))
        self._left = deque(sorted(self._left, key=lambda batch: batch[0].fold))
