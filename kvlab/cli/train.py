"""``python -m kvlab train``: flags <-> TrainConfig. Every setting is a flag of its own name; no torch here.

What a flag says stands above a file's, and a file's above the defaults, but for the checklist's two switches, which are
off unless a flag or the file turns them on.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml

from kvlab.errors import KvlabError, TrainError
from kvlab.language import Message
from kvlab.request.train import TrainConfig, checked, switches_out
from kvlab.runs import store
from kvlab.train.process import first_process, perform

# Said in their own way on the command line, or in a file only.
ELSEWHERE = {"teachers", "student", "precision", "thresholds", "fusion_weights"}


def add(parser: argparse.ArgumentParser) -> None:
    """The flags of a training run."""
    parser.add_argument("--teacher", action="append", metavar="NAME", help="repeat for several teachers")
    parser.add_argument("--student", metavar="NAME", help="demo/student, a Hub id, a local folder")
    parser.add_argument("--output_dir", required=True, type=Path, metavar="DIR", help="the folder of the run")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in YAML, such as a run's config.yaml")
    parser.add_argument("--fusion_weights", type=float, nargs="+", metavar="W", help="of fixed fusion, one per teacher")
    half = parser.add_mutually_exclusive_group()
    half.add_argument("--fp16", dest="precision", action="store_const", const="fp16", help="mixed precision, float16")
    half.add_argument("--bf16", dest="precision", action="store_const", const="bf16", help="mixed precision, bfloat16")
    for name, field in TrainConfig.model_fields.items():
        if name not in ELSEWHERE:
            default = "off" if name in SWITCHES else field.default
            words = f"{field.description} (default: {default})".replace("%", "%%")
            parser.add_argument(f"--{name}", default=None, help=words, **_options(field.annotation))


SWITCHES = ("use_kv_projector", "use_safe_resample")


def _options(annotation: Any) -> dict[str, Any]:
    if annotation is bool:
        return {"action": "store_true"}
    if get_origin(annotation) is Literal:
        return {"choices": get_args(annotation)}
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType] or [annotation]
    return {"type": kinds[0]}


def config_of(options: argparse.Namespace) -> TrainConfig:
    """Raises TrainError ``config-unreadable`` and ``config-invalid``."""
    fields: dict[str, Any] = dict.fromkeys(SWITCHES, False) | _settings(options.config)
    fields |= {"teachers": options.teacher} if options.teacher else {}
    for name in TrainConfig.model_fields:
        if getattr(options, name, None) is not None:
            fields[name] = getattr(options, name)
    missing = [flag for flag, name in (("--teacher", "teachers"), ("--student", "student")) if name not in fields]
    if missing:
        raise TrainError(
            "config-invalid",
            expected=Message("{flags}, or a --config that names them", flags=" and ".join(missing)),
            found=Message("neither"),
            remedy=Message("name the models, for example: --teacher demo/teacher --student demo/student"),
        )
    return checked(fields)


def _settings(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        fields = yaml.safe_load(file.read_text(encoding="utf-8"))
        if isinstance(fields, dict):
            return switches_out(fields)
        found = "no table of settings"
    except (OSError, ValueError, yaml.YAMLError) as error:
        found = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    raise TrainError(
        "config-unreadable",
        expected=Message("settings in YAML in {file}", file=file),
        found=found,
        remedy=Message("start from the config.yaml of a run"),
    )


def run(options: argparse.Namespace) -> int:
    """Carry the run out here, in the foreground -> exit code; a folder with a checkpoint goes on from it.

    Raises TrainError as ``config_of``, and ``output-in-use`` for a folder in which another run has begun.
    """
    config, folder = config_of(options), options.output_dir.absolute()
    _refuse_another(folder, config)
    with store.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        draft = folder / f".{store.CONFIG}.{os.getpid()}.tmp"  # several processes may write the same
        draft.write_text(text, encoding="utf-8")
        draft.replace(folder / store.CONFIG)
    if first_process():
        store.write_status(folder, kind="training", name=folder.name)
    code = perform(folder, lambda words: print(words, flush=True))
    error = store.read_status(folder).get("error")
    if error and first_process():
        print(f"kvlab: {KvlabError.from_dict(error)}", file=sys.stderr)
    return code


def _refuse_another(folder: Path, config: TrainConfig) -> None:
    try:
        same = checked(store.read_config(folder)) == config
    except TrainError:
        same = False
    if not same and (folder / store.METRICS).exists():
        raise TrainError(
            "output-in-use",
            expected=Message("a new folder, or one of the same run: {folder}", folder=folder),
            found=Message("metrics of a run with other settings"),
            remedy=Message(
                "choose another --output_dir, or go on with that run: --config DIR/config.yaml --output_dir DIR"
            ),
        )
