"""Write tables as CSV that a spreadsheet opens without running anything in them.

Tokens, document names and model names are other people's text, and "=" is a token. A text that a spreadsheet would
read as a formula gets an apostrophe in front (OWASP, "CSV Injection"). Numbers stay numbers, also negative ones and
numbers in text.
"""

import csv

import pandas as pd

from kvlab.request.tables import is_number

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # first characters of a formula


def neutral(value: object) -> object:
    """Return the cell; put an apostrophe in front of a text that begins like a formula."""
    begins = isinstance(value, str) and (value.startswith(FORMULA) or value.lstrip().startswith(FORMULA))
    return f"'{value}" if begins and not is_number(value) else value


def safe_csv(frame: pd.DataFrame) -> str:
    """Return header and rows without the index, one line feed per row; NaN is an empty cell."""
    cells = frame.copy()
    for position, kind in enumerate(frame.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            cells.isetitem(position, [neutral(value) for value in frame.iloc[:, position]])
    cells.columns = [neutral(name) for name in frame.columns]
    # The csv module does not quote a bare carriage return, but readers end the row there.
    returns = any("\r" in cell for cell in [*cells.columns, *cells.to_numpy().flat] if isinstance(cell, str))
    quoting = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
    return cells.to_csv(index=False, lineterminator="\n", quoting=quoting)
