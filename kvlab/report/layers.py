"""The choice of teacher layers, in sentences and tables."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from kvlab.language import mark, plural, say
from kvlab.once import once
from kvlab.plots import KIND_NAME, chosen
from kvlab.report.sentences import split
from kvlab.report.words import clauses, listed, number, together
from kvlab.results import Alignment

BYTE_RULES = ("exact", "floor", "ceil", "overlap")  # layers and maps are fitted on exact rows only

NAMES = {"cka": "CKA", "cka_shuffled": mark("CKA shuffled"), "r2": mark("R² alone")}
ANY = mark("{n:,} student tokens")
EXACT = mark("{n:,} student tokens, those where both models have read the same bytes")
EXACT_HERE = mark(
    "{n:,} student tokens, those where both models have read the same bytes (the scores of heads are of the other "
    "tokens too, and lower)"
)
AMONG = {
    "banded": mark("among teacher layers near the proportional depth"),
    "full": mark("among all {n} teacher layers"),
}


def layers_sentence(alignment: Alignment) -> str:
    """How the teacher layers were chosen, on what."""
    layer_map, time = alignment.layer_map, alignment.settings["time"]
    measured = ANY if time not in BYTE_RULES else EXACT if time == "exact" else EXACT_HERE
    fields = {"measured": say(measured, n=layer_map["rows"]), "split": split(alignment)}
    fields["among"] = say(AMONG[layer_map["search"]], n=len(alignment.teacher["kv_layers"]))
    if layer_map["rule"] == "heldout" and "similarity.key.r2" in alignment.arrays:
        return say(
            "Layers were chosen by the held-out R² they reach, {among}, on {measured}; {split}, the layers that score "
            "a fold chosen without it.",
            **fields,
        )
    if layer_map["rule"] == "cka":
        return say(
            "The most similar layer by CKA was chosen, {among}, on {measured}; {split}, the layers that score a fold "
            "chosen without it.",
            **fields,
        )
    return say(
        "Layers were chosen by proportional depth alone; the matrices are measured on {measured}.",
        measured=fields["measured"],
    )


def layer_sentence(alignment: Alignment, layer: int) -> str:
    """From which teacher layers one student layer is explained."""
    parts = []
    for kind, name in KIND_NAME.items():
        layers = chosen(alignment, kind)[layer]
        which = plural(
            len(layers),
            "{kind} from teacher layer {layers}",
            "{kind} from teacher layers {layers}",
            kind=name,
            layers=listed(layers),
        )
        if best := best_alone(alignment, kind, layer):
            which = say(
                "{which} (held-out R² of the best alone: {r2:.2f}, layer {layer})",
                which=which,
                r2=best[1],
                layer=best[0],
            )
        parts.append(which)
    return say("Student layer {layer} is explained: {parts}.", layer=layer, parts=together(parts))


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
    parts = [
        say("{kind}: CKA with the teacher up to {cka}", kind=KIND_NAME[kind], cka=number(_most(between))),
        say("shuffled rows reach at most {cka}", cka=number(_most(null))),
    ]
    beside = np.diagonal(own, 1)
    if len(beside) and not np.isnan(beside).all():
        parts.append(
            say(
                "neighbouring student layers have {cka:.2f} with each other (at 1 nothing tells them apart)",
                cka=np.nanmean(beside),
            )
        )
    return say("{clauses}.", clauses=clauses(parts))


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
                    mark("student layer"): layer,
                    mark("teacher layers"): listed(layers),
                    mark("folds that agree"): say("{n} of {total}", n=alike, total=len(by_fold[position])),
                    mark("best alone"): None if best is None else best[0],
                    mark("R² of it"): None if best is None else best[1],
                    mark("highest CKA"): _most(cka),
                    mark("shuffled rows"): _most(null),
                }
            )
    return pd.DataFrame(rows)


@once
def layer_pairs(alignment: Alignment) -> pd.DataFrame:
    """Every number of the matrices, one pair of layers a row."""
    teachers, rows = alignment.teacher["kv_layers"], []
    for kind, name in KIND_NAME.items():
        matrices = {m: alignment.arrays.get(f"similarity.{kind}.{m}") for m in ("cka", "cka_shuffled", "r2")}
        for position, (student, layers) in enumerate(chosen(alignment, kind).items()):
            for column, teacher in enumerate(teachers):
                values = {m: None if a is None else float(a[position, column]) for m, a in matrices.items()}
                numbered = {mark("student layer"): student, mark("teacher layer"): teacher}
                pair = {"kind": name, **numbered, "chosen": teacher in layers}
                rows.append(pair | values)
    return pd.DataFrame(rows).rename(columns=NAMES)


def _most(values: np.ndarray) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nanmax(values))
