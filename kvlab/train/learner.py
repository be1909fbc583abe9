"""Combine all that is trained in one module that Accelerate prepares, wraps and saves: student, projectors, router.

Each term of the loss is a sum over rows, divided later, so that micro-batches add up exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from kvlab.align.shapes import target_shape
from kvlab.models.loading import LoadedModel
from kvlab.results.training.records import BY_DOCUMENT
from kvlab.shapes import KINDS, Geometry
from kvlab.train import fusion
from kvlab.train.collapse import MOMENTS, Moments
from kvlab.train.head_outputs import outputs, replaced
from kvlab.train.maps import Fitted, Problem
from kvlab.train.student import ReadStudent, read_student
from kvlab.train.targets import MicroBatch


@dataclass(frozen=True)
class Fusing:
    """The rule that weights teachers: "fixed" by ``weights``, by "similarity" at ``temperature``, or "learned"."""

    rule: str = "fixed"
    weights: tuple[float, ...] = ()
    temperature: float = 0.1


class Learner(nn.Module):
    """Return the sums of every loss term over a micro-batch's rows, and moments of the student's rows."""

    def __init__(
        self, student: LoadedModel, fitted: Sequence[Fitted], fusing: Fusing, output_scale: Sequence[float] = ()
    ):
        """``output_scale``: for the KV loss on head outputs, its unit in each cached layer; empty: it is on rows."""
        super().__init__()
        self.loaded, self.fitted, self.fusing = student, fitted, fusing
        self.student = student.model
        self.alike = {kind: layers_alike(student.geometry, kind) for kind in KINDS}
        for kind, groups in self.alike.items() if fitted else ():
            for group in groups:
                scales = torch.tensor([self.scale(kind, layer) for layer in group])
                self.register_buffer(f"scale_{_name(kind, group[0])}", scales[:, None, None], persistent=False)
        self.on_outputs = bool(output_scale)
        self.register_buffer("output_scale", torch.tensor(output_scale), persistent=False)
        self.maps = nn.ModuleList(
            nn.ModuleDict({_name(*problem): module for problem, module in f.maps.items()}) for f in fitted
        )
        self.routers = nn.ModuleDict()
        if fusing.rule == "learned" and len(fitted) > 1:
            for problem, scale in fitted[0].scale.items():
                heads, width = target_shape(student.geometry, *problem)
                self.routers[_name(*problem)] = fusion.Router(heads * width, len(fitted), scale)

    def forward(self, batch: MicroBatch) -> dict[str, torch.Tensor]:
        """Return ``ce`` and ``moments``; with teachers ``kv_KIND``, ``fit_KIND``, ``entropy`` and ``weights`` [A].

        In evaluation, ``ce_by_document`` [B] too.

        ``fit_KIND`` trains projector and router. KIND is "key" and "value", for a loss on head outputs "output" too;
        then keys and values carry no gradient of their own.
        ``moments.KIND.LAYER.*`` are the student's own, for the group of ``alike`` layers that begins with LAYER. All
        are sums over rows or tokens; layers are averaged.
        """
        student = read_student(self.loaded, batch.ids, batch.mask, self.on_outputs and bool(batch.features))
        # Mixed precision is for the student alone: targets and second moments lose digits in 16 bits.
        with torch.autocast(batch.ids.device.type, enabled=False):
            return self._sums(student, batch)

    def _sums(self, student: ReadStudent, batch: MicroBatch) -> dict[str, torch.Tensor]:
        if self.training:
            sums = {"ce": cross_entropy(student.logits, batch.ids, batch.predicted)}
        else:
            each = cross_entropy(student.logits, batch.ids, batch.predicted, by_document=True)
            sums = {"ce": each.sum(), BY_DOCUMENT: each}
            if batch.answers is not None:
                sums["answers"] = batch.answers.any(1).sum()
                sums["right"] = right_answers(student.logits, batch.ids, batch.answers)
        place, shared = batch.places, self._shared_weights(batch)
        weighed, spread = [], []
        target_of: dict[Problem, torch.Tensor] = {}
        for kind in KINDS:
            errors = []
            for group in self.alike[kind]:
                x = torch.stack([student.of(kind)[layer] for layer in group])  # [L, B, Hs, T, Ds]
                # Do not index by two tensors: the backward pass would have to sort them.
                rows = x.transpose(2, 3).flatten(3).flatten(1, 2).index_select(1, place)  # [L, N, Hs * Ds]
                moments = Moments.of(rows)
                for name in MOMENTS:
                    sums[f"moments.{kind}.{group[0]}.{name}"] = getattr(moments, name)
                if not batch.features:
                    continue
                fused = [self.target(kind, n, x, batch, shared) for n, x in zip(group, rows, strict=True)]
                targets = torch.stack([target for target, _ in fused])
                if self.on_outputs:
                    target_of |= {(kind, layer): target for layer, target in zip(group, targets, strict=True)}
                    rows, targets = rows.detach(), targets.detach()
                scale = getattr(self, f"scale_{_name(kind, group[0])}")  # [L, 1, 1]
                errors.append(torch.stack(matched(rows, targets, scale)))
                if len(self.fitted) > 1:
                    weighed += [weights.sum(1) for _, weights in fused]
                    spread += [fusion.entropy(weights) for _, weights in fused]
            if errors:
                sums[f"kv_{kind}"], sums[f"fit_{kind}"] = torch.cat(errors, dim=1).mean(1)
        if target_of:
            errors = [
                torch.stack(self._output_errors(student, at, target_of, place)) for at in range(len(student.keys))
            ]
            sums["kv_output"], sums["fit_output"] = torch.stack(errors, dim=1).mean(1)
        if spread:
            sums["entropy"] = torch.stack(spread).mean()
            sums["weights"] = torch.stack(weighed).mean(0).detach()
        return sums

    def _output_errors(
        self, student: ReadStudent, layer: int, target_of: dict[Problem, torch.Tensor], place: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both errors of ``matched`` for the heads' outputs of a layer over its own and the projected cache."""
        own = student.keys[layer], student.values[layer]
        projected = [replaced(x, target_of[kind, layer], place) for kind, x in zip(KINDS, own, strict=True)]
        read = [outputs(student, layer, *cache, place) for cache in (own, projected)]
        return matched(*read, self.output_scale[layer])

    def _shared_weights(self, batch: MicroBatch) -> torch.Tensor | None:
        """Return the weights [A, N] that all layers share; None where each has its own."""
        if len(self.fitted) > 1 and self.fusing.rule == "fixed":
            return fusion.fixed(self.fusing.weights or (1.0,) * len(self.fitted), batch.covered)
        return None

    def target(
        self, kind: str, layer: int, rows: torch.Tensor, batch: MicroBatch, shared: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the target [N, Q] in the student's space and the teachers' weights [A, N]; None for one teacher."""
        name = _name(kind, layer)
        teachers = zip(self.maps, batch.features, batch.row_classes, strict=True)
        targets = [maps[name](x[kind, layer], classes) for maps, x, classes in teachers]
        if len(targets) == 1:
            return targets[0], None
        targets = torch.stack(targets)
        if self.fusing.rule == "learned":
            weights = self.routers[name](rows, batch.covered)
        elif self.fusing.rule == "similarity":
            weights = fusion.similarity(rows, targets, batch.covered, self.fusing.temperature)
        else:
            weights = self._shared_weights(batch) if shared is None else shared
        return fusion.fuse(weights, targets), weights

    def scale(self, kind: str, layer: int) -> float:
        """Return the unit of the KV loss: the teachers' mean standard deviation of their targets."""
        return sum(f.scale[kind, layer] for f in self.fitted) / len(self.fitted)


def layers_alike(student: Geometry, kind: str) -> list[tuple[int, ...]]:
    """Group cached layers, by position, with the same number of heads and width, to compute them together."""
    groups: dict[tuple[int, int], list[int]] = {}
    for layer in range(len(student.kv_layers)):
        groups.setdefault(target_shape(student, kind, layer), []).append(layer)
    return [tuple(group) for group in groups.values()]


def _name(kind: str, layer: int) -> str:
    return f"{kind}_{layer}"


LEFT_OUT = -100


def cross_entropy(
    logits: torch.Tensor, ids: torch.Tensor, predicted: torch.Tensor, by_document: bool = False
) -> torch.Tensor:
    """Return nats, summed over the predicted tokens: logits [B, T, V], ids [B, T], predicted [B, T - 1] bool.

    ``by_document``: return the sum of each document [B].
    """
    # Do not index by ``predicted``: that waits for the GPU to count them.
    following = ids[:, 1:].masked_fill(~predicted, LEFT_OUT).flatten()
    nats = partial(F.cross_entropy, logits[:, :-1].flatten(0, 1).float(), following, ignore_index=LEFT_OUT)
    return nats(reduction="none").view(len(ids), -1).sum(1) if by_document else nats(reduction="sum")


def right_answers(logits: torch.Tensor, ids: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Count the documents whose whole answer greedy decoding would write after their own reasoning.

    That is so where every answer token is the most likely one behind those before it: logits [B, T, V], ids [B, T],
    ``answers`` [B, T] bool.
    """
    wrong = (logits[:, :-1].argmax(-1) != ids[:, 1:]) & answers[:, 1:]
    return (answers.any(1) & ~wrong.any(1)).sum()


def kv_error(student: torch.Tensor, target: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
    """Return the sum over rows of the mean over channels of ((student - target) / scale)^2, rows [..., N, Q] per layer.

    The L2 form of KaVa's KV loss (arXiv 2510.02312), which divides each layer by the standard deviation of its targets.
    ``scale`` is that deviation, measured once before training, so that no term changes its unit.
    """
    return ((student - target) / scale).square().mean(-1).sum(-1)


def matched(
    student: torch.Tensor, target: torch.Tensor, scale: float | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the student's error against the target, and the target's against the student, each with one gradient.

    The first is the KV loss (its target is stop-gradient). The second, of the same value, trains a projector or a
    router towards the current student; it has no gradient where both are frozen.
    """
    error = kv_error(student, target.detach(), scale)
    return error, kv_error(student.detach(), target, scale) if target.requires_grad else error.detach()
