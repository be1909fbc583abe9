"""One functional test from request to result: the call behind the command line, the worker and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kvlab.analysis import calibration_documents
from kvlab.inject.judge import judge
from kvlab.injection import Injection
from kvlab.injection_request import InjectionRequest
from kvlab.models import ModelCache
from kvlab.segments import segmented
from kvlab.types import Document, Progress, no_progress


def compute(
    request: InjectionRequest,
    documents: Sequence[Document],
    cache: ModelCache,
    progress: Progress = no_progress,
) -> Injection:
    """Load all models through the cache and try the projected cache on the student. Raises as ``judge``."""
    names = (*request.teachers, request.student)
    loaded = []
    for number, name in enumerate(names):
        progress(f"loading {name}", number, len(names))
        loaded.append(cache.get(name, request.device, request.dtype))
    *teachers, student = loaded
    calibration = calibration_documents(request, documents)
    documents, calibration = (segmented(d, request.segments, request.markers) for d in (documents, calibration))
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
    return replace(found, prompts=request.prompts)
