"""The JSON files of a run's folder, read whatever became of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
