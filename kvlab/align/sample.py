"""Hold the rows of every layer of some documents in memory, to choose layers and measure controls on them.

``sample_tokens`` bounds the sample whatever the number of documents; with fewer tokens it is all of the data.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kvlab.align.batches import Read, Rows
from kvlab.align.fold_sums import FITTED, HOST, FoldSums, Pairing, Part, add_targets, add_unweighted
from kvlab.align.items import Item
from kvlab.align.moments import pilot_of
from kvlab.shapes import KINDS, Progress

Group = tuple[int, Part]  # fold, part


@dataclass
class SampleRows:
    """The first batches of some documents with all their rows."""

    batches: list[list[Item]]
    rows: list[list[Rows]]  # of each teacher
    common: list[list[Rows]]  # of each teacher, on the steps that all of them cover; empty for a single teacher
    whole: bool  # no batch is left after these


def announced(batches: Sequence[list[Item]], stage: str, progress: Progress) -> Iterator[list[Item]]:
    """Yield the batches and report to ``progress`` before each one."""
    for number, batch in enumerate(batches):
        progress(stage, number, len(batches))
        yield batch


def read_sample(
    batches: Iterator[list[Item]],
    read_batch: Callable[[list[Item]], Read],
    tokens: int,
    folds: int,
    look: Callable[[list[Rows]], None] = lambda rows: None,
) -> SampleRows:
    """Read batches until they hold ``tokens`` student tokens and documents of every fold; leave the rest.

    ``look``: called once, with the first teacher's rows of the first batches that hold documents of every fold.
    """
    sample, student_tokens, looked = SampleRows([], [], [], True), 0, False
    for batch in batches:
        batch_read = read_batch(batch)
        batch_read.check()
        for by_teacher, new in ((sample.rows, batch_read.teachers), (sample.common, batch_read.common)):
            by_teacher += [[] for _ in new[len(by_teacher) :]]
            for rows, new_rows in zip(by_teacher, new):
                rows.append(new_rows.keep())
        sample.batches.append(batch)
        student_tokens += sum(len(item.student) for item in batch)
        every_fold = len({batch[0].fold for batch in sample.batches}) == folds
        if every_fold and not looked:
            looked = True
            look(sample.rows[0])
        if student_tokens >= tokens and every_fold:
            sample.whole = False
            break
    return sample


class Sample:
    """Rows [N, ...] by group, each group's documents one after the other."""

    def __init__(self, rows: Sequence[Rows], layers_t: int, layers_s: int, folds: int, seed: int):
        self.layers_t, self.layers_s, self.folds = layers_t, layers_s, folds
        self.groups: list[Group] = sorted({(r.fold, part) for r in rows for part in r.parts})
        self._rows: dict[tuple, torch.Tensor] = {}  # on the host
        self.device = HOST  # of the models
        for group in self.groups:
            part = group[1]
            group_rows = [r for r in rows if r.fold == group[0] and part in r.parts]
            for kind in KINDS:
                for layer in range(layers_t):
                    self._keep((group, "x", kind, layer), [r.x(kind, layer, part) for r in group_rows])
                for layer in range(layers_s):
                    self._keep((group, "y", kind, layer), [r.y(kind, layer, part) for r in group_rows])
            self._keep((group, "e"), [r.e(part) for r in group_rows])
            self._keep((group, "own"), [r.own(part) for r in group_rows])
            for layer in range(layers_s):
                weights = [r.weights(layer, part) for r in group_rows]
                if weights[0] is not None:
                    self._keep((group, "w", layer), weights)
        generator = torch.Generator().manual_seed(seed)
        self._shuffled = {g: torch.randperm(len(self._rows[g, "e"]), generator=generator) for g in self.groups}

    def _keep(self, name: tuple, pieces: list[torch.Tensor]) -> None:
        self.device = pieces[0].device
        self._rows[name] = torch.cat([piece.to(HOST) for piece in pieces])

    def _kept(self, *name: Any) -> torch.Tensor:
        return self._rows[name].to(self.device, non_blocking=True)

    @property
    def fit_groups(self) -> list[Group]:
        return [group for group in self.groups if group[1].use in FITTED]

    def count(self, group: Group) -> int:
        return len(self._shuffled[group])

    def width(self, kind: str, layer: int) -> int:
        """Return the number of features of a teacher layer."""
        return self._rows[self.groups[0], "x", kind, layer].shape[1]

    def x(self, kind: str, layer: int, group: Group) -> torch.Tensor:
        return self._kept(group, "x", kind, layer)

    def y(self, kind: str, layer: int, group: Group, shuffled: bool = False) -> torch.Tensor:
        """Return the targets; ``shuffled``: in random order within the group, independent of the features."""
        y = self._kept(group, "y", kind, layer)
        return y[self._shuffled[group].to(y.device)] if shuffled else y

    def e(self, group: Group) -> torch.Tensor:
        return self._kept(group, "e")

    def own(self, group: Group) -> torch.Tensor:
        return self._kept(group, "own")

    def weights(self, layer: int, group: Group) -> torch.Tensor | None:
        """[N] in the fit of a student layer; None: rows count alike."""
        return self._kept(group, "w", layer) if (group, "w", layer) in self._rows else None

    def side_by_side(self, kind: str, layers: Sequence[int], group: Group) -> torch.Tensor:
        if len(layers) == 1:
            return self.x(kind, layers[0], group)
        return torch.cat([self.x(kind, layer, group) for layer in layers], dim=1)

    def pairing(self, kind: str, layers: Sequence[int], targets: Sequence[int]) -> Pairing:
        """The sums of teacher layers against student layers, each side by side, over the rows of the sample, all alike.

        Layers are chosen on them: one Gram matrix serves every student layer.
        """

        def y(group: Group) -> torch.Tensor:
            return torch.cat([self.y(kind, layer, group) for layer in targets], dim=1)

        return self.sums(lambda g: self.side_by_side(kind, layers, g), [y])[0]

    def sums(
        self,
        x: Callable[[Group], torch.Tensor],
        targets: Sequence[Callable[[Group], torch.Tensor]],
        layers: Sequence[int] = (),
    ) -> list[Pairing]:
        """The sums of any features against each of several targets, over every group.

        ``layers``: the student layer of each target, whose weights fitted rows have; none: rows count alike.
        """
        first = self.fit_groups[0]
        features = FoldSums((pilot_of(x(first)),), self.folds)
        sums = [FoldSums((*features.pilots, pilot_of(y(first))), self.folds) for y in targets]
        weighted = [FoldSums(features.pilots, self.folds) for _ in layers if self.weights(0, first) is not None]
        for group in self.groups:
            for held in (features, *sums, *weighted):
                held.put_away(but=group[0])
            rows = features.shift(x(group))
            weights = [self.weights(layer, group) for layer in layers] or [None] * len(sums)
            add_unweighted(features, *group, rows, weights[0])
            for y, of_target, of_features, w in zip(targets, sums, weighted or [None] * len(sums), weights):
                add_targets(of_target, of_features, *group, rows, of_target.shift(y(group)), w)
        if not weighted:
            return [Pairing(features, of_target) for of_target in sums]
        return [Pairing(features, of_target, weighted=w) for of_target, w in zip(sums, weighted)]
