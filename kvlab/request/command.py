"""The command line of a request, and the names of its flags: every setting has one."""

import shlex
from collections.abc import Collection, Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kvlab.request.settings import Request

# Flags that differ from the name of their setting.
NAMED = {"teachers": "teacher", "markers.reasoning": "reasoning-marker", "markers.answer": "answer-marker"}


def line(request: Request, *given: str, leave_out: Collection[str] = (), always: Collection[str] = ()) -> str:
    """Return the command that asks for the same: flags for the settings that are not the default.

    ``given``: further words of the command. ``leave_out``, ``always``: settings without a flag, and those with one in
    any case.
    """
    words = ["python", "-m", "kvlab", request.command, *given]
    for path, field in settings_of(type(request)):
        value = _value(request, path)
        if path in leave_out or value is None or (value == field.default and path not in always):
            continue
        flag = f"--{name_of(path)}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{name_of(path)}")
        elif isinstance(value, tuple) and value and isinstance(value[0], str):
            words += [word for part in value for word in (flag, part)]
        elif isinstance(value, tuple):
            words += [flag, *map(str, value)]
        else:
            words += [flag, str(value)]
    return shlex.join(words)


def name_of(path: str) -> str:
    """Name a setting's flag: ``settings.max_tokens`` is max-tokens, ``thresholds.rank`` is threshold-rank."""
    name = path.rpartition(".")[2].replace("_", "-")
    return NAMED.get(path) or (f"threshold-{name}" if path.startswith("thresholds.") else name)


def settings_of(model: type[BaseModel], parent: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every setting of a model and its inner models, with its path, such as "settings.time"."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_of(field.annotation, f"{parent}{name}.")
        else:
            yield parent + name, field


def _value(request: BaseModel, path: str) -> Any:
    value: Any = request
    for name in path.split("."):
        value = getattr(value, name)
    return value
