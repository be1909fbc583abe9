"""Write the gathered report of a run: report.md, report.html, and its JSON.

In a run's folder, report.json is the run's own record, so the gathered JSON there is gathered.json.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvlab.results.training.report import html, markdown
from kvlab.runs import store
from kvlab.runs.records import GATHERED

Fields = dict[str, Any]
FORMATS = ("md", "html", "json")


def text_of(report: Fields, form: str, language: str) -> str:
    """Return the report in one of FORMATS, ending in a newline. JSON is the same in every language."""
    if form == "json":
        return json.dumps(report, ensure_ascii=False, indent=1) + "\n"
    return {"md": markdown, "html": html}[form](report, language)


def write(report: Fields, folder: Path, forms: Sequence[str] = FORMATS, language: str = "en") -> list[Path]:
    """Replace the report's files in ``folder``; return their paths. Raises as store.disk_errors does."""
    paths = []
    for form in forms:
        in_run_folder = form == "json" and (folder / store.CONFIG).exists()
        path = folder / (GATHERED if in_run_folder else f"report.{form}")
        with store.disk_errors(folder):
            store.replace(path, text_of(report, form, language).encode())
        paths.append(path)
    return paths
