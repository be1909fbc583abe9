"""Draw one head of a document as three lines: the student, the resampled teacher, the teacher on its own steps.

Each is the head's projection on its first principal direction v (``spectrum.py``), about the training mean and in
standard deviations along v: (y - mean) . v / s for the student, (yhat - mean) . v / s for the teacher after resampling
and projection, and the map of exact rows applied to every step of the teacher for the teacher before resampling. The
mean is that of the exact rows.
"""

from dataclasses import dataclass

import numpy as np
import torch

from kvlab.align.crossfit import ByClass
from kvlab.align.rows import EXACT
from kvlab.align.spectrum import Spectrum

STUDENT, RESAMPLED, TEACHER = NAMES = ("student", "resampled", "teacher")


@dataclass(frozen=True)
class Places:
    """What a document's time map says of each student step."""

    covered: np.ndarray  # [Ts] bool
    row_classes: torch.Tensor  # [Ts]


def signals(
    fit: ByClass, spectrum: Spectrum, x: torch.Tensor, own_steps: torch.Tensor, y: torch.Tensor, fold: int, at: Places
) -> dict[str, np.ndarray]:
    """Return by name [Hs, Ts] (student, resampled; NaN without a teacher step) and [Hs, Tt] (teacher).

    ``x`` [Ts, P] and ``own_steps`` [Tt, P]: features on the student's and on the teacher's steps, ``y`` [Ts, Q].
    """
    first, origin = spectrum.directions[:, :, 0], fit.of_class(EXACT).mean_y[fold]  # [H, D], [Q]

    def along(values: torch.Tensor) -> np.ndarray:
        of_heads = (values.double() - origin).unflatten(1, (fit.heads, -1))  # [T, H, D]
        return (torch.einsum("thd,hd->ht", of_heads, first) / spectrum.deviation[:, :1]).cpu().numpy()

    resampled = along(fit.predict(fold, x, at.row_classes))
    resampled[:, ~at.covered] = np.nan
    on_own_steps = along(fit.of_class(EXACT).predict(fold, own_steps))
    return {STUDENT: along(y), RESAMPLED: resampled, TEACHER: on_own_steps}
