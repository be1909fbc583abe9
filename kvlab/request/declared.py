"""What the files of a folder that needs torch declare, read without importing them."""

from __future__ import annotations

import ast
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOMS = Path(__file__).parents[1]


def declared(folder: str) -> dict[str, dict[str, Any]]:
    """Return the constants of every module in a folder of kvlab, by its name as users write it.

    Sorted by the constant ``PLACE``, then by name. Words that are named by ``phrase(...)`` count as constants.
    """
    modules = {}
    for path in sorted((ROOMS / folder).glob("[!_.]*.py")):
        constants = modules[path.stem.replace("_", "-")] = {}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                value = node.value.args[0] if isinstance(node.value, ast.Call) and node.value.args else node.value
                with suppress(ValueError):  # what is computed is no constant
                    constants[node.targets[0].id] = ast.literal_eval(value)
    return dict(sorted(modules.items(), key=lambda module: module[1].get("PLACE", 100)))


PROJECTORS = declared("align/projections")
