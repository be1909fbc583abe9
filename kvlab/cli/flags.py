"""Flags of the command line <-> settings of a pydantic model. No torch here.

Every setting is a flag with the setting's own description; a flag that is not given leaves its setting alone. Flags are
written with - or with _, as one likes.
"""

import argparse
import sys
from collections.abc import Collection, Iterator, Sequence
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

METAVAR = {int: "N", float: "X", str: "TEXT"}
# How flags are called that are not just the setting's own name.
NAMED = {"teachers": "teacher", "markers.reasoning": "reasoning-marker", "markers.answer": "answer-marker"}


class Parser(argparse.ArgumentParser):
    """A parser, also of the commands in it, that reads ``--max_tokens`` as ``--max-tokens``."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)
        return super().parse_known_args([*map(_dashed, given[:end]), *given[end:]], namespace)


def _dashed(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def add(
    parser: argparse.ArgumentParser, model: type[BaseModel], leave_out: Collection[str] = (), defaults: Any = None
) -> None:
    """Add a flag for every setting of ``model``, except those in ``leave_out``; the help says ``defaults`` first."""
    for path, field in _settings(model):
        if path not in leave_out:
            words = _help(field, (defaults or {}).get(path, field.default))
            kind = {"required": field.is_required(), "default": argparse.SUPPRESS, **_kind(field.annotation)}
            parser.add_argument(f"--{name_of(path)}", dest=path, help=words, **kind)


def given(model: type[BaseModel], options: argparse.Namespace) -> dict[str, Any]:
    """The settings that the flags name, nested as ``model`` is."""
    fields: dict[str, Any] = {}
    for path in (path for path, _ in _settings(model) if path in vars(options)):
        *parents, name = path.split(".")
        inner = fields
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = vars(options)[path]
    return fields


def name_of(path: str) -> str:
    """The name of a setting's flag: ``settings.max_tokens`` is max-tokens, ``thresholds.rank`` is threshold-rank."""
    name = path.rpartition(".")[2].replace("_", "-")
    return NAMED.get(path) or (f"threshold-{name}" if path.startswith("thresholds.") else name)


def _settings(model: type[BaseModel], parent: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting of a model and of the models in it, with its place: "settings.time"."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _settings(field.annotation, f"{parent}{name}.")
        else:
            yield parent + name, field


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
    return " ".join(map(str, default)) or "none" if isinstance(default, tuple) else str(default)


def _kind(annotation: Any) -> dict[str, Any]:
    """How a value of this type is written: several numbers behind one flag, several texts behind a flag each."""
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
    """The type itself of an annotated or optional one."""
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[0]
    return next((kind for kind in get_args(annotation) if kind is not NoneType), annotation)
