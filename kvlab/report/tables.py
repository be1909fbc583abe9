"""Numbers as tables with the names that people read."""

from __future__ import annotations

import pandas as pd

from kvlab.plots import KIND_NAME
from kvlab.results import Alignment
from kvlab.types import SelfTest

HEADS = {
    "kind": "K/V",
    "layer": "layer",
    "head": "head",
    "r2": "R²",
    "se": "± s.e.",
    "error": "error 1 − R²",
    "error_standardised": "standardised error",
    "cosine": "cosine",
    "r2_identity": "R² token identity",
    "gain": "gain over token",
    "gain_se": "± s.e. of that gain",
    "r2_random": "R² random weights",
    "gain_random": "gain over random",
    "gain_random_se": "± s.e. of this gain",
    "r2_group_mean": "R² group mean",
    "r2_shuffled": "R² shuffled",
    "n": "n tokens",
    "n_control": "n control",
    "error_sink": "error of sinks",
    "n_sink": "n sinks",
    "error_special": "error of special token",
    "n_special": "n special",
}
POSITIONS = {"rope": "RoPE, undone", "none": "no RoPE", "absolute": "part of keys and values"}


def heads_table(alignment: Alignment) -> pd.DataFrame:
    """Every score beside its controls."""
    frame = alignment.table()[list(HEADS)].rename(columns=HEADS)
    return frame.assign(**{"K/V": frame["K/V"].map(KIND_NAME)})


def fusion_table(alignment: Alignment) -> pd.DataFrame:
    """Fused scores, with a column per teacher."""
    frame = alignment.fusion_table()
    names = {"kind": "K/V", "r2": "fused R²", "se": "± s.e.", "gain_se": "± s.e. of gain", "n": "n tokens"}
    for number, teacher in enumerate(alignment.teachers, 1):
        names |= {
            f"r2_alone {number}": f"R² alone: {number} {teacher}",
            f"weights {number}": f"weight: {number} {teacher}",
        }
    frame = frame.assign(kind=frame["kind"].map(KIND_NAME)).rename(columns=names)
    last = [name for name in frame.columns if name.startswith(("R² alone", "weight"))] + ["n tokens"]
    return frame[[name for name in frame.columns if name not in last] + last]


def capture_table(alignment: Alignment, role: str) -> pd.DataFrame:
    """What the self-test showed per layer; layers without a cache are named."""
    model = alignment.teacher if role == "teacher" else alignment.student
    tests = (
        {t.layer: t for t in SelfTest.from_dict(alignment.capture[role]).layers} if role in alignment.capture else {}
    )
    rows = []
    for layer in range(model["layers"]):
        test = tests.get(layer)
        cached = "as cached" if layer in model["kv_layers"] else "no KV cache"
        rows.append(
            {
                "layer": layer,
                "positions": POSITIONS.get(test.positions, test.positions) if test else cached,
                "layout": test.layout if test else None,
                "rotated channels": test.rotary_width if test else None,
                "scale": test.scale if test else None,
                "largest difference": test.error if test else None,
            }
        )
    return pd.DataFrame(rows)
