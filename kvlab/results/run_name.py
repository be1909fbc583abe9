"""Call runs by what they are: the pair, the prompts, what is special about them; unless somebody named them."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from kvlab.language import phrase, plural, say
from kvlab.request.align import AlignSettings, prompt_source
from kvlab.request.prompts import RUN_PROMPTS
from kvlab.request.train import DEMO_DATA, OWN_PROMPTS, TrainConfig
from kvlab.runs import labels, store

Fields = Mapping[str, Any]

CONTROLS = {
    "ce-only": phrase("CE only"),
    "shuffled-teacher": phrase("shuffled teacher"),
    "random-teacher": phrase("random teacher"),
}
# Settings that a name tells where they are not the default.
OF_ANALYSES = ("time", "rows", "layers", "projector", "keys", "row_weights")
OF_TRAINING = ("map", "fusion", "trainable", "kv_loss", "time", "layers", "row_weights", "lr", "batch_size", "seed")


def automatic(models: Sequence[str]) -> str:
    """Name a run's folder after its models: "org/a" and "b" give "a-b"."""
    return "-".join(map(_short, models))


def of_run(folder: Path, kind: str, given: str) -> str:
    """Return the name of a run in the current language.

    ``given``: the name in its status, which is shown first where somebody chose it.
    """
    if own := labels.read(folder).name:
        return own
    config = config_of(folder)
    models = models_of(config)
    if not models:
        return given
    parts = [say("{teachers} → {student}", teachers=" + ".join(map(_short, models[:-1])), student=_short(models[-1]))]
    if given not in ("", folder.name, automatic(models)):
        parts.insert(0, given)
    prompts = prompts_of(config, kind)
    return " · ".join([*parts, *([prompts] if prompts else []), *special(config, kind)])


def models_of(config: Fields) -> list[str]:
    """Return the teachers and, last, the student; empty for settings that do not name them."""
    teachers, student = config.get("teachers"), config.get("student")
    if teachers is None and isinstance(config.get("teacher"), str):
        teachers = [config["teacher"], *(config.get("more_teachers") or ())]
    whole = isinstance(teachers, list | tuple) and teachers and isinstance(student, str)
    return [str(name) for name in (*teachers, student)] if whole else []


def prompts_of(config: Fields, kind: str) -> str:
    """Return what a run read, in words."""
    if kind != "training":
        return prompt_source(str(config.get("prompts") or ""))
    data = str(config.get("data", DEMO_DATA))
    known = {DEMO_DATA: say("bundled text"), OWN_PROMPTS: say("own prompts")}
    return known[data] if data in known else _short(data)


def special(config: Fields, kind: str) -> list[str]:
    """Return what tells a run from the recommended one of its kind: the control, a rule, the steps."""
    if kind == "training":
        told = [say(CONTROLS[config["control"]])] if config.get("control") in CONTROLS else []
        usual, names = TrainConfig.model_fields, OF_TRAINING
        settings = config
    else:
        told, usual, names = [], AlignSettings.model_fields, OF_ANALYSES
        settings = config.get("settings") if isinstance(config.get("settings"), dict) else {}
    told += [
        _value(name, settings[name]) for name in names if name in settings and settings[name] != usual[name].default
    ]
    steps = config.get("max_steps")
    if kind == "training" and isinstance(steps, int) and steps != TrainConfig.model_fields["max_steps"].default:
        told.append(plural(steps, "{n} step", "{n:,} steps"))
    return told


def documents_of(folder: Path) -> int | None:
    """Count the documents that were given to a run; None where it read others than given ones."""
    try:
        file = (folder / RUN_PROMPTS).lstat()
    except OSError:
        return None
    return _lines(folder / RUN_PROMPTS, file.st_mtime_ns)


@lru_cache(maxsize=2000)
def _lines(path: Path, written: int) -> int | None:
    try:
        with open(path, "rb", opener=store.private) as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    except OSError:
        return None


def config_of(folder: Path) -> Fields:
    """Return the settings that name a run, cached until its files change: from its status, else from its YAML."""
    for name, read in ((store.STATUS, _about), (store.CONFIG, _config)):
        try:
            file = (folder / name).lstat()
        except OSError:
            continue
        if (settings := read(folder, file.st_mtime_ns, file.st_size)) is not None:
            return settings
    return {}


@lru_cache(maxsize=2000)
def _about(folder: Path, written: int, size: int) -> Fields | None:
    about = store.read_status(folder).get(store.ABOUT)
    return about if isinstance(about, dict) else None


@lru_cache(maxsize=2000)
def _config(folder: Path, written: int, size: int) -> Fields:
    return store.read_config(folder) if size < 1 << 20 else {}


def _value(name: str, value: object) -> str:
    return str(value) if isinstance(value, str) else f"{name} {value:g}" if isinstance(value, int | float) else name


def _short(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1]
