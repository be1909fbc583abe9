"""Flags of the command line <-> settings of a pydantic model. No torch here.

Every setting has a flag with the setting's description; a flag left out leaves its setting alone. ``--max_tokens`` and
``--max-tokens`` are the same flag. ``--time`` names a time rule; with a time, as Slurm's own flag has it, it is the
limit of a job (``--time-limit``).
"""

import argparse
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kvlab.request.command import name_of, settings_of

METAVAR = {int: "N", float: "X", str: "TEXT"}
A_TIME = re.compile(r"\d[\d:-]*")  # 90, 2:00:00, 1-12


class Parser(argparse.ArgumentParser):
    """A parser that reads flags as the first lines of this file say, in its commands too."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)
        return super().parse_known_args([*_limits(map(_dashed, given[:end])), *given[end:]], namespace)


def _dashed(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _limits(arguments: Iterable[str]) -> Iterator[str]:
    """Yield the arguments, with ``--time-limit`` instead of ``--time`` before a time."""
    for argument, following in pairwise([*arguments, ""]):
        name, _, value = argument.partition("=")
        if name == "--time" and A_TIME.fullmatch(value or following):
            argument = argument.replace("--time", "--time-limit", 1)
        yield argument


def add(
    parser: argparse.ArgumentParser, model: type[BaseModel], leave_out: Collection[str] = (), defaults: Any = None
) -> None:
    """Add a flag for every setting of ``model`` not in ``leave_out``; in the help, ``defaults`` come first."""
    for path, field in settings_of(model):
        if path not in leave_out:
            words = _help(field, (defaults or {}).get(path, field.default))
            kind = {"required": field.is_required(), "default": argparse.SUPPRESS, **_kind(field.annotation)}
            parser.add_argument(f"--{name_of(path)}", dest=path, help=words, **kind)


def given(model: type[BaseModel], options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the flags name, nested like ``model``."""
    fields: dict[str, Any] = {}
    for path, _ in settings_of(model):
        if path not in vars(options):
            continue
        *parents, name = path.split(".")
        inner = fields
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = vars(options)[path]
    return fields


def path_of(model: str) -> str:
    """Return the name of a model; a name with ``..`` or ``~`` is a path here, from where the command was typed."""
    if ".." in model.split("/") or model.startswith("~"):
        return str(Path(os.path.expanduser(model)).resolve())
    return model


def _help(field: FieldInfo, default: Any) -> str:
    words = field.description or ""
    if get_origin(field.annotation) is tuple and _plain(get_args(field.annotation)[0]) is str:
        words += "; repeat for several, which stand instead of the default"
    elif default is not None and not field.is_required():
        words += f" (default: {_shown(default)})"
    return words.replace("%", "%%")


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return " ".join(map(str, default)) or "none"
    return str(default)


def _kind(annotation: Any) -> dict[str, Any]:
    """Return the arguments of argparse for a type: one flag takes several numbers, each text its own flag."""
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(annotation) is Literal:
        return {"choices": get_args(annotation)}
    if get_origin(annotation) is tuple:
        inner = _plain(get_args(annotation)[0])
        repeated = {"action": "append"} if inner is str else {"nargs": "*", "type": inner}
        return {**repeated, "metavar": METAVAR[inner]}
    kind = _plain(annotation)
    return {"type": kind, "metavar": METAVAR[kind]}


def _plain(annotation: Any) -> Any:
    """Return the type inside an annotated or optional one."""
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[0]
    return next((kind for kind in get_args(annotation) if kind is not NoneType), annotation)
