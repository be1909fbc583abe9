"""Draw one head of a document as three lines: the student, the resampled teacher, the teacher on its own steps.

Each is the head's projection on its first principal direction v (``spectrum.py``), about the training mean and in
standard deviations along v: (y - mean) . v / s for the student, (yhat - mean) . v / s for the teacher after resampling
and projection, and the same map applied to every step of the teacher for the teacher before resampling.
"""

import numpy as np
import torch

from kvlab.align.batches import Rows
from kvlab.align.crossfit import CrossFit
from kvlab.align.layers import Choice
from kvlab.align.spectrum import Spectrum
from kvlab.shapes import TimeMap

STUDENT, RESAMPLED, TEACHER = NAMES = ("student", "resampled", "teacher")


def signals(
    fit: CrossFit, spectrum: Spectrum, choice: Choice, rows: Rows, fold: int, kind: str, layer: int, time_map: TimeMap
) -> dict[str, np.ndarray]:
    """Return by name [Hs, Ts] (student, resampled; NaN without a teacher step) and [Hs, Tt] (teacher).

    ``rows``: one document alone in its batch, from batches.whole_document.
    """
    first = spectrum.directions[:, :, 0]  # [H, D]

    def along(y: torch.Tensor) -> np.ndarray:
        by_head = (y.double() - fit.mean_y[fold]).unflatten(1, (fit.heads, -1))  # [T, H, D]
        values = torch.einsum("thd,hd->ht", by_head, first) / spectrum.deviation[:, :1]
        return values.cpu().numpy()

    features = rows.teacher.features(kind)
    all_steps = torch.cat([features[at][0].transpose(0, 1).flatten(1) for at in choice.union], dim=1)
    resampled = along(fit.predict(fold, rows.side_by_side(kind, choice.union, "all")))
    resampled[:, ~time_map.covered] = np.nan
    return {
        STUDENT: along(rows.y(kind, layer, "all")),
        RESAMPLED: resampled,
        TEACHER: along(fit.predict(fold, all_steps[: time_map.teacher_length])),
    }
