"""The choice of teacher layers, in sentences and tables."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from kvlab.plots import KIND_NAME, chosen
from kvlab.report.words import listed, number
from kvlab.results import Alignment

BYTE_RULES = ("exact", "floor", "ceil", "overlap")  # layers and maps are fitted on exact rows only


def layers_sentence(alignment: Alignment) -> str:
    """How the teacher layers were chosen, on what."""
    layer_map, folds = alignment.layer_map, alignment.data["folds"]
    among = {
        "banded": "among teacher layers near the proportional depth",
        "full": f"among all {len(alignment.teacher['kv_layers'])} teacher layers",
    }[layer_map["search"]]
    measured = f"{layer_map['rows']:,} student tokens"
    if alignment.settings["time"] in BYTE_RULES:
        measured += ", those where both models have read the same bytes"
    if alignment.settings["time"] in BYTE_RULES[1:]:
        measured += " (the scores of heads are of the other tokens too, and lower)"
    without = f"{folds} folds {alignment.data['split']}, the layers that score a fold chosen without it"
    if layer_map["rule"] == "heldout" and "similarity.key.r2" in alignment.arrays:
        return f"Layers were chosen by the held-out R² they reach, {among}, on {measured}; {without}."
    if layer_map["rule"] == "cka":
        return f"The most similar layer by CKA was chosen, {among}, on {measured}; {without}."
    return f"Layers were chosen by proportional depth alone; the matrices are measured on {measured}."


def layer_sentence(alignment: Alignment, layer: int) -> str:
    """From which teacher layers one student layer is explained."""
    parts = []
    for kind, name in KIND_NAME.items():
        layers = chosen(alignment, kind)[layer]
        which = f"{name} from teacher layer{'s' * (len(layers) > 1)} {listed(layers)}"
        best = best_alone(alignment, kind, layer)
        parts.append(which + (f" (held-out R² of the best alone: {best[1]:.2f}, layer {best[0]})" if best else ""))
    return f"Student layer {layer} is explained: {' and '.join(parts)}."


def best_alone(alignment: Alignment, kind: str, layer: int) -> tuple[int, float] | None:
    """The teacher layer that explains a student layer best on its own, and its R²; None where not searched."""
    singles = alignment.arrays.get(f"similarity.{kind}.r2")
    row = singles[alignment.layer_position(layer)] if singles is not None else np.array([np.nan])
    if np.isnan(row).all():
        return None
    return alignment.teacher["kv_layers"][int(np.nanargmax(row))], float(np.nanmax(row))


def ceiling_sentence(alignment: Alignment, kind: str) -> str:
    """What a CKA must be compared with: chance, and how alike the student's own layers are."""
    between, null, own = (alignment.arrays[f"similarity.{kind}.{name}"] for name in ("cka", "cka_shuffled", "own"))
    words = f"{KIND_NAME[kind]}: CKA with the teacher up to {number(_most(between))}; shuffled rows reach at most "
    words += number(_most(null))
    beside = np.diagonal(own, 1)
    if len(beside) and not np.isnan(beside).all():
        alike = f"{np.nanmean(beside):.2f} with each other (at 1 nothing tells them apart)"
        words += f"; neighbouring student layers have {alike}"
    return words + "."


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


def _most(values: np.ndarray) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nanmax(values))
