"""Tables as CSV that a spreadsheet opens without running anything in them.

Tokens, document names and model names are other people's text, and "=" is a token. A text that a spreadsheet would
take for a formula gets an apostrophe in front (OWASP, "CSV Injection"); numbers stay
numbers, negative ones and written ones too.
"""

import csv

import pandas as pd

from kvlab.request.tables import is_number

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # what a formula begins with


def neutral(value: object) -> object:
    """The same cell; a text that begins like a formula with an apostrophe in front."""
    begins = isinstance(value, str) and (value.startswith(FORMULA) or value.lstrip().startswith(FORMULA))
    return f"'{value}" if begins and not is_number(value) else value


def safe_csv(frame: pd.DataFrame) -> str:
    """Header and rows without the index, one line feed per row; what is not a number is an empty cell."""
    cells = frame.copy()
    for position, kind in enumerate(frame.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            cells.isetitem(position, [neutral(value) for value in frame.iloc[:, position]])
    cells.columns = [neutral(name) for name in frame.columns]
    # The csv module leaves a bare carriage return unquoted, and readers would end the row there.
    returns = any("\r" in cell for cell in [*cells.columns, *cells.to_numpy().flat] if isinstance(cell, str))
    quoting = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
    return cells.to_csv(index=False, lineterminator="\n", quoting=quoting)
