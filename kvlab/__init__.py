"""kvlab: can a teacher's KV cache be aligned with a student's?"""

import os
from pathlib import Path

__version__ = "0.1.0"

PACKAGE = Path(__file__).resolve().parent
PROJECT = PACKAGE.parent

# Read when torch first loads OpenMP. By default its idle threads spin, and beside any other busy process every small
# operation then waits for a core: the sample analysis took over 200 s instead of 12 on two cores with one taken.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def __getattr__(name: str) -> object:
    """Load what programs use of kvlab when it is asked for: ``load_map``."""
    if name == "load_map":
        from importlib import import_module

        return import_module("kvlab.inject.map_file").load_map
    raise AttributeError(f"module 'kvlab' has no attribute {name!r}")
