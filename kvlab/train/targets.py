"""Build micro-batches: the student's tokens, and every teacher's rows on the student's timeline.

The rows are the student steps that at least one teacher covers, without special tokens and attention sinks, on which
no map is fitted. A teacher has zeros at steps that it does not cover; ``covered`` marks these.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from kvlab.align.items import Item
from kvlab.align.rows import EXACT, classes_of, pick, row_parts, rows_of
from kvlab.align.shared_text import repeated_steps
from kvlab.models.capture import capture
from kvlab.models.forward import padded
from kvlab.models.loading import LoadedModel
from kvlab.request.align import AlignSettings
from kvlab.shapes import segment_of
from kvlab.train.maps import Fitted, Problem

ANSWER = "answer"  # the name of a document's part


@dataclass(frozen=True)
class MicroBatch:
    """Axes: B documents, T student tokens, N rows, A teachers, P features of the chosen teacher layers."""

    ids: torch.Tensor  # [B, T], 0 where padded
    mask: torch.Tensor  # [B, T]
    counted: torch.Tensor  # [B, T] bool: neither padding nor a beginning already counted in another document
    rows: tuple[torch.Tensor, torch.Tensor]  # document [N], student step [N]
    covered: torch.Tensor  # [A, N] bool
    features: list[dict[Problem, torch.Tensor]] = field(default_factory=list)  # [A][N, P]; empty without teachers
    row_classes: list[torch.Tensor] = field(default_factory=list)  # [A][N], of the features
    answers: torch.Tensor | None = None  # [B, T] bool: tokens of each document's answer; only where rows are in order

    @property
    def places(self) -> torch.Tensor:
        """Return the places [N] of the rows among all B * T tokens."""
        document, step = self.rows
        return document * self.ids.shape[1] + step

    @property
    def predicted(self) -> torch.Tensor:
        """Return [B, T - 1] bool: counted tokens that an earlier token predicts."""
        return self.counted[:, 1:]

    @property
    def tokens(self) -> int:
        return int(self.mask.sum())


@dataclass(frozen=True)
class Teachers:
    """The frozen side of a run: models, and the layers that each student layer learns from."""

    models: Sequence[LoadedModel]
    fitted: Sequence[Fitted]
    settings: AlignSettings
    control: str = "none"
    seed: int = 0
    most: int | None = None  # positions of the student

    def batch(
        self, items: Sequence[Item], device: torch.device, with_features: bool = True, step: int | None = None
    ) -> MicroBatch:
        """Build the tokens and rows of ``items``; run the teachers only for ``with_features``.

        ``step``: of training, where the control shuffles the teacher's rows; None: an evaluation, rows in order.
        """
        usable = [[self._usable(item, a) for item in items] for a in range(len(items[0].teachers))]
        chosen = [np.unique(np.concatenate(item_steps)) for item_steps in zip(*usable)]
        picked, covered = [], []
        for a, usable_steps in enumerate(usable):
            picked.append(pick([(i.teachers[a], i.student, i.maps[a]) for i in items], chosen, device))
            covered.append(np.concatenate([np.isin(c, u) for c, u in zip(chosen, usable_steps)]))
        ids, mask = padded([item.student for item in items], device, self.most)
        counted = np.zeros(ids.shape, dtype=bool)
        for b, item in enumerate(items):
            counted[b, : len(item.student)] = ~repeated_steps(item.student, item.repeated)
        # Do not wait for the work queued on the device.
        counted = torch.from_numpy(counted).to(device, non_blocking=True)
        covered = torch.from_numpy(np.stack(covered)).to(device, non_blocking=True)
        answers = torch.from_numpy(self._answers(items, ids.shape)).to(device) if step is None else None
        batch = MicroBatch(ids, mask, counted, picked[0].student, covered, answers=answers)
        if with_features:
            for a, rows in enumerate(picked):
                order = (
                    self._order(len(rows), step) if self.control == "shuffled-teacher" and step is not None else None
                )
                classes = torch.from_numpy(self._row_classes(items, a, chosen))
                # Shuffled rows take the maps of their own classes along.
                batch.row_classes.append((classes if order is None else classes[order]).to(device, non_blocking=True))
                batch.features.append(self._features(a, [item.teachers[a] for item in items], rows, order))
        return batch

    def rows(self, item: Item) -> int:
        """Count the rows of the KV loss of a document."""
        return len(np.unique(np.concatenate([self._usable(item, a) for a in range(len(item.teachers))])))

    def _usable(self, item: Item, a: int) -> np.ndarray:
        parts = row_parts(item.teachers[a], item.student, item.maps[a], True, self.settings, item.repeated)
        return rows_of(parts)[0]

    def _answers(self, items: Sequence[Item], shape: tuple[int, int]) -> np.ndarray:
        """[B, T] bool; nothing of an answer that is cut short."""
        marked = np.zeros(shape, dtype=bool)
        for b, item in enumerate(items):
            segments = item.document.segments
            for place, part in enumerate(segments):
                if part.name == ANSWER and item.student.spans[:, 1].max(initial=0) >= part.end:
                    marked[b, : len(item.student)] |= segment_of(item.student, segments) == place
        return marked

    def _row_classes(self, items: Sequence[Item], a: int, chosen: Sequence[np.ndarray]) -> np.ndarray:
        """[N]"""
        if self.settings.rows == "exact":
            return np.full(sum(map(len, chosen)), EXACT)
        classes = [classes_of(item.maps[a], self.settings.time)[steps] for item, steps in zip(items, chosen)]
        return np.concatenate(classes)

    @torch.no_grad()
    def _features(self, a: int, tokens, rows, order: torch.Tensor | None) -> dict[Problem, torch.Tensor]:
        captured = capture(self.models[a], tokens)
        gathered, features = {}, {}
        for problem, layers in self.fitted[a].layers.items():
            kind = problem[0]
            if (kind, layers) not in gathered:
                x = rows.features(captured.side_by_side(kind, layers))
                gathered[kind, layers] = x if order is None else x[order.to(x.device)]
            features[problem] = gathered[kind, layers]
        return features

    def _order(self, count: int, step: int) -> torch.Tensor:
        return torch.randperm(count, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + step))


def variances(fitted: Sequence[Fitted]) -> dict[Problem, float]:
    """Return the variance of the student's rows before training, by kind and layer; the mean over teachers."""
    return {p: sum(f.variance[p] for f in fitted) / len(fitted) for p in fitted[0].variance}
