"""What differs between two analyses, in sentences and tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import isfinite
from typing import Any

import pandas as pd

from kvlab.difference import HeadDifference
from kvlab.plots import KIND_NAME, written
from kvlab.report.words import points, whole
from kvlab.results import Alignment

DIFFERENCE_MEANING = (
    "Colour: R² of B minus R² of A, both on documents that the maps were not fitted on; purple is more in B, orange "
    "less, white alike. “=” marks a difference within two standard errors of none. The standard error is √(s.e. of A² "
    "+ s.e. of B²), as of independent texts; on the same text it is usually too large."
)
TEXT = ("prompts", "documents", "calibration documents", "student tokens")  # of compared_settings: what was read


def difference_sentence(differences: Sequence[HeadDifference]) -> str:
    """The finding in one sentence."""
    means = []
    for kind, name in KIND_NAME.items():
        found = _varying(differences, kind)
        if found:
            means.append(f"{_more(sum(d.difference for d in found) / len(found))} of {name}")
    if not means:
        return "No head varies in both analyses, so there is nothing to compare."
    heads = [d for kind in KIND_NAME for d in _varying(differences, kind)]
    sentence = f"On held-out text, B explains {' and '.join(means)} than A, averaged over heads"
    if any(d.clear is None for d in heads):
        return sentence + "; one of them has no standard errors, so whether that is more than chance is not known."
    more, less = (sum(bool(d.clear) and sign * d.difference > 0 for d in heads) for sign in (1, -1))
    return (
        f"{sentence}; of {len(heads)} heads, B is higher in {more} and lower in {less} by more than two standard "
        f"errors, and {len(heads) - more - less} cannot be told apart."
    )


def one_difference_sentence(head: HeadDifference) -> str:
    """One head in words."""
    name = KIND_NAME[head.kind]
    if not isfinite(head.difference):
        return f"Its {name} does not vary in one of the analyses, so nothing is compared."
    verdict = {
        True: "",
        False: " That is within two standard errors of none.",
        None: " There is no standard error of it, so whether that is more than chance is not known.",
    }[head.clear]
    plus_minus = f" ± {head.se:.3f}" if isfinite(head.se) else ""
    return (
        f"B explains {whole(head.r2_b)} of {name} on held-out text (n = {head.n_b:,} tokens), A {whole(head.r2_a)} "
        f"(n = {head.n_a:,}): {written(head.difference, sign='+')}{plus_minus} R².{verdict}"
    )


def shapes_sentence(a: Alignment, b: Alignment) -> str:
    """Why heads cannot be matched."""
    return (
        f"The heads cannot be compared one by one, because the students have different shapes: A is {_shape(a)}, "
        f"B is {_shape(b)}. Choose an analysis whose student has the same layers and KV heads; the means below can be "
        "compared."
    )


def means_table(a: Alignment, b: Alignment) -> pd.DataFrame:
    """Means over heads of both analyses, K and V apart."""
    rows = []
    for kind, name in KIND_NAME.items():
        for of, column in (
            ("teacher", "r2"),
            ("token identity", "r2_identity"),
            ("random weights", "r2_random"),
            ("shuffled rows", "r2_shuffled"),
        ):
            first, second = a.mean(kind, column), b.mean(kind, column)
            rows.append({"K/V": name, "R² of": of, "A": first, "B": second, "B − A": second - first})
    return pd.DataFrame(rows)


def differences_table(differences: Sequence[HeadDifference]) -> pd.DataFrame:
    """Every head, one row each."""
    rows = [
        {
            "kind": KIND_NAME[d.kind],
            "layer": d.layer,
            "head": d.head,
            "difference": d.difference,
            "se": d.se,
            "clear": d.clear,
            "r2_a": d.r2_a,
            "se_a": d.se_a,
            "n_a": d.n_a,
            "r2_b": d.r2_b,
            "se_b": d.se_b,
            "n_b": d.n_b,
        }
        for d in differences
    ]
    return pd.DataFrame(rows)


def compared_settings(alignment: Alignment) -> dict[str, Any]:
    """All that may make two analyses differ: models, text, settings and versions."""
    data = alignment.data
    return {
        "teacher": alignment.teacher["name"],
        "student": alignment.student["name"],
        "prompts": alignment.prompts,
        "documents": data["documents"],
        "calibration documents": data["calibration_documents"],
        "student tokens": data["student_tokens"],
        **alignment.settings,
        "versions": alignment.versions,
    }


def _varying(differences: Sequence[HeadDifference], kind: str) -> list[HeadDifference]:
    return [d for d in differences if d.kind == kind and isfinite(d.difference)]


def _more(gain: float) -> str:
    """+0.021 -> 2 points more."""
    return f"{points(abs(gain)).lstrip('+')} {'more' if gain >= 0 else 'less'}"


def _shape(alignment: Alignment) -> str:
    """demo/student with 4 layers of 2 KV heads."""
    heads = [shape[0] for shape in alignment.student["layer_shapes"]]
    runs = [(len(list(same)), count) for count, same in groupby(heads)]
    parts = [f"{n} layer{'s' * (n != 1)} of {count} KV head{'s' * (count != 1)}" for n, count in runs[:4]]
    more = " and others" if len(runs) > 4 else ""
    return f"{alignment.student['name']} with {' and '.join(parts)}{more}"
