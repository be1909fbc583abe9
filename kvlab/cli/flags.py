"""Flags of the command line <-> fields of an AnalysisRequest; of every command that reads caches. No torch here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from kvlab.language import DEFAULT, LANGUAGES
from kvlab.request import align
from kvlab.request.align import AlignSettings, AnalysisRequest
from kvlab.request.segments import Markers, Source

CHOICES = {
    "time": align.TimeRule,
    "layers": align.LayerRule,
    "search": align.Search,
    "projector": align.Projector,
    "keys": align.KeySpace,
}
NUMBERS = ("folds", "sinks", "max_tokens", "batch_tokens", "sample_tokens", "seed")


def add(parser: argparse.ArgumentParser, written: str, spoken: str) -> None:
    """``written``: what the folder gets; ``spoken``: what the language is of."""
    parser.add_argument("--teacher", required=True, action="append", metavar="NAME", help="repeat for several teachers")
    parser.add_argument("--student", required=True, metavar="NAME", help="demo/student, a Hub id, a local folder")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help=".txt .jsonl .csv .parquet (default: the samples)")
    parser.add_argument("--column", help="the column of a .csv or .parquet file that holds the prompts")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help=f"where {written}")
    for name, choices in CHOICES.items():
        setting(parser, AlignSettings, name, choices=get_args(choices))
    for name in NUMBERS:
        setting(parser, AlignSettings, name, type=int)
    setting(parser, AlignSettings, "chat", action="store_true")
    setting(parser, AlignSettings, "random_teacher", action=argparse.BooleanOptionalAction)
    setting(parser, AnalysisRequest, "calibration", choices=get_args(align.Calibration))
    setting(parser, AnalysisRequest, "segments", choices=get_args(Source))
    for name in Markers.model_fields:
        parser.add_argument(
            f"--{name}-marker",
            action="append",
            metavar="TEXT",
            help=f"{Markers.model_fields[name].description}; repeat for several, instead of the built-in ones",
        )
    words = f"of {spoken}: {' or '.join(LANGUAGES)} (default: {DEFAULT})"
    parser.add_argument("--language", choices=list(LANGUAGES), default=DEFAULT, help=words)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, float16 or bfloat16 (default: auto)")


def setting(parser: argparse.ArgumentParser, model: type[BaseModel], name: str, **options: Any) -> None:
    """The flag of one field, with the field's own description and default."""
    field = model.model_fields[name]
    words = f"{field.description} (default: {field.default})" if field.default is not None else field.description
    parser.add_argument(f"--{name.replace('_', '-')}", default=field.default, help=words.replace("%", "%%"), **options)


def fields_of(options: argparse.Namespace) -> dict[str, Any]:
    """For ``request.checked``; settings that the command has no flag for keep their defaults."""
    given = AlignSettings.model_fields.keys() & vars(options).keys()
    return {
        "teacher": options.teacher[0],
        "more_teachers": options.teacher[1:],
        "student": options.student,
        "prompts": options.prompts.name if options.prompts else "bundled samples",
        "calibration": options.calibration,
        "segments": options.segments,
        "markers": {name: of for name in Markers.model_fields if (of := getattr(options, f"{name}_marker"))},
        "device": options.device,
        "dtype": options.dtype,
        "settings": {name: getattr(options, name) for name in given},
    }
