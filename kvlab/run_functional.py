"""The functional test of a training run, as its record holds it, whatever became of the record. No torch here.

``functional`` of report.json: ``before``, ``after`` (kvlab.train.functional.measure) and ``change``.
"""

from __future__ import annotations

import math
from typing import Any

VARIANTS = ("projected", "mean", "shuffled")  # of these the last two are controls

Fields = dict[str, Any]


def read(functional: Any) -> Fields | None:
    """{variant: {"before" | "after" | "change": numbers}} and ``own``, ``documents``, ``n``; None for a run without.

    ``numbers`` are kl, kl_se, delta_ce, delta_ce_se; None where not measured. ``reproduces`` of ``own``: False where
    at one of both times the own cache did not give the student's logits.
    """
    parts = {when: _table(_table(functional).get(when)) for when in ("before", "after", "change")}
    measured = [parts[when] for when in ("before", "after") if parts[when]]
    if not measured:
        return None
    last, own = measured[-1], [_table(of.get("own")) for of in measured]
    variants = {
        name: {
            "before": _numbers(_table(parts["before"].get("variants")).get(name)),
            "after": _numbers(_table(parts["after"].get("variants")).get(name)),
            "change": _numbers(parts["change"].get(name)),
        }
        for name in VARIANTS
    }
    differences = [d for of in own if (d := _finite(of.get("largest_difference"))) is not None]
    return {
        "variants": variants,
        "documents": _whole(last.get("documents")),
        "n": _whole(last.get("n")),
        "prefix": _finite(last.get("prefix")),
        "share_replaced": _finite(last.get("share_replaced")),
        "reproduces": all(of.get("reproduces") is True for of in own),
        "largest_difference": max(differences) if len(differences) == len(own) else None,
        "tolerance": _finite(own[-1].get("tolerance")),
    }


def _numbers(of: Any) -> Fields:
    return {name: _finite(_table(of).get(name)) for name in ("kl", "kl_se", "delta_ce", "delta_ce_se")}


def _table(value: Any) -> Fields:
    return value if isinstance(value, dict) else {}


def _finite(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
