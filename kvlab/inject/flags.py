"""``python -m kvlab inject``: flags <-> InjectionRequest. No torch until a request is known to be right."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from kvlab import injection as results
from kvlab import injection_request, request
from kvlab.injection_request import InjectionRequest, InjectSettings
from kvlab.language import DEFAULT, LANGUAGES, say, speaking, translated
from kvlab.request import AlignSettings, AnalysisRequest
from kvlab.segments import Source
from kvlab.types import Document

CHOICES = {
    "time": request.TimeRule,
    "layers": request.LayerRule,
    "search": request.Search,
    "projector": request.Projector,
    "keys": request.KeySpace,
}
NUMBERS = ("folds", "sinks", "max_tokens", "batch_tokens", "sample_tokens", "seed")


def add(parser: argparse.ArgumentParser) -> None:
    """The flags of a functional test."""
    parser.add_argument("--teacher", required=True, action="append", metavar="NAME", help="repeat for several teachers")
    parser.add_argument("--student", required=True, metavar="NAME", help="demo/student, a Hub id, a local folder")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help=".txt .jsonl .csv .parquet (default: the samples)")
    parser.add_argument("--column", help="the column of a .csv or .parquet file that holds the prompts")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where injection.json is written")
    for name, choices in CHOICES.items():
        _setting(parser, AlignSettings, name, choices=get_args(choices))
    for name in NUMBERS:
        _setting(parser, AlignSettings, name, type=int)
    _setting(parser, AlignSettings, "chat", action="store_true")
    _setting(parser, AlignSettings, "random_teacher", action=argparse.BooleanOptionalAction)
    _setting(parser, AnalysisRequest, "calibration", choices=get_args(request.Calibration))
    _setting(parser, AnalysisRequest, "segments", choices=get_args(Source))
    for name, kind in (("prefix", float), ("documents", int), ("swap_layers", int), ("seconds", float)):
        _setting(parser, InjectSettings, name, type=kind)
    for name in ("forwards", "texts", "new_tokens"):
        _setting(parser, InjectSettings, name, type=int)
    _setting(parser, InjectSettings, "curve", type=float, nargs="*", metavar="SHARE")
    words = "of what is printed; injection.json is alike in both (default: en)"
    parser.add_argument("--language", choices=list(LANGUAGES), default=DEFAULT, help=words)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, float16 or bfloat16 (default: auto)")


def _setting(parser: argparse.ArgumentParser, model, name: str, **options) -> None:
    field = model.model_fields[name]
    words = f"{field.description} (default: {field.default})" if field.default is not None else field.description
    parser.add_argument(f"--{name.replace('_', '-')}", default=field.default, help=words.replace("%", "%%"), **options)


def request_of(options: argparse.Namespace) -> InjectionRequest:
    """Raises AlignError ``request-invalid``."""
    inherited = AlignSettings.model_fields.keys() & vars(options).keys()
    return injection_request.checked(
        {
            "teacher": options.teacher[0],
            "more_teachers": options.teacher[1:],
            "student": options.student,
            "prompts": options.prompts.name if options.prompts else "bundled samples",
            "calibration": options.calibration,
            "segments": options.segments,
            "device": options.device,
            "dtype": options.dtype,
            "settings": {name: getattr(options, name) for name in inherited},
            "injection": {name: getattr(options, name) for name in InjectSettings.model_fields},
        }
    )


def run(options: argparse.Namespace, documents_of: Callable[[], list[Document]], bar: Callable) -> int:
    """Carry the test out -> exit code: 1 where the student's own cache does not reproduce its logits.

    ``documents_of`` reads the prompts that the options name, ``bar`` is a context that gives a Progress.
    """
    asked = request_of(options)
    injection_request.check_causal(asked.settings.time)
    from transformers.utils import logging as transformers_logging

    from kvlab.inject import folder, perform
    from kvlab.models import ModelCache, geometry

    transformers_logging.disable_progress_bar()
    documents = documents_of()
    for name in {*options.teacher, options.student}:
        geometry(name)  # refuse what cannot be used before loading anything
    with bar() as progress:
        found = perform.compute(asked, documents, ModelCache(), progress)
    folder.write(found, options.out, options.language)
    with speaking(options.language):
        print(results.sentence(found))
        for note in found.notes:
            print(say("Note: {note}", note=translated(note)))
        print(say("Written: {files}", files=f"{options.out}/{results.JSON_NAME}, {folder.REPORT_NAME}"))
    return 0 if found.reproduces else 1
