"""What differs between two analyses, in sentences and tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import isfinite
from typing import Any

import pandas as pd

from kvlab.difference import HeadDifference
from kvlab.language import mark, plural, say
from kvlab.plots import KIND_NAME, written
from kvlab.report.words import points, together, whole
from kvlab.results import Alignment

DIFFERENCE_MEANING = mark(
    "Colour: R² of B minus R² of A, both on documents that the maps were not fitted on; purple is more in B, orange "
    "less, white alike. “=” marks a difference within two standard errors of none. The standard error is √(s.e. of A² "
    "+ s.e. of B²), as of independent texts; on the same text it is usually too large. Of many heads some are beyond "
    "it by chance: where two analyses differ by their texts alone, one in ten and more, and often many together."
)
# Of compared_settings: what was read.
TEXT = (mark("prompts"), mark("documents (SHA-256)"), mark("calibration documents"), mark("student tokens"))
CONTROLS = (  # their words, the column of their R²
    (mark("teacher"), "r2"),
    (mark("token identity"), "r2_identity"),
    (mark("random weights"), "r2_random"),
    (mark("shuffled rows"), "r2_shuffled"),
)

NOT_CLEAR = {
    False: mark("That is within two standard errors of none."),
    None: mark("There is no standard error of it, so whether that is more than chance is not known."),
}


def difference_sentence(differences: Sequence[HeadDifference]) -> str:
    """The finding in one sentence."""
    means = []
    for kind, name in KIND_NAME.items():
        found = _varying(differences, kind)
        if found:
            means.append(_more(sum(d.difference for d in found) / len(found), name))
    if not means:
        return say("No head varies in both analyses, so there is nothing to compare.")
    heads = [d for kind in KIND_NAME for d in _varying(differences, kind)]
    explained = together(means)
    if any(d.clear is None for d in heads):
        return say(
            "On held-out text, B explains {means} than A, averaged over heads; one of them has no standard errors, so "
            "whether that is more than chance is not known.",
            means=explained,
        )
    more, less = (sum(bool(d.clear) and sign * d.difference > 0 for d in heads) for sign in (1, -1))
    return say(
        "On held-out text, B explains {means} than A, averaged over heads; of {n} heads, B is higher in {more} and "
        "lower in {less} by more than two standard errors, and {alike} cannot be told apart.",
        means=explained,
        n=len(heads),
        more=more,
        less=less,
        alike=len(heads) - more - less,
    )


def one_difference_sentence(head: HeadDifference) -> str:
    """One head in words."""
    name = KIND_NAME[head.kind]
    if not isfinite(head.difference):
        return say("Its {kind} does not vary in one of the analyses, so nothing is compared.", kind=name)
    plus_minus = f" ± {head.se:.3f}" if isfinite(head.se) else ""
    found = say(
        "B explains {b} of {kind} on held-out text (n = {n_b:,} tokens), A {a} (n = {n_a:,}): {difference} R².",
        b=whole(head.r2_b),
        kind=name,
        n_b=head.n_b,
        a=whole(head.r2_a),
        n_a=head.n_a,
        difference=written(head.difference, sign="+") + plus_minus,
    )
    return found if head.clear else say(" ").join([found, say(NOT_CLEAR[head.clear])])


def shapes_sentence(a: Alignment, b: Alignment) -> str:
    """Why heads cannot be matched."""
    return say(
        "The heads cannot be compared one by one, because the students have different shapes: A is {a}, B is {b}. "
        "Choose an analysis whose student has the same layers and KV heads; the means below can be compared.",
        a=_shape(a),
        b=_shape(b),
    )


def means_table(a: Alignment, b: Alignment) -> pd.DataFrame:
    """Means over heads of both analyses, K and V apart."""
    rows = []
    for kind, name in KIND_NAME.items():
        for of, column in CONTROLS:
            first, second = a.mean(kind, column), b.mean(kind, column)
            rows.append({"K/V": name, "R² of": say(of), "A": first, "B": second, "B − A": second - first})
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
        mark("documents (SHA-256)"): data.get("documents_sha256", "")[:12] or None,
        "documents": data["documents"],
        mark("calibration documents"): data["calibration_documents"],
        mark("student tokens"): data["student_tokens"],
        **alignment.settings,
        "versions": alignment.versions,
    }


def _varying(differences: Sequence[HeadDifference], kind: str) -> list[HeadDifference]:
    return [d for d in differences if d.kind == kind and isfinite(d.difference)]


def _more(gain: float, kind: str) -> str:
    """+0.021 -> 2 points more of K."""
    size = points(abs(gain)).lstrip("+")
    if gain >= 0:
        return say("{points} more of {kind}", points=size, kind=kind)
    return say("{points} less of {kind}", points=size, kind=kind)


def _shape(alignment: Alignment) -> str:
    """demo/student with 4 layers of 2 KV heads."""
    heads = [shape[0] for shape in alignment.student["layer_shapes"]]
    runs = [(len(list(same)), count) for count, same in groupby(heads)]
    parts = [_layers(n, count) for n, count in runs[:4]] + [say("others")] * (len(runs) > 4)
    return say("{student} with {layers}", student=alignment.student["name"], layers=together(parts))


def _layers(layers: int, heads: int) -> str:
    """4 layers of 2 KV heads."""
    of = plural(heads, "{n} KV head", "{n} KV heads")
    return plural(layers, "{n} layer of {heads}", "{n} layers of {heads}", heads=of)
