"""``python -m kvlab train``: flags <-> TrainConfig. No torch here.

A flag overrides the file of --config, and the file overrides the defaults. The checklist's two switches are off unless
a flag or the file turns them on.
"""

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from kvlab.cli import flags, slurm
from kvlab.cli.output import refuse_foreign_run
from kvlab.errors import KvlabError, RunError, TrainError
from kvlab.host import launched, models, privacy
from kvlab.language import Message, say
from kvlab.request.settings import checked, unreadable
from kvlab.request.train import DEMO_DATA, OWN_PROMPTS, TrainConfig, switches_out
from kvlab.runs import locks, store, training
from kvlab.runs.run_queue import RUN_LOCK
from kvlab.train.process import perform

SWITCHES = ("use_kv_projector", "use_safe_resample")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a training run."""
    parser.add_argument("--output-dir", required=True, type=Path, metavar="DIR", help="the folder of the run")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in YAML, such as a run's config.yaml")
    precision = parser.add_mutually_exclusive_group()
    kind = {"dest": "precision", "action": "store_const", "default": argparse.SUPPRESS}
    precision.add_argument("--fp16", const="fp16", help="mixed precision, float16", **kind)
    precision.add_argument("--bf16", const="bf16", help="mixed precision, bfloat16", **kind)
    slurm.add(parser)
    flags.add(parser, TrainConfig, defaults={**dict.fromkeys(SWITCHES, "off"), "student": None})


def config_of(options: argparse.Namespace) -> TrainConfig:
    """Return the settings that the flags and the file name.

    Raises TrainError ``config-unreadable`` and ``config-invalid``.
    """
    fields = dict.fromkeys(SWITCHES, False) | settings_in(options.config)
    given = flags.given(TrainConfig, options)
    if isinstance(fields.get("thresholds"), dict) and "thresholds" in given:
        given["thresholds"] = fields["thresholds"] | given["thresholds"]
    fields |= given
    missing = [f"--{flags.name_of(name)}" for name in ("teachers", "student") if name not in fields]
    if missing:
        raise TrainError(
            "config-invalid",
            expected=Message("{flags}, or a --config that names the models", flags=missing),
            found=Message("neither"),
            remedy=Message("name the models, for example: --teacher demo/teacher --student demo/student"),
        )
    if isinstance(fields["teachers"], list | tuple):
        fields["teachers"] = [flags.path_of(name) if isinstance(name, str) else name for name in fields["teachers"]]
    for name in ("student", "data"):
        if isinstance(fields.get(name), str):
            fields[name] = flags.path_of(fields[name])
    return checked(TrainConfig, fields)


def settings_in(file: Path | None) -> dict[str, Any]:
    """Read the settings of a YAML file; none without a file. Raises TrainError ``config-unreadable``."""
    if file is None:
        return {}
    try:
        fields = yaml.safe_load(file.read_text(encoding="utf-8"))
        if isinstance(fields, dict):
            return switches_out(fields)
        found = Message("no table of settings")
    except (OSError, ValueError, yaml.YAMLError) as error:
        found = unreadable(error)
    raise TrainError(
        "config-unreadable",
        expected=Message("settings in YAML in {file}", file=file),
        found=found,
        remedy=Message("start from the config.yaml of a run"),
    )


def run(options: argparse.Namespace) -> int:
    """Train in the foreground and return the exit code. Resume from a checkpoint in the folder.

    Raises TrainError like ``config_of``, ``output-in-use`` for a folder of another run, and RunError ``output-foreign``
    for one that holds anything but a training run, ``run-busy`` for one that another process works in.
    """
    config, folder = anchored(config_of(options)), options.output_dir.absolute()
    if not launched.first():  # the first one looks at the folder and writes into it
        return perform(folder, config=config)
    place = slurm.asked(options)
    refuse_foreign_run(folder)
    with store.disk_errors(folder):
        privacy.make(folder)
    with locks.owned(folder / RUN_LOCK):
        _refuse_another(folder, config)
        # First, so that a folder of which the rest is missing can be told from a foreign one.
        store.write_status(folder, kind="training", name=folder.name)
        with store.disk_errors(folder):
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            store.replace(folder / store.CONFIG, text.encode())
        if place:
            waiting = {"state": "queued", "phase": "waiting", "error": None, "pid": None}
            store.write_status(folder, **waiting)
            listed = store.enlist(store.runs_root(), folder)
        else:
            _enlist(folder)
    if place:  # without the lock, which the job takes
        training.submit(listed, config.device, place)
        print(say("Submitted: {words}", words=listed.name))
        return 0
    with locks.owned(folder / RUN_LOCK):
        code = perform(folder, lambda words: print(words, flush=True))
        error = store.read_status(folder).get("error")
    if error:
        print(f"kvlab: {KvlabError.from_dict(error)}", file=sys.stderr)
    return code


def anchored(config: TrainConfig) -> TrainConfig:
    """Make the paths of the settings absolute, because the run can be resumed from another working folder."""

    def absolute(name: str) -> str:
        with suppress(KvlabError):
            return models.absolute(name)
        return name  # the run refuses it, and its record says so

    data = config.data if config.data in (DEMO_DATA, OWN_PROMPTS) else os.path.abspath(os.path.expanduser(config.data))
    teachers = tuple(map(absolute, config.teachers))
    return config.model_copy(update={"teachers": teachers, "student": absolute(config.student), "data": data})


def _enlist(folder: Path) -> None:
    """List the run among all runs; it trains all the same where that fails."""
    try:
        store.enlist(store.runs_root(), folder)
    except RunError as error:
        print(say("The run is not listed among the others. {error}", error=error), file=sys.stderr)


def _refuse_another(folder: Path, config: TrainConfig) -> None:
    same = False
    with suppress(TrainError):
        same = anchored(checked(TrainConfig, store.read_config(folder))) == config
    if not same and (folder / store.METRICS).exists():
        raise TrainError(
            "output-in-use",
            expected=Message("a new folder, or one of the same run: {folder}", folder=folder),
            found=Message("metrics of a run with other settings"),
            remedy=Message(
                "choose another --output_dir, or go on with that run: --config DIR/config.yaml --output_dir DIR"
            ),
        )
