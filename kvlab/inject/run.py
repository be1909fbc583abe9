"""Run a functional test in its folder and write its result."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from safetensors import SafetensorError

from kvlab import __version__
from kvlab.align.run import asked_for, load, prepared
from kvlab.align.unfinished import REFINEMENT, Unfinished
from kvlab.inject.fit import Fit
from kvlab.inject.handoff import map_file
from kvlab.inject.map_file import NAME
from kvlab.inject.pipeline import judge
from kvlab.language import DEFAULT
from kvlab.models.loading import ModelCache
from kvlab.request import prompts, settings
from kvlab.request.documents import digest
from kvlab.request.inject import InjectionRequest
from kvlab.results.alignment import data as results
from kvlab.results.function import data
from kvlab.results.function.data import Injection
from kvlab.results.function.page import function_html, html_with_function
from kvlab.results.function.sentences import same_request
from kvlab.shapes import Document, Progress, no_progress

log = logging.getLogger(__name__)


def compute(
    request: InjectionRequest,
    documents: Sequence[Document],
    cache: ModelCache,
    progress: Progress = no_progress,
    folder: Path | None = None,
) -> Injection:
    """Load all models through the cache and try the projected cache on the student. Raises as ``judge``.

    ``folder``: gets the map, and keeps what an interrupted test had refined.
    """
    teachers, student = load(request, cache, progress)
    prompts_digest = digest(documents)
    documents, calibration = prepared(request, documents)
    asked = asked_for(request, [*documents, *calibration], [*teachers, student])
    kept: list[Fit] = []
    injection = judge(
        teachers,
        student,
        documents,
        request.settings,
        request.injection,
        calibration,
        request.markers,
        progress,
        unfinished=Unfinished(folder, asked, REFINEMENT) if folder else None,
        keep=kept.append,
    )
    if folder:
        about = {"data": injection.data, "scores": [asdict(row) for row in injection.injected]}
        about = results.plain(about | {"documents_sha256": prompts_digest, "kvlab": __version__})
        try:
            map_file(kept[0], teachers, student, request.settings, **about).save(folder / NAME)
        except (OSError, SafetensorError) as error:  # the test itself does not need it
            log.warning("the map could not be written to %s: %s", folder / NAME, error)
    return replace(injection, prompts=request.prompts, data=injection.data | {"documents_sha256": prompts_digest})


REPORT_NAME = "function.html"


def test(folder: Path, progress: Progress, cache: ModelCache) -> None:
    """Compute what ``config.yaml`` and ``prompts.jsonl`` of a run folder ask for, and write it there.

    An interrupted test fits its maps again and resumes refining them in the same folder.
    """
    request = settings.read(InjectionRequest, folder)
    documents = prompts.read_prompts(folder / prompts.RUN_PROMPTS)
    write(compute(request, documents, cache, progress, folder), folder)


def write(injection: Injection, folder: Path, language: str = DEFAULT) -> None:
    """Write the numbers and a report. An analysis of the same request in this folder gets a section of the report."""
    data.write(injection, folder)
    (folder / REPORT_NAME).write_text(function_html(injection, language), encoding="utf-8")
    Unfinished(folder, None, REFINEMENT).remove()
    if (folder / results.JSON_NAME).exists():
        aligned = results.read(folder)
        if same_request(aligned, injection):
            (folder / "report.html").write_text(html_with_function(aligned, language, injection), encoding="utf-8")
