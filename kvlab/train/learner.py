"""All that is trained, as one module, so that Accelerate prepares, wraps and saves it: student, projectors, router."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from kvlab.models import LoadedModel
from kvlab.train import fusion, losses
from kvlab.train.collapse import Moments
from kvlab.train.mapping import Fitted
from kvlab.train.student import ReadStudent, read_student
from kvlab.train.targets import MicroBatch
from kvlab.types import KINDS


@dataclass(frozen=True)
class Fusing:
    """How teachers are weighed: "fixed" by ``weights``, by "similarity" at ``temperature``, or "learned"."""

    rule: str = "fixed"
    weights: tuple[float, ...] = ()
    temperature: float = 0.1


class Learner(nn.Module):
    """forward(micro-batch) -> sums of every loss term over its rows, and moments of the student's rows."""

    def __init__(self, student: LoadedModel, fitted: Sequence[Fitted], fusing: Fusing):
        super().__init__()
        self.loaded, self.fitted, self.fusing = student, fitted, fusing
        self.student = student.model
        self.maps = nn.ModuleList(
            nn.ModuleDict({_name(*problem): module for problem, module in f.maps.items()}) for f in fitted
        )
        self.routers = nn.ModuleDict()
        if fusing.rule == "learned" and len(fitted) > 1:
            for problem, scale in fitted[0].scale.items():
                heads, key_width, value_width = student.geometry.layer_shapes[problem[1]]
                width = heads * (key_width if problem[0] == KINDS[0] else value_width)
                self.routers[_name(*problem)] = fusion.Router(width, len(fitted), scale)

    def forward(self, batch: MicroBatch) -> dict[str, torch.Tensor]:
        """``ce``; with teachers ``kv_KIND``, ``fit_KIND`` (of projector and router), ``entropy``, ``weights`` [A].

        ``moments.KIND.LAYER.*`` are the student's own. All are sums over rows or tokens; layers are averaged.
        """
        read = read_student(self.loaded, batch.ids, batch.mask)
        # Mixed precision is for the student: targets and second moments lose their digits in 16 bits.
        with torch.autocast(batch.ids.device.type, enabled=False):
            return self._sums(read, batch)

    def _sums(self, read: ReadStudent, batch: MicroBatch) -> dict[str, torch.Tensor]:
        found = {"ce": losses.cross_entropy(read.logits, batch.ids, batch.predicted)}
        document, step = batch.rows
        place = document * batch.ids.shape[1] + step
        weighed, spread = [], []
        for kind in KINDS:
            errors = []
            for layer, x in enumerate(read.of(kind)):
                # Not indexed by two tensors, whose backward has to sort them.
                rows = x.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, place)  # [N, Hs * Ds]
                moments = Moments.of(rows)
                for name in ("n", "total", "gram"):
                    found[f"moments.{kind}.{layer}.{name}"] = getattr(moments, name)
                if not batch.features:
                    continue
                target, weights = self.target(kind, layer, rows, batch)
                scale = self.scale(kind, layer)
                errors.append(torch.stack(losses.matched(rows, target, scale)))
                weighed.append(weights.sum(1))
                spread.append(fusion.entropy(weights))
            if errors:
                found[f"kv_{kind}"], found[f"fit_{kind}"] = torch.stack(errors).mean(0)
        if spread:
            found["entropy"] = torch.stack(spread).mean()
            found["weights"] = torch.stack(weighed).mean(0).detach()
        return found

    def target(self, kind: str, layer: int, rows: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, Q] in the student's space and the weights [A, N] of its teachers."""
        targets = torch.stack(
            [maps[_name(kind, layer)](x[kind, layer]) for maps, x in zip(self.maps, batch.features, strict=True)]
        )
        if len(targets) == 1:
            return targets[0], torch.ones_like(batch.covered, dtype=torch.float32)
        if self.fusing.rule == "learned":
            weights = self.routers[_name(kind, layer)](rows, batch.covered)
        elif self.fusing.rule == "similarity":
            weights = fusion.similarity(rows, targets, batch.covered, self.fusing.temperature)
        else:
            weights = fusion.fixed(self.fusing.weights or (1.0,) * len(targets), batch.covered)
        return fusion.fuse(weights, targets), weights

    def scale(self, kind: str, layer: int) -> float:
        """The unit of the KV loss: the teachers' mean standard deviation of their targets."""
        return sum(f.scale[kind, layer] for f in self.fitted) / len(self.fitted)


def _name(kind: str, layer: int) -> str:
    return f"{kind}_{layer}"
