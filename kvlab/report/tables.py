"""Numbers as tables with the names that people read."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from kvlab.plots import KIND_NAME, chosen
from kvlab.report.sentences import best_alone, listed
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


def chosen_table(alignment: Alignment) -> pd.DataFrame:
    """The chosen teacher layers of each student layer, and what speaks for them."""
    rows = []
    for kind, name in KIND_NAME.items():
        by_fold = alignment.layer_map["by_fold"][kind]
        for position, (layer, layers) in enumerate(chosen(alignment, kind).items()):
            best = best_alone(alignment, kind, layer)
            alike = Counter(map(tuple, by_fold[position]))[tuple(layers)]
            cka, null = (alignment.arrays[f"similarity.{kind}.{m}"][position] for m in ("cka", "cka_shuffled"))
            rows.append(
                {
                    "K/V": name,
                    "student layer": layer,
                    "teacher layers": listed(layers),
                    "folds that agree": f"{alike} of {len(by_fold[position])}",
                    "best alone": None if best is None else best[0],
                    "R² of it": None if best is None else best[1],
                    "highest CKA": _most(cka),
                    "shuffled rows": _most(null),
                }
            )
    return pd.DataFrame(rows)


def layer_pairs(alignment: Alignment) -> pd.DataFrame:
    """Every number of the matrices, one pair of layers a row."""
    teachers, rows = alignment.teacher["kv_layers"], []
    for kind, name in KIND_NAME.items():
        matrices = {m: alignment.arrays.get(f"similarity.{kind}.{m}") for m in ("cka", "cka_shuffled", "r2")}
        for position, (student, layers) in enumerate(chosen(alignment, kind).items()):
            for column, teacher in enumerate(teachers):
                values = {m: None if a is None else float(a[position, column]) for m, a in matrices.items()}
                pair = {"kind": name, "student layer": student, "teacher layer": teacher, "chosen": teacher in layers}
                rows.append(pair | values)
    return pd.DataFrame(rows).rename(columns={"cka": "CKA", "cka_shuffled": "CKA shuffled", "r2": "R² alone"})


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


def _most(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmax(values))
