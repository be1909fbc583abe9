"""Read and write what people call a run: its name, its tags, and whether it is the baseline of others.

They are kept in labels.json of its folder, which no run process touches.
"""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from kvlab.runs import store
from kvlab.runs.lenient import Lenient, Text

LABELS = "labels.json"
NAME_LIMIT, TAG_LIMIT, MOST_TAGS = 80, 30, 12  # characters, characters, tags


def _texts(value: object) -> list[str]:
    return [part for part in value if isinstance(part, str)] if isinstance(value, list | tuple) else []


class Labels(Lenient):
    """labels.json; an empty name means that the run is called by what it is."""

    name: Text = ""
    tags: Annotated[tuple[str, ...], BeforeValidator(_texts)] = ()
    baseline: Annotated[bool, Field(strict=True)] = False


def read(folder: Path) -> Labels:
    return Labels.read(folder / LABELS)


def write(folder: Path, **changes: Any) -> None:
    """Change the labels of a run: ``name``, ``tags``, ``baseline``; empty ones remove the file.

    Raises RunError ``run-not-found``, ``runs-unwritable``, ``disk-full``.
    """
    store.find(folder.parent, folder.name)
    fields = read(folder).model_dump() | changes
    labels = {
        "name": _line(fields["name"], NAME_LIMIT),
        "tags": list(dict.fromkeys(tag for part in fields["tags"] if (tag := _line(part, TAG_LIMIT))))[:MOST_TAGS],
        "baseline": bool(fields["baseline"]),
    }
    with store.disk_errors(folder):
        if any(labels.values()):
            store.replace(folder / LABELS, json.dumps(labels, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        else:
            (folder / LABELS).unlink(missing_ok=True)


def _line(text: str, limit: int) -> str:
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())[:limit].strip()
