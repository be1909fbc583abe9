"""Two analyses compared head by head: the differences, their figure, their sentences and tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from math import hypot, isfinite
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kvlab.language import current, phrase, plural, say, speaking
from kvlab.request.align import prompt_source
from kvlab.results.alignment.data import Alignment
from kvlab.results.cells import Cell, cell_map, diverging
from kvlab.results.style import DIFFERENCE_SCALE, KIND_NAME, VERDICT_MARKS, plus_minus, written
from kvlab.results.words import points, sentences, together, whole


@dataclass(frozen=True)
class HeadDifference:
    """One student head in both analyses. What was not measured is not a number."""

    kind: str  # "key" | "value"
    layer: int  # as numbered in the student
    head: int
    r2_a: float
    r2_b: float
    se_a: float
    se_b: float
    n_a: int  # scored rows (student tokens)
    n_b: int

    @cached_property
    def difference(self) -> float:
        """R² of B minus R² of A."""
        return self.r2_b - self.r2_a

    @cached_property
    def se(self) -> float:
        """Of the difference, of two independent estimates: sqrt(se_a² + se_b²). Not a number unless both have one."""
        return hypot(self.se_a, self.se_b) if isfinite(self.se_a) and isfinite(self.se_b) else float("nan")

    @cached_property
    def clear(self) -> bool | None:
        """More than two standard errors from zero; None where that is not known."""
        known = isfinite(self.difference) and isfinite(self.se)
        return abs(self.difference) > 2 * self.se if known else None


def matched(a: Alignment, b: Alignment) -> list[HeadDifference]:
    """Every head of the student, in the order of A; empty where the two students do not have the same heads."""
    of_b = {(s.kind, s.layer, s.head): s for s in b.heads}
    if {(s.kind, s.layer, s.head) for s in a.heads} != set(of_b):
        return []
    pairs = [(score, of_b[score.kind, score.layer, score.head]) for score in a.heads]
    return [HeadDifference(s.kind, s.layer, s.head, s.r2, t.r2, s.se, t.se, s.n, t.n) for s, t in pairs]


LEAST_RANGE = 0.02  # of the colours; a smaller range would paint noise
OUTLINE = "#009E73"  # the student's orange would not be seen on this map's
# Shares of the range from which white is easier to read than black: orange is brighter than purple.
WHITE_ON_ORANGE, WHITE_ON_PURPLE = 0.79, 0.62


def difference_heatmap(
    alignment: Alignment, differences: Sequence[HeadDifference], kind: str, selected: tuple[int, int] | None = None
) -> go.Figure:
    """K and V share one range. ``alignment``: either of the two; “=” within two standard errors of none."""
    limit = max([LEAST_RANGE, *(abs(head.difference) for head in differences if isfinite(head.difference))])
    with speaking(current()):  # asked once, not for every word of thousands of cells
        cells = _cells([head for head in differences if head.kind == kind], limit)
    colours = diverging(DIFFERENCE_SCALE, limit, say("R² of B<br>− R² of A"))
    title = say("{kind}: R² of B − R² of A, held out", kind=KIND_NAME[kind])
    return cell_map(alignment, cells, colours, title, selected, OUTLINE)


def _cells(differences: Sequence[HeadDifference], limit: float) -> list[Cell]:
    return [
        Cell(
            layer=head.layer,
            head=head.head,
            value=head.difference if isfinite(head.difference) else None,
            words=written(head.difference, 2, "+"),
            mark=VERDICT_MARKS[head.clear] if isfinite(head.difference) else "",
            hover=_hover(head),
            dark=head.difference < -WHITE_ON_ORANGE * limit or head.difference > WHITE_ON_PURPLE * limit,
        )
        for head in differences
    ]


def _hover(head: HeadDifference) -> str:
    lines = [
        say("{kind} layer {layer}, head {head}", kind=KIND_NAME[head.kind], layer=head.layer, head=head.head),
        f"B − A: {written(head.difference, sign='+')}{plus_minus(head.se)}",
        say("A: R² {r2}, n = {n:,} tokens", r2=written(head.r2_a), n=head.n_a),
        say("B: R² {r2}, n = {n:,} tokens", r2=written(head.r2_b), n=head.n_b),
    ]
    return "<br>".join(lines)


DIFFERENCE_MEANING = phrase(
    "Colour: R² of B minus R² of A, both on documents that the maps were not fitted on; purple is more in B, orange "
    "less, white alike. “=” marks a difference within two standard errors of none. The standard error is √(s.e. of A² "
    "+ s.e. of B²), as of independent texts; on the same text it is usually too large. Of many heads some are beyond "
    "it by chance: where two analyses differ by their texts alone, one in ten and more, and often many together."
)
# Of compared_settings: what was read.
TEXT = (phrase("prompts"), phrase("documents (SHA-256)"), phrase("calibration documents"), phrase("student tokens"))
CONTROLS = (  # their words, the column of their R²
    (phrase("teacher"), "r2"),
    (phrase("token identity"), "r2_identity"),
    (phrase("random weights"), "r2_random"),
    (phrase("shuffled rows"), "r2_shuffled"),
)

NOT_CLEAR = {
    False: phrase("That is within two standard errors of none."),
    None: phrase("There is no standard error of it, so whether that is more than chance is not known."),
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
        **{"n": len(heads), "more": more, "less": less, "alike": len(heads) - more - less},
    )


def one_difference_sentence(head: HeadDifference) -> str:
    """One head in words."""
    name = KIND_NAME[head.kind]
    if not isfinite(head.difference):
        return say("Its {kind} does not vary in one of the analyses, so nothing is compared.", kind=name)
    values = {"b": whole(head.r2_b), "n_b": head.n_b, "a": whole(head.r2_a), "n_a": head.n_a, "kind": name}
    found = say(
        "B explains {b} of {kind} on held-out text (n = {n_b:,} tokens), A {a} (n = {n_a:,}): {difference} R².",
        difference=written(head.difference, sign="+") + plus_minus(head.se),
        **values,
    )
    return found if head.clear else sentences(found, say(NOT_CLEAR[head.clear]))


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
    columns = ("layer", "head", "difference", "se", "clear", "r2_a", "se_a", "n_a", "r2_b", "se_b", "n_b")
    rows = [{"kind": KIND_NAME[d.kind], **{name: getattr(d, name) for name in columns}} for d in differences]
    return pd.DataFrame(rows)


def compared_settings(alignment: Alignment) -> dict[str, Any]:
    """All that may make two analyses differ: models, text, settings and versions."""
    data = alignment.data
    return {
        "teacher": alignment.teacher["name"],
        "student": alignment.student["name"],
        "prompts": prompt_source(alignment.prompts),
        phrase("documents (SHA-256)"): data.get("documents_sha256", "")[:12] or None,
        "documents": data["documents"],
        phrase("calibration documents"): data["calibration_documents"],
        phrase("student tokens"): data["student_tokens"],
        **alignment.settings,
        "versions": alignment.versions,
    }


def _varying(differences: Sequence[HeadDifference], kind: str) -> list[HeadDifference]:
    return [d for d in differences if d.kind == kind and isfinite(d.difference)]


def _more(gain: float, kind: str) -> str:
    """+0.021 -> 2 points more of K."""
    words = phrase("{points} more of {kind}") if gain >= 0 else phrase("{points} less of {kind}")
    return say(words, points=points(abs(gain)).lstrip("+"), kind=kind)


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
