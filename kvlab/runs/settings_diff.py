"""Compare the settings of several runs."""

import json
from collections.abc import Sequence
from typing import Any

MISSING = object()  # a setting that a run does not have
DEPTH = 20  # of nested tables; deeper ones are compared whole

Settings = dict[str, Any]


def flat(settings: Settings, prefix: str = "") -> Settings:
    """Flatten nested tables to dotted names: ``{"a": {"b": 1}}`` -> ``{"a.b": 1}``. Empty tables stay."""
    flattened: Settings = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value and prefix.count(".") < DEPTH:
            flattened |= flat(value, f"{prefix}{name}.")
        else:
            flattened[f"{prefix}{name}"] = value
    return flattened


def differences(runs: Sequence[Settings]) -> dict[str, list[Any]]:
    """Return dotted setting -> its value in each run or MISSING, for the settings that differ between runs."""
    tables = [flat(run) for run in runs]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = {name: [table.get(name, MISSING) for table in tables] for name in names}
    return {name: values for name, values in rows.items() if len({_comparable(value) for value in values}) > 1}


def _comparable(value: Any) -> str:
    """Return the same text for equal settings: 1 is 1.0 but not true, a tuple is a list, names have no order."""
    if value is MISSING:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        return json.dumps(value, sort_keys=True, default=str)
    except (TypeError, ValueError, RecursionError):  # names of several types in one table, as YAML allows
        return repr(value)
