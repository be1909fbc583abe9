"""What the files of a folder that needs torch declare, read without importing them."""

import ast
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOMS = Path(__file__).parents[1]


def declared(folder: str) -> dict[str, dict[str, Any]]:
    """Return the constants of every module in a folder of kvlab, and as ``module`` where to import it from.

    By the constant ``NAME``, else by the file's name with dashes; sorted by ``PLACE``, then by file. Words that are
    named by ``phrase(...)`` count as constants.
    """
    modules = {}
    for path in sorted((ROOMS / folder).glob("[!_.]*.py")):
        constants = {"module": ".".join(("kvlab", *Path(folder).parts, path.stem))}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                value = node.value.args[0] if isinstance(node.value, ast.Call) and node.value.args else node.value
                with suppress(ValueError):  # what is computed is no constant
                    constants[node.targets[0].id] = ast.literal_eval(value)
        modules[constants.get("NAME", path.stem.replace("_", "-"))] = constants
    return dict(sorted(modules.items(), key=lambda module: module[1].get("PLACE", 100)))


PROJECTORS = declared("align/projections")
CONTROLS = declared("inject/controls")  # of the functional test
