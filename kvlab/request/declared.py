"""Read the constants of modules that need torch, without importing them."""

import ast
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOMS = Path(__file__).parents[1]


def declared(folder: str) -> dict[str, dict[str, Any]]:
    """Return name -> constants of every module in a folder of kvlab; ``module`` is its import path.

    The name is the constant ``NAME``, else the file's name with dashes. The order is that of ``PLACE``, then of the
    files. The argument of ``phrase(...)`` counts as a constant.
    """
    modules = {}
    for path in sorted((ROOMS / folder).glob("[!_.]*.py")):
        constants = {"module": ".".join(("kvlab", *Path(folder).parts, path.stem))}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                value = node.value.args[0] if isinstance(node.value, ast.Call) and node.value.args else node.value
                with suppress(ValueError):  # not a literal
                    constants[node.targets[0].id] = ast.literal_eval(value)
        modules[constants.get("NAME", path.stem.replace("_", "-"))] = constants
    return dict(sorted(modules.items(), key=lambda module: module[1].get("PLACE", 100)))


PROJECTORS = declared("align/projections")
CONTROLS = declared("inject/controls")  # of the functional test
