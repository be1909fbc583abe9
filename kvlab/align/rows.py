"""Which student tokens a map is fitted on, and which it is scored on."""

from __future__ import annotations

import numpy as np

from kvlab.align import time as time_rules
from kvlab.align.crossfit import FIT_AND_SCORE, FIT_ONLY, SCORE_ONLY
from kvlab.align.reading import Item
from kvlab.request import AlignSettings


def row_parts(item: Item, settings: AlignSettings) -> dict[str, np.ndarray]:
    """Row numbers by use. Special tokens and attention sinks are in none."""
    content = np.flatnonzero(~item.student.special)
    usable = np.zeros(len(item.student), dtype=bool)
    usable[content[settings.sinks :]] = True
    usable &= item.map.covered
    # A rule that is blind to the text has no rows where it is known to be right; it is fitted on what it gives.
    fitted = usable & item.map.exact if settings.time in time_rules.BYTE_RULES else usable
    return {
        FIT_AND_SCORE: np.flatnonzero(fitted),
        SCORE_ONLY: np.flatnonzero(usable & ~fitted),
        FIT_ONLY: np.flatnonzero(fitted),
    }
