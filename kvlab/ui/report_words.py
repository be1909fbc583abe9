"""Words that the pages and the report of a run have in common: of its phases and checkpoints."""

from __future__ import annotations

from typing import Any

from kvlab.language import current, translated
from kvlab.run_blocks import Quoted, pieces
from kvlab.run_remarks import remark
from kvlab.run_words import WORDS


def phase(name: str) -> str:
    return WORDS[current()].get(f"phase {name}", name)


def checkpoint(name: str) -> str:
    return WORDS[current()].get(f"checkpoint {name}", name)


def mark(state: object) -> str | None:
    """Of a checkpoint: ✓, ✗ or … with a word; None for a state that there is not."""
    return WORDS[current()][str(state)] if state in ("pass", "fail", "pending") else None


def remarked(row: dict[str, Any]) -> str:
    """What the verdict remarked on a checkpoint, a row of verdict.json."""
    said = pieces(remark(row, current()))
    return "".join(translated(part.text) if isinstance(part, Quoted) else part for part in said)
