"""Write the gathered report of a run: report.md, report.html, and its JSON.

In a run's own folder report.json is what the run wrote about itself, so the JSON there is gathered.json.
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
    """The report in one of FORMATS, ending in a newline. JSON is the same in every language."""
    if form == "json":
        return json.dumps(report, ensure_ascii=False, indent=1) + "\n"
    return {"md": markdown, "html": html}[form](report, language)


def write(report: Fields, folder: Path, forms: Sequence[str] = FORMATS, language: str = "en") -> list[Path]:
    """Replace the report's files in ``folder``, each whole -> their paths.

    Raises RunError ``disk-full`` and ``runs-unwritable``.
    """
    written = []
    for form in forms:
        of_run = form == "json" and (folder / store.CONFIG).exists()
        path = folder / (GATHERED if of_run else f"report.{form}")
        with store.disk_errors(folder):
            store.replace(path, text_of(report, form, language).encode())
        written.append(path)
    return written
