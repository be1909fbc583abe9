"""Compare two analyses head by head: the differences, their figure, their sentences and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from math import hypot, isfinite, nan
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kvlab.language import current, phrase, plural, say, speaking
from kvlab.request.align import prompt_source
from kvlab.results.alignment.data import Alignment, HeadScore
from kvlab.results.cells import Cell, cell_map, diverging
from kvlab.results.style import DIFFERENCE_SCALE, KIND_NAME, VERDICT_MARKS, plus_minus, written
from kvlab.results.words import points, sentences, together, whole


@dataclass(frozen=True)
class HeadDifference:
    """One student head in both analyses. A value that was not measured is NaN."""

    kind: str  # "key" | "value"
    layer: int  # as numbered in the student
    head: int
    r2_a: float
    r2_b: float
    se_a: float
    se_b: float
    n_a: int  # scored rows (student tokens)
    n_b: int
    # R² beyond the strongest control, with its standard error.
    gain_a: float = nan
    gain_b: float = nan
    gain_se_a: float = nan
    gain_se_b: float = nan

    @cached_property
    def gain(self) -> HeadDifference:
        """Return the same head with its gains in the place of R²."""
        return replace(self, r2_a=self.gain_a, r2_b=self.gain_b, se_a=self.gain_se_a, se_b=self.gain_se_b)

    @cached_property
    def difference(self) -> float:
        """Return R² of B minus R² of A."""
        return self.r2_b - self.r2_a

    @cached_property
    def se(self) -> float:
        """Return sqrt(se_a² + se_b²), the standard error of two independent estimates; NaN unless both have one."""
        return hypot(self.se_a, self.se_b) if isfinite(self.se_a) and isfinite(self.se_b) else float("nan")

    @cached_property
    def clear(self) -> bool | None:
        """Return whether the difference is more than two standard errors from zero; None if unknown."""
        known = isfinite(self.difference) and isfinite(self.se)
        return abs(self.difference) > 2 * self.se if known else None


def matched(a: Alignment, b: Alignment) -> list[HeadDifference]:
    """Pair every head of the student, in the order of A; empty if the students do not have the same heads."""
    scores_b = {(s.kind, s.layer, s.head): s for s in b.heads}
    if {(s.kind, s.layer, s.head) for s in a.heads} != set(scores_b):
        return []
    pairs = [(score, scores_b[score.kind, score.layer, score.head]) for score in a.heads]
    found = []
    for s, t in pairs:
        (gain_a, gain_se_a), (gain_b, gain_se_b) = strongest(s), strongest(t)
        head = HeadDifference(s.kind, s.layer, s.head, s.r2, t.r2, s.se, t.se, s.n, t.n)
        found.append(replace(head, gain_a=gain_a, gain_b=gain_b, gain_se_a=gain_se_a, gain_se_b=gain_se_b))
    return found


def strongest(score: HeadScore) -> tuple[float, float]:
    """Return a head's gain over its strongest control with its standard error; NaN for a head that does not vary."""
    gain = score.strongest
    if gain is None:
        return nan, nan
    return gain.r2, score.se if gain.se is None else gain.se


LEAST_RANGE = 0.02  # of the colours; a smaller range would paint noise
MAP_WORDS = {
    "r2": (phrase("R² of B<br>− R² of A"), phrase("{kind}: R² of B − R² of A, held out")),
    "gain": (phrase("gain of B<br>− gain of A"), phrase("{kind}: gain of B − gain of A, held out")),
}
OUTLINE = "#009E73"  # the student's orange would not stand out on this map
# Shares of the range from which white is easier to read than black. Orange is brighter than purple.
WHITE_ON_ORANGE, WHITE_ON_PURPLE = 0.79, 0.62


def difference_heatmap(
    alignment: Alignment,
    differences: Sequence[HeadDifference],
    kind: str,
    selected: tuple[int, int] | None = None,
    of: str = "r2",
) -> go.Figure:
    """Draw the differences of K or V; both share one range. ``alignment``: A or B; “=” marks an unclear difference.

    ``of``: "r2", or "gain" over the strongest control.
    """
    differences = [head.gain for head in differences] if of == "gain" else differences
    limit = max([LEAST_RANGE, *(abs(head.difference) for head in differences if isfinite(head.difference))])
    with speaking(current()):  # look up the language once, not for every word of thousands of cells
        cells = _cells([head for head in differences if head.kind == kind], limit)
    bar, title = MAP_WORDS[of]
    colours, title = diverging(DIFFERENCE_SCALE, limit, say(bar)), say(title, kind=KIND_NAME[kind])
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
# The names in compared_settings that describe the text.
TEXT = (phrase("prompts"), phrase("documents (SHA-256)"), phrase("calibration documents"), phrase("student tokens"))
SOURCES = (  # words, column of R²
    (phrase("teacher"), "r2"),
    (phrase("teacher, exact tokens"), "r2_exact"),
    (phrase("teacher, tokens inside"), "r2_inside"),
    (phrase("teacher + own token"), "r2_with_own"),
    (phrase("student’s own tokens"), "r2_own"),
    (phrase("added by the teacher"), "added"),
    (phrase("teacher’s token"), "r2_identity"),
    (phrase("random weights"), "r2_random"),
    (phrase("shuffled rows"), "r2_shuffled"),
)

NOT_CLEAR = {
    False: phrase("That is within two standard errors of none."),
    None: phrase("There is no standard error of it, so whether that is more than chance is not known."),
}


def gain_sentence(differences: Sequence[HeadDifference]) -> str:
    """Say how the gains over the strongest control differ, which is what matters."""
    gains = [head.gain for head in differences]
    means = []
    for kind, name in KIND_NAME.items():
        if varying := _varying(gains, kind):
            means.append(_more(sum(d.difference for d in varying) / len(varying), name))
    if not means:
        return say("No head varies in both analyses, so there is nothing to compare.")
    words = phrase(
        "Beyond its strongest control, the teacher of B says {means} than that of A (means over heads, held-out text)"
    )
    clear = [d for d in gains if d.clear is not None]
    counts = {"n": len(gains), "more": sum(d.difference > 0 for d in clear if d.clear)}
    counts |= {"less": sum(d.difference < 0 for d in clear if d.clear)}
    if not clear:
        return say("{finding}; without standard errors.", finding=say(words, means=together(means)))
    return say(
        "{finding}; clearly more in {more} of {n} heads, clearly less in {less}.",
        finding=say(words, means=together(means)),
        **counts,
    )


def difference_sentence(differences: Sequence[HeadDifference]) -> str:
    """Say the finding in one sentence."""
    means, heads = [], []
    for kind, name in KIND_NAME.items():
        varying = _varying(differences, kind)
        if varying:
            means.append(_more(sum(d.difference for d in varying) / len(varying), name))
        heads += varying
    if not means:
        return say("No head varies in both analyses, so there is nothing to compare.")
    explained = together(means)
    if any(d.clear is None for d in heads):
        return say(
            "On held-out text, B explains {means} than A, averaged over heads; one of them has no standard errors, so "
            "whether that is more than chance is not known.",
            means=explained,
        )
    more = sum(bool(d.clear) and d.difference > 0 for d in heads)
    less = sum(bool(d.clear) and d.difference < 0 for d in heads)
    counts = {"n": len(heads), "more": more, "less": less, "alike": len(heads) - more - less}
    return say(
        "On held-out text, B explains {means} than A, averaged over heads; of {n} heads, B is higher in {more} and "
        "lower in {less} by more than two standard errors, and {alike} cannot be told apart.",
        means=explained,
        **counts,
    )


def one_difference_sentence(head: HeadDifference) -> str:
    """Say the difference of one head."""
    name = KIND_NAME[head.kind]
    if not isfinite(head.difference):
        return say("Its {kind} does not vary in one of the analyses, so nothing is compared.", kind=name)
    values = {"b": whole(head.r2_b), "n_b": head.n_b, "a": whole(head.r2_a), "n_a": head.n_a, "kind": name}
    words = say(
        "B explains {b} of {kind} on held-out text (n = {n_b:,} tokens), A {a} (n = {n_a:,}): {difference} R².",
        difference=written(head.difference, sign="+") + plus_minus(head.se),
        **values,
    )
    return words if head.clear else sentences(words, say(NOT_CLEAR[head.clear]))


def shapes_sentence(a: Alignment, b: Alignment) -> str:
    """Say why heads cannot be matched."""
    return say(
        "The heads cannot be compared one by one, because the students have different shapes: A is {a}, B is {b}. "
        "Choose an analysis whose student has the same layers and KV heads; the means below can be compared.",
        a=_shape(a),
        b=_shape(b),
    )


def means_table(a: Alignment, b: Alignment) -> pd.DataFrame:
    """Return the means over heads of both analyses, separately for K and V, of what either has measured."""
    rows = []
    for kind, name in KIND_NAME.items():
        mean_a, mean_b = mean_gain(a, kind), mean_gain(b, kind)
        gained = say("gain over the strongest control")
        rows.append({"K/V": name, "R² of": gained, "A": mean_a, "B": mean_b, "B − A": mean_b - mean_a})
        for words, column in SOURCES:
            mean_a, mean_b = a.mean(kind, column), b.mean(kind, column)
            if isfinite(mean_a) or isfinite(mean_b):
                rows.append({"K/V": name, "R² of": say(words), "A": mean_a, "B": mean_b, "B − A": mean_b - mean_a})
    return pd.DataFrame(rows)


def mean_gain(alignment: Alignment, kind: str) -> float:
    """Return the mean over heads of the gain over the strongest control; NaN if no head varies."""
    gains = [strongest(score)[0] for score in alignment.heads if score.kind == kind]
    known = [gain for gain in gains if isfinite(gain)]
    return sum(known) / len(known) if known else nan


def differences_table(differences: Sequence[HeadDifference]) -> pd.DataFrame:
    """Return the differences, one row per head."""
    columns = ("layer", "head", "difference", "se", "clear", "r2_a", "se_a", "n_a", "r2_b", "se_b", "n_b")
    rows = [
        {
            "kind": KIND_NAME[d.kind],
            "gain": d.gain.difference,
            "gain_se": d.gain.se,
            **{name: getattr(d, name) for name in columns},
        }
        for d in differences
    ]
    return pd.DataFrame(rows)


def compared_settings(alignment: Alignment) -> dict[str, Any]:
    """Return everything that may make two analyses differ: models, text, settings and versions."""
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
    """Write a gain: +0.021 -> 2 points more of K."""
    words = phrase("{points} more of {kind}") if gain >= 0 else phrase("{points} less of {kind}")
    return say(words, points=points(abs(gain)).lstrip("+"), kind=kind)


def _shape(alignment: Alignment) -> str:
    """Describe a student: demo/student with 4 layers of 2 KV heads."""
    heads = [shape[0] for shape in alignment.student["layer_shapes"]]
    runs = [(len(list(same)), count) for count, same in groupby(heads)]
    parts = [_layers(n, count) for n, count in runs[:4]] + [say("others")] * (len(runs) > 4)
    return say("{student} with {layers}", student=alignment.student["name"], layers=together(parts))


def _layers(layers: int, heads: int) -> str:
    """Describe layers: 4 layers of 2 KV heads."""
    kv_heads = plural(heads, "{n} KV head", "{n} KV heads")
    return plural(layers, "{n} layer of {heads}", "{n} layers of {heads}", heads=kv_heads)
