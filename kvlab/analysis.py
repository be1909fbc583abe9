"""One analysis from request to run folder: the call behind the command line, the worker and the pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml
from safetensors.torch import save_file

from kvlab import prompts, report, results
from kvlab.align.pipeline import align
from kvlab.errors import RunError
from kvlab.models import ModelCache
from kvlab.request import AnalysisRequest, checked
from kvlab.results import Alignment
from kvlab.segments import segmented
from kvlab.types import Document, HeadMap, Progress, no_progress

AUTO_CALIBRATION_BELOW = 20  # documents; with fewer, a map fitted on them alone says little
CONFIG_NAME, PROJECTOR_NAME = "config.yaml", "projector.safetensors"


def analyse(folder: Path, progress: Progress, cache: ModelCache) -> None:
    """Compute what ``config.yaml`` and ``prompts.jsonl`` of a run folder ask for, and write it there."""
    request = read_request(folder)
    documents = prompts.read_prompts(folder / prompts.RUN_PROMPTS)
    alignment, maps = compute(request, documents, cache, progress)
    progress("writing results", 0, 1)
    write(alignment, maps, folder)
    progress("writing results", 1, 1)


def compute(
    request: AnalysisRequest, documents: Sequence[Document], cache: ModelCache, progress: Progress = no_progress
) -> tuple[Alignment, dict[str, HeadMap]]:
    """Load both models through the cache and align them on ``documents``."""
    progress(f"loading {request.teacher}", 0, 2)
    teacher = cache.get(request.teacher, request.device, request.dtype)
    progress(f"loading {request.student}", 1, 2)
    student = cache.get(request.student, request.device, request.dtype)
    calibration = calibration_documents(request, documents)
    documents, calibration = (segmented(d, request.segments, request.markers) for d in (documents, calibration))
    alignment, maps = align(teacher, student, documents, request.settings, calibration, progress)
    return replace(alignment, prompts=request.prompts), maps


def calibration_documents(request: AnalysisRequest, documents: Sequence[Document]) -> list[Document]:
    """The bundled samples that are not among the prompts, when the request wants them."""
    wanted = request.calibration == "samples" or (
        request.calibration == "auto" and len(documents) < AUTO_CALIBRATION_BELOW
    )
    if not wanted:
        return []
    given = {document.text for document in documents}
    return [replace(d, id=f"sample/{d.id}") for d in prompts.samples() if d.text not in given]


def read_request(folder: Path) -> AnalysisRequest:
    """Raises RunError when the run's config cannot be read, AlignError when a setting is wrong."""
    try:
        return checked(yaml.safe_load((folder / CONFIG_NAME).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(
            "config-unreadable",
            expected=f"a readable {CONFIG_NAME} in {folder.name}",
            found=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            remedy="launch the analysis again from its page or command",
        ) from error


def write(alignment: Alignment, maps: dict[str, HeadMap], folder: Path) -> None:
    """Everything ``align --out`` leaves: the numbers last, so that alignment.json means a finished run."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{kind}.{layer}.{part}": tensor.contiguous()
        for kind, head_map in maps.items()
        for part, per_layer in (("weight", head_map.weights), ("bias", head_map.biases))
        for layer, tensor in enumerate(per_layer)
    }
    save_file(tensors, folder / PROJECTOR_NAME)
    (folder / "report.html").write_text(report.html(alignment), encoding="utf-8")
    results.write(alignment, folder)
