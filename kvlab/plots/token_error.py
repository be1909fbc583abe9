"""The error of each student token, mean over heads: what the timeline, the strip of a document and the export show."""

from __future__ import annotations

import numpy as np

from kvlab.once import once
from kvlab.results import Alignment, mean_of_heads


@once
def token_error(alignment: Alignment, number: int, kind: str) -> np.ndarray:
    """[Ts] of an inspected document. Of 64 layers of 64 heads, each token has 4,096 errors: not to be read again."""
    return mean_of_heads(alignment.arrays[f"document.{number}.error.{kind}"])
