"""A functional test in a folder: of a run, or where the command line writes it."""

from __future__ import annotations

from pathlib import Path

from kvlab import analysis, injection, injection_request, prompts, report, results
from kvlab.inject import perform
from kvlab.injection import Injection
from kvlab.language import DEFAULT
from kvlab.models import ModelCache
from kvlab.types import Progress

REPORT_NAME = "function.html"


def test(folder: Path, progress: Progress, cache: ModelCache) -> None:
    """Compute what ``config.yaml`` and ``prompts.jsonl`` of a run folder ask for, and write it there."""
    request = analysis.read_request(folder, injection_request.checked)
    documents = prompts.read_prompts(folder / prompts.RUN_PROMPTS)
    write(perform.compute(request, documents, cache, progress), folder)


def write(found: Injection, folder: Path, language: str = DEFAULT) -> None:
    """The numbers and a report; beside an analysis of the same request, its report gets a section of this one.

    ``language``: of the reports, one of kvlab.language.LANGUAGES.
    """
    injection.write(found, folder)
    (folder / REPORT_NAME).write_text(report.function_html(found, language), encoding="utf-8")
    if (folder / results.JSON_NAME).exists():
        aligned = results.read(folder)
        if report.same_request(aligned, found):
            (folder / "report.html").write_text(report.html_with_function(aligned, language, found), encoding="utf-8")
