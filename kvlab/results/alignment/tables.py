"""Numbers as tables. Their columns are named in English; ``heading`` says a name in the current language."""

from __future__ import annotations

import pandas as pd

from kvlab.language import phrase, say
from kvlab.results.alignment.data import Alignment
from kvlab.results.style import KIND_NAME
from kvlab.shapes import SelfTest

HEADS = {
    "kind": "K/V",
    "layer": phrase("layer"),
    "head": phrase("head"),
    "r2": "R²",
    "se": phrase("± s.e."),
    "error": phrase("error 1 − R²"),
    "error_standardised": phrase("standardised error"),
    "cosine": phrase("cosine"),
    "r2_identity": phrase("R² token identity"),
    "gain": phrase("gain over token"),
    "gain_se": phrase("± s.e. of that gain"),
    "r2_random": phrase("R² random weights"),
    "gain_random": phrase("gain over random"),
    "gain_random_se": phrase("± s.e. of this gain"),
    "r2_group_mean": phrase("R² group mean"),
    "r2_shuffled": phrase("R² shuffled"),
    "n": phrase("n tokens"),
    "n_control": phrase("n control"),
    "error_sink": phrase("error of sinks"),
    "n_sink": phrase("n sinks"),
    "error_special": phrase("error of special token"),
    "n_special": phrase("n special"),
}
FUSION = {
    "kind": "K/V",
    "r2": phrase("fused R²"),
    "se": phrase("± s.e."),
    "gain": phrase("gain"),
    "gain_se": phrase("± s.e. of gain"),
    "gain_random": phrase("gain over random"),
    "gain_random_se": phrase("± s.e. of this gain"),
    "n": phrase("n tokens"),
    "n_control": phrase("n control"),
}
OF_TEACHERS = {"r2_alone": phrase("R² alone: {teacher}"), "weights": phrase("weight: {teacher}")}  # a column for each
POSITIONS = {
    "rope": phrase("RoPE, undone"),
    "none": phrase("no RoPE"),
    "absolute": phrase("part of keys and values"),
}


def heading(column: str) -> str:
    """The name of a column of a shown table in the current language."""
    for template in OF_TEACHERS.values():
        start = template.partition("{")[0]
        if column.startswith(start):
            return say(template, teacher=column.removeprefix(start))
    return say(column)


def heads_table(alignment: Alignment) -> pd.DataFrame:
    """Every score beside its controls."""
    frame = alignment.table()[list(HEADS)].rename(columns=HEADS)
    return frame.assign(**{"K/V": frame["K/V"].map(KIND_NAME)})


def fusion_table(alignment: Alignment) -> pd.DataFrame:
    """Fused scores, with a column per teacher."""
    frame = alignment.fusion_table()
    names = dict(FUSION)
    for number, teacher in enumerate(alignment.teachers, 1):
        names |= {
            f"{column} {number}": words.format(teacher=f"{number} {teacher}") for column, words in OF_TEACHERS.items()
        }
    frame = frame.assign(kind=frame["kind"].map(KIND_NAME)).rename(columns=names)
    last = [name for name in frame.columns if name.startswith(("R² alone", "weight"))] + ["n tokens", "n control"]
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
        cached = say("as cached") if layer in model["kv_layers"] else say("no KV cache")
        rows.append(
            {
                "layer": layer,
                phrase("positions"): say(POSITIONS.get(test.positions, test.positions)) if test else cached,
                phrase("layout"): test.layout if test else None,
                phrase("rotated channels"): test.rotary_width if test else None,
                phrase("scale"): test.scale if test else None,
                phrase("largest difference"): test.error if test else None,
            }
        )
    return pd.DataFrame(rows)
