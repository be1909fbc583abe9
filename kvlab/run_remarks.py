"""What the verdict remarked on a checkpoint: written in English, said in other languages from its numbers."""

from __future__ import annotations

from typing import Any

from kvlab.run_blocks import Quoted, Text, fill
from kvlab.run_chinese import NOT_LOADED, NOT_REACHED, REMARKS


def remark(checkpoint: dict[str, Any], language: str) -> Text:
    """``checkpoint``: a row of verdict.json; what no template knows is quoted in English. ``language``: "en", "zh"."""
    said = checkpoint.get("words") or ""
    if language == "en" or not said:
        return str(said)
    name, state = str(checkpoint.get("name")), str(checkpoint.get("state"))
    value, threshold, step = (numeric(checkpoint.get(key)) for key in ("value", "threshold", "step"))
    template = REMARKS.get(name)
    if name == "models loaded" and state != "pass":
        return NOT_LOADED.get(state, "")
    if template and "{value" in template and value is None:
        return fill(NOT_REACHED[state], step=int(step)) if state in NOT_REACHED and step is not None else ""
    if not template or ("{threshold" in template and threshold is None):
        return Quoted(str(said))
    return fill(template, value=value, threshold=threshold)


def numeric(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
