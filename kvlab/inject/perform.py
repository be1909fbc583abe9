"""One functional test from request to result: the call behind the command line, the worker and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kvlab.analysis import load, prepared
from kvlab.documents import digest
from kvlab.inject.judge import judge
from kvlab.injection import Injection
from kvlab.injection_request import InjectionRequest
from kvlab.models import ModelCache
from kvlab.types import Document, Progress, no_progress


def compute(
    request: InjectionRequest,
    documents: Sequence[Document],
    cache: ModelCache,
    progress: Progress = no_progress,
) -> Injection:
    """Load all models through the cache and try the projected cache on the student. Raises as ``judge``."""
    teachers, student = load(request, cache, progress)
    given = digest(documents)
    documents, calibration = prepared(request, documents)
    found = judge(
        teachers,
        student,
        documents,
        request.settings,
        request.injection,
        calibration,
        request.markers,
        progress,
    )
    return replace(found, prompts=request.prompts, data={**found.data, "documents_sha256": given})
