"""Write the gathered report of a run: report.md, report.html, and its JSON."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kvlab.errors import RunError
from kvlab.results.training.facts import gather
from kvlab.results.training.report import html, markdown
from kvlab.runs import locks, store
from kvlab.runs.records import REPORT_OF_FORM, Status
from kvlab.runs.run_queue import RUN_LOCK

Fields = dict[str, Any]
FORMATS = tuple(REPORT_OF_FORM)


def text_of(report: Fields, form: str, language: str) -> str:
    """Return the report in one of FORMATS, ending in a newline. JSON is the same in every language."""
    if form == "json":
        return json.dumps(report, ensure_ascii=False, indent=1) + "\n"
    return {"md": markdown, "html": html}[form](report, language)


def write(report: Fields, folder: Path, forms: Sequence[str] = FORMATS, language: str = "en") -> list[Path]:
    """Replace the report's files in ``folder``; return their paths. Raises as store.disk_errors does."""
    paths = []
    for form in forms:
        in_run_folder = (folder / store.CONFIG).exists()
        path = folder / (REPORT_OF_FORM[form] if in_run_folder else f"report.{form}")
        with store.disk_errors(folder):
            store.replace(path, text_of(report, form, language).encode())
        paths.append(path)
    return paths


def complete(folder: Path) -> None:
    """Write the report of an ended training run whose process died before it had written it. Leave any other run."""
    status = Status.of(store.read_status(folder))
    begun_and_ended = status.kind == "training" and status.started is not None and status.state in store.FINAL
    if not begun_and_ended or all((folder / name).exists() for name in REPORT_OF_FORM.values()):
        return
    with suppress(RunError), locks.held(folder / RUN_LOCK) as free:  # where nothing can be written, nothing is lost
        if free:  # otherwise its process is still at it
            write(gather(folder), folder)
