"""One micro-batch: the student's tokens, and every teacher's rows on the student's timeline.

The rows are the student steps that at least one teacher covers, less special tokens and attention sinks, on which no
map is fitted. A teacher has zeros where it covers none of its own, and ``covered`` says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from kvlab.align.fold_sums import FIT_AND_SCORE, SCORE_ONLY
from kvlab.align.items import Item
from kvlab.align.rows import pick, row_parts
from kvlab.align.shared_text import repeated_steps
from kvlab.models.capture import capture
from kvlab.models.forward import padded
from kvlab.models.loading import LoadedModel
from kvlab.request.align import AlignSettings
from kvlab.train.maps import Fitted, Problem


@dataclass(frozen=True)
class MicroBatch:
    """Axes: B documents, T student tokens, N rows, A teachers, P features of the chosen teacher layers."""

    ids: torch.Tensor  # [B, T], 0 where padded
    mask: torch.Tensor  # [B, T]
    counted: torch.Tensor  # [B, T] bool: not padding, and no beginning that has been read in another document
    rows: tuple[torch.Tensor, torch.Tensor]  # document [N], student step [N]
    covered: torch.Tensor  # [A, N] bool
    features: list[dict[Problem, torch.Tensor]] = field(default_factory=list)  # [A][N, P]; empty without teachers

    @property
    def predicted(self) -> torch.Tensor:
        """[B, T - 1] bool: counted tokens that a token before them predicts."""
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
        """Tokens and rows of ``items``; teachers are run only for ``with_features``.

        ``step``: of training, where the control shuffles the teacher's rows; in an evaluation they are in order.
        """
        usable = [[self._usable(item, a) for item in items] for a in range(len(items[0].teachers))]
        chosen = [np.unique(np.concatenate(of_item)) for of_item in zip(*usable)]
        picked = [
            pick([(i.teachers[a], i.student, i.maps[a]) for i in items], chosen, device) for a in range(len(usable))
        ]
        covered = [np.concatenate([np.isin(c, u) for c, u in zip(chosen, of_teacher)]) for of_teacher in usable]
        ids, mask = padded([item.student for item in items], device, self.most)
        counted = np.zeros(ids.shape, dtype=bool)
        for b, item in enumerate(items):
            counted[b, : len(item.student)] = ~repeated_steps(item.student, item.repeated)
        # Not waiting for what the device still has to do.
        counted, of_teachers = (torch.from_numpy(x).to(device, non_blocking=True) for x in (counted, np.stack(covered)))
        batch = MicroBatch(ids, mask, counted, picked[0].student, of_teachers)
        if with_features:
            for a, rows in enumerate(picked):
                batch.features.append(self._features(a, [item.teachers[a] for item in items], rows, step))
        return batch

    def rows(self, item: Item) -> int:
        """How many rows of the KV loss a document has."""
        return len(np.unique(np.concatenate([self._usable(item, a) for a in range(len(item.teachers))])))

    def _usable(self, item: Item, a: int) -> np.ndarray:
        parts = row_parts(item.teachers[a], item.student, item.maps[a], True, self.settings, item.repeated)
        return np.concatenate([parts[FIT_AND_SCORE], parts[SCORE_ONLY]])

    @torch.no_grad()
    def _features(self, a: int, tokens, rows, step: int | None) -> dict[Problem, torch.Tensor]:
        captured = capture(self.models[a], tokens)
        shuffled = self.control == "shuffled-teacher" and step is not None
        order = self._order(len(rows), step) if shuffled else None
        found, features = {}, {}
        for problem, layers in self.fitted[a].layers.items():
            kind = problem[0]
            if (kind, layers) not in found:
                x = rows.features(captured.side_by_side(kind, layers))
                found[kind, layers] = x if order is None else x[order.to(x.device)]
            features[problem] = found[kind, layers]
        return features

    def _order(self, count: int, step: int) -> torch.Tensor:
        return torch.randperm(count, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + step))


def variances(fitted: Sequence[Fitted]) -> dict[Problem, float]:
    """Of the student's rows before training, over the kinds and layers; the mean where teachers saw other rows."""
    return {p: sum(f.variance[p] for f in fitted) / len(fitted) for p in fitted[0].variance}
