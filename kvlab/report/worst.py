"""The tokens of a head that are explained worst, in their context, with the teacher tokens they were read from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kvlab.language import say
from kvlab.plots import visible
from kvlab.results import Alignment, Inspected, TokenView

CONTEXT = 36  # characters of the text on either side
INTERPOLATED = ("linear", "segment")  # the step between two is read from both


def worst_tokens(
    alignment: Alignment, kind: str, layer: int, head: int, numbers: Sequence[int], count: int
) -> pd.DataFrame:
    """The ``count`` scored tokens of these documents with the largest error, the worst first. Whitespace is visible."""
    position = alignment.layer_position(layer)
    found = []
    for number in numbers:
        document = alignment.inspected[number]
        error = alignment.arrays[f"document.{number}.error.{kind}"][position, head]
        scored = np.flatnonzero(np.array(document.scored, dtype=bool) & ~np.isnan(error))
        worst = scored[np.argsort(-error[scored], kind="stable")[:count]]
        found += [(float(error[i]), number, int(i)) for i in worst]
    found.sort(key=lambda of: -of[0])
    return pd.DataFrame(
        [_row(alignment, *of) for of in found[:count]],
        columns=["document", "token", "byte", "error", "before", "text", "after", "read_from"],
    )


def _row(alignment: Alignment, error: float, number: int, i: int) -> list:
    document = alignment.inspected[number]
    token = document.student_tokens[i]
    before, after = context(document.text, token)
    return [document.id, i, token.start, error, before, visible(token), after, read_from(alignment, number, i)]


def context(text: str, token: TokenView) -> tuple[str, str]:
    """What stands before and after a token, cut to CONTEXT characters; halves of a character are left out."""
    written = text.encode()
    before, after = written[: token.start].decode(errors="ignore"), written[token.end :].decode(errors="ignore")
    cut_before, cut_after = "…" * (len(before) > CONTEXT), "…" * (len(after) > CONTEXT)
    return cut_before + visible(before[-CONTEXT:]), visible(after[:CONTEXT]) + cut_after


def read_from(alignment: Alignment, number: int, i: int) -> str:
    """The teacher tokens whose cache stands for student token ``i`` under the rule of the analysis."""
    rule, document = alignment.settings["time"], alignment.inspected[number]
    if rule not in alignment.timeline["rules"]:
        return say("other steps for each teacher head")
    steps = _steps(document, rule, i, float(alignment.arrays[f"document.{number}.index.{rule}"][i]))
    return " ".join(visible(document.teacher_tokens[step]) for step in steps)


def _steps(document: Inspected, rule: str, i: int, index: float) -> list[int]:
    if np.isnan(index):
        return []
    if rule == "overlap":
        own = document.student_tokens[i]
        tokens = enumerate(document.teacher_tokens)
        return [n for n, t in tokens if not t.special and t.start < own.end and t.end > own.start]
    if rule in INTERPOLATED:
        return sorted({int(np.floor(index)), int(np.ceil(index))})
    return [round(index)]
