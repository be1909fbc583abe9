"""Read a run's JSON files, what its functional test found, and which control runs share its settings.

The JSON files of a run's folder, read whatever became of them.

The functional test of a training run, as its record holds it, whatever became of the record. No torch here.

``functional`` of report.json: ``before``, ``after`` (kvlab.train.functional.measure) and ``change``.

Finished runs beside one, of the same settings but for the control: what its held-out numbers are compared with.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from kvlab.runs import store

REPORT, VERDICT, NOTES, FORECAST = "report.json", "verdict.json", "notes.md", "forecast.json"  # notes: by people

Fields = dict[str, Any]


def read_json(path: Path) -> Fields:
    """A JSON object in a file of a run; empty when it is missing, broken, or behind a link."""
    try:
        found = json.loads(read_text(path) or "", parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_text(path: Path) -> str | None:
    """None when it is missing or behind a link."""
    try:
        return None if path.is_symlink() else path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


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


NEWEST = 200  # runs that are looked at
APART = ("control", "functional", "eval_documents", "checkpoint_every", "device", "thresholds")  # may differ

Fields = dict[str, Any]


def controls(folder: Path, config: Fields) -> list[Fields]:
    """The newest run of each other control (``none`` for a run that is one itself): id, control, before, after."""
    if not config or config.get("teachers") is None:
        return []
    mine, found = _settings(config), {config.get("control", "none"): None}
    for other in store.listing(folder.parent)[:NEWEST]:
        if other.name == folder.name or len(found) == 4:
            continue
        told = read_json(other / REPORT)
        theirs, before, after = (told.get(key) for key in ("config", "before", "after"))
        if not all(isinstance(part, dict) and part for part in (theirs, before, after)):
            continue
        control = theirs.get("control", "none")
        if isinstance(control, str) and control not in found and _settings(theirs) == mine:
            told_apart = {"before": before, "after": after, "functional": read(told.get("functional"))}
            found[control] = {"id": other.name, "control": control, **told_apart}
    return [run for run in found.values() if run]


def _settings(config: Fields) -> Fields:
    return {name: value for name, value in config.items() if name not in APART}
