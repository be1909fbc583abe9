"""kvlab: can a teacher's KV cache be aligned with a student's?

For programs: ``kvlab.align``, ``inject``, ``certify``, ``train``, ``load_map``, ``load_certificate``, ``load_model``
and ``fingerprint`` are the functions of ``kvlab.api``, imported when they are first used.
"""

import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvlab.api import align, certify, fingerprint, inject, load_certificate, load_map, load_model, train

__version__ = "0.1.0"
__all__ = ["align", "certify", "fingerprint", "inject", "load_certificate", "load_map", "load_model", "train"]

PACKAGE = Path(__file__).resolve().parent
PROJECT = PACKAGE.parent
ROOMS = ("align", "inject", "train")  # packages, and functions too

# Read when torch first loads OpenMP. By default its idle threads spin, and beside any other busy process every small
# operation then waits for a core: the sample analysis took over 200 s instead of 12 on two cores with one taken.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


class _Room(ModuleType):
    """A package that is also the function of its name: ``kvlab.align(...)`` beside ``kvlab.align.run``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(import_module("kvlab.api"), self.__name__.rpartition(".")[2])(*args, **kwargs)


def callable_room(name: str) -> None:
    """Let the package ``kvlab.NAME`` be called as the function ``kvlab.api.NAME``."""
    sys.modules[name].__class__ = _Room


def __getattr__(name: str) -> object:
    if name in ROOMS:
        return import_module(f"kvlab.{name}")
    if name == "load_map":  # with torch and safetensors alone
        return import_module("kvlab.inject.map_file").load_map
    if name in __all__:
        return getattr(import_module("kvlab.api"), name)
    raise AttributeError(f"module 'kvlab' has no attribute {name!r}")
