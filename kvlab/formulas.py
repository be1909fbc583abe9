"""Text for spreadsheets: a cell that a program would compute is made to be read (OWASP, CSV injection)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# What a spreadsheet takes for the beginning of a formula, also in full width.
_BEGINNINGS = tuple("=+-@＝＋－＠")


def harmless(text: str) -> str:
    """``=1+1`` -> ``'=1+1``; numbers and all other text as they are."""
    begun = text.lstrip()
    if len(begun) < 2 or not begun.startswith(_BEGINNINGS):
        return text
    try:
        float(begun)
    except ValueError:
        return "'" + text
    return text


def csv(frame: pd.DataFrame) -> str:
    """The table as comma-separated lines in which no text is a formula, the header's included."""
    safe = frame.map(lambda cell: harmless(cell) if isinstance(cell, str) else cell)
    return safe.rename(columns=lambda name: harmless(str(name))).to_csv(index=False, lineterminator="\n")
