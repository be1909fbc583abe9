"""The report of a run written into files: report.md, report.html, and report.json beside what the run told itself.

report.json of a run's folder is read back when a run is resumed, so there the report is its entry "report".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kvlab.results.training.html_report import html
from kvlab.results.training.markdown import markdown
from kvlab.results.training.records import REPORT, read_json
from kvlab.runs import store

Fields = dict[str, Any]
FORMATS = ("md", "html", "json")
WITHIN = "report"  # its place in report.json of a run's folder


def text_of(report: Fields, form: str, language: str) -> str:
    """The report in one of FORMATS, ending in a newline. JSON is the same in every language."""
    if form == "json":
        return json.dumps(report, ensure_ascii=False, indent=1) + "\n"
    writers: dict[str, Callable[[Fields, str], str]] = {"md": markdown, "html": html}
    return writers[form](report, language)


def write(report: Fields, folder: Path, forms: Sequence[str] = FORMATS, language: str = "en") -> list[Path]:
    """Files ``report.FORM`` in ``folder``, each replaced whole -> their paths.

    Raises RunError ``disk-full`` and ``runs-unwritable``.
    """
    written = []
    for form in forms:
        path = folder / f"report.{form}"
        told = read_json(folder / REPORT) if form == "json" and (folder / store.CONFIG).exists() else None
        text = text_of(report if told is None else {**told, WITHIN: report}, form, language)
        with store.disk_errors(folder):
            store.replace(path, text.encode())
        written.append(path)
    return written
