"""Finished runs beside one, of the same settings but for the control: what its held-out numbers are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvlab.run_files import REPORT, read_json
from kvlab.run_functional import read
from kvlab.runs import store

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
