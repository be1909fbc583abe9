"""Which student tokens a map is fitted on, and which it is scored on."""

from __future__ import annotations

import numpy as np

from kvlab.align import time as time_rules
from kvlab.align.crossfit import FIT_AND_SCORE, FIT_ONLY, SCORE_ONLY
from kvlab.align.reading import Item
from kvlab.request import AlignSettings
from kvlab.types import Tokens


def row_parts(item: Item, settings: AlignSettings) -> dict[str, np.ndarray]:
    """Row numbers by use. Special tokens and attention sinks, of either model, are in none."""
    usable = ~_sinks(item.student, settings.sinks) & item.map.covered
    usable[item.map.rows[_sinks(item.teacher, settings.sinks)[item.map.columns]]] = False
    # A rule that is blind to the text has no rows where it is known to be right; it is fitted on what it gives.
    fitted = usable & item.map.exact if settings.time in time_rules.BYTE_RULES else usable
    return {
        FIT_AND_SCORE: np.flatnonzero(fitted),
        SCORE_ONLY: np.flatnonzero(usable & ~fitted),
        FIT_ONLY: np.flatnonzero(fitted),
    }


def _sinks(tokens: Tokens, count: int) -> np.ndarray:
    """[T] bool: special tokens and the first ``count`` content tokens, on which attention rests."""
    left_out = tokens.special.copy()
    left_out[np.flatnonzero(~tokens.special)[:count]] = True
    return left_out
