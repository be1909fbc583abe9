"""Run one analysis from request to run folder, for the command line, the worker and the pages."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from kvlab.align.pipeline import Aligned, align_several
from kvlab.align.processes import joined
from kvlab.align.rows import EXACT
from kvlab.align.unfinished import Unfinished, name_of
from kvlab.host import launched
from kvlab.host.memory import device_memory
from kvlab.language import DEFAULT, Message
from kvlab.models.loading import LoadedModel, ModelCache, geometry, reader
from kvlab.request import prompts, settings
from kvlab.request.align import AnalysisRequest
from kvlab.request.analysis_memory import analysis_memory, lines, refuse_too_large, size_of
from kvlab.request.documents import digest
from kvlab.request.segments import segmented
from kvlab.results.alignment import data as results
from kvlab.results.alignment import so_far
from kvlab.results.alignment.archive import NAME as ARCHIVE_NAME
from kvlab.results.alignment.archive import archive
from kvlab.results.alignment.data import Alignment
from kvlab.results.function import data
from kvlab.results.function.page import html_with_function
from kvlab.results.function.sentences import same_request
from kvlab.shapes import Document, HeadMap, Progress, no_progress

PROJECTOR_NAME = "projector.safetensors"
MANY = 10**6  # documents, for the room that any number of them takes


def analyse(folder: Path, progress: Progress, cache: ModelCache) -> None:
    """Compute what ``config.yaml`` and ``prompts.jsonl`` of a run folder ask for, and write it there.

    An interrupted analysis resumes in the same folder.
    """
    request = settings.read(AnalysisRequest, folder)
    documents = prompts.read_prompts(folder / prompts.RUN_PROMPTS)
    aligned = compute(request, documents, cache, progress, folder)
    progress("writing results", 0, 1)
    write(aligned, folder)
    progress("writing results", 1, 1)


def compute(
    request: AnalysisRequest,
    documents: Sequence[Document],
    cache: ModelCache,
    progress: Progress = no_progress,
    folder: Path | None = None,
) -> list[Aligned]:
    """Load all models through the cache and align each teacher with the student on ``documents``.

    Of several processes of a launcher the first one returns the results, the others nothing.
    ``folder``: keeps the sums of an interrupted analysis, and its first scores until ``write``.
    """
    if documents and not request.split_teacher:
        refuse_too_large(**_size(request, documents, tokenized=False))
    with joined(request.device):
        teachers, student = load(request, cache, progress)
        prompts_digest = digest(documents)
        documents, calibration = prepared(request, documents)
        asked = [*asked_for(request, [*documents, *calibration], [*teachers, student]), launched.count()]
        unfinished = Unfinished(folder, asked, name_of(launched.rank())) if folder else None
        look = partial(so_far.write, folder=folder) if folder and folder.is_dir() and launched.first() else None
        aligned = align_several(teachers, student, documents, request.settings, calibration, progress, unfinished, look)
    for alignment, _ in aligned:
        alignment.data["documents_sha256"] = prompts_digest
    return [(replace(alignment, prompts=request.prompts), maps) for alignment, maps in aligned]


def forecast(request: AnalysisRequest, documents: Sequence[Document]) -> list[Message]:
    """Say the memory that an analysis takes; nothing but configurations and tokenizers is loaded."""
    size = _size(request, documents, tokenized=True)
    device, host = size.pop("device"), size.pop("host")
    return lines(analysis_memory(**size, device=device.device), device, host)


def _size(request: AnalysisRequest, documents: Sequence[Document], tokenized: bool) -> dict[str, Any]:
    """What the memory follows from; the longest text stands for the longest timeline.

    ``tokenized``: count its tokens; else take them for two characters long, which no tokenizer has to be read for.
    """
    names = (*request.teachers, request.student)
    tokens = None
    if tokenized:
        longest = max((document.text for document in documents), key=len)
        tokens = max(len(reader(name).tokenizer(longest, verbose=False)["input_ids"]) for name in names)
    *teachers, student = map(geometry, names)
    memories = {"device": device_memory(request.device), "host": device_memory("cpu")}
    return size_of(request, documents, teachers, student, tokens) | memories


def load(request: AnalysisRequest, cache: ModelCache, progress: Progress) -> tuple[list[LoadedModel], LoadedModel]:
    """Load student and teachers through the cache."""
    count = 1 + len(request.teachers)
    progress(f"loading {request.student}", 0, count)
    student = cache.get(request.student, request.device, request.dtype)
    room = None
    if request.split_teacher:
        shapes, dtype = [geometry(name) for name in request.teachers], str(student.dtype).removeprefix("torch.")
        asked = (
            shapes,
            student.geometry,
            request.settings,
            MANY,
            request.settings.max_tokens,
            str(student.device),
            dtype,
        )
        forecast = analysis_memory(*asked)
        room = sum(part.bytes for part in forecast.device or forecast.host if part.name not in ("weights", "random"))
    teachers = []
    for number, name in enumerate(request.teachers, 1):
        progress(f"loading {name}", number, count)
        teachers.append(cache.get(name, request.device, request.dtype, request.load_in, room))
    return teachers, student


def prepared(request: AnalysisRequest, documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """Return the documents and the calibration documents, cut into segments as the request asks."""
    calibration = prompts.calibration_documents(request.calibration, documents)
    scored = segmented(documents, request.segments, request.markers)
    return scored, segmented(calibration, request.segments, request.markers)


def asked_for(request: AnalysisRequest, documents: Sequence[Document], loaded: Sequence[LoadedModel]) -> list:
    """Return all that the maps of an analysis or a functional test depend on."""
    models = [(m.name, str(m.device), str(m.dtype), m.geometry.to_dict()) for m in loaded]
    return [request.model_dump(mode="json"), digest(documents), models, torch.__version__, transformers.__version__]


def write(aligned: Sequence[Aligned], folder: Path, language: str = DEFAULT) -> None:
    """Write all files of ``align --out``; the first teacher's numbers come last, so alignment.json means finished."""
    for number, (alignment, maps) in reversed(list(enumerate(aligned, 1))):
        where = folder if number == 1 else folder / results.OTHER_TEACHER.format(number)
        _write_one(alignment, maps, where, language)
    Unfinished(folder, None).remove()
    (folder / so_far.NAME).unlink(missing_ok=True)


def _write_one(alignment: Alignment, maps: dict[str, HeadMap], folder: Path, language: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_tensors(maps), folder / PROJECTOR_NAME)
    functional = data.read(folder) if (folder / data.JSON_NAME).exists() else None
    if functional is not None and not same_request(alignment, functional):
        functional = None
    page = html_with_function(alignment, language, functional)
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / ARCHIVE_NAME).write_bytes(archive(alignment, language))
    results.write(alignment, folder)


def _tensors(maps: dict[str, HeadMap]) -> dict[str, torch.Tensor]:
    """``KIND.LAYER.{weight,bias}`` of exact rows, ``KIND.LAYER.inside-N.*`` of rows N tokens into a teacher token."""
    tensors = {}
    for kind, head_map in maps.items():
        for layer, of_classes in enumerate(head_map.layers):
            for classes, weight, bias in zip(of_classes.classes, of_classes.weights, of_classes.biases):
                for row_class in classes or (EXACT,):
                    prefix = f"{kind}.{layer}." + (f"inside-{row_class}." if row_class else "")
                    # Classes that share a map: files do not share tensors.
                    tensors[f"{prefix}weight"] = weight.cpu().clone(memory_format=torch.contiguous_format)
                    tensors[f"{prefix}bias"] = bias.cpu().clone()
    return tensors
