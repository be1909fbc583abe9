"""No text of a user is a formula in a spreadsheet; numbers and the text itself stay."""

import csv
import io

import pandas as pd
import pytest

from kvlab.formulas import csv as as_csv
from kvlab.formulas import harmless


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1+1", " =1", '=HYPERLINK("http://x")']
)
def test_a_formula_is_text(text):
    assert harmless(text) == "'" + text


@pytest.mark.parametrize("text", ["", "-", "=", "-1.5", "+3e4", "-inf", "run", "a=b", "–", "≠ 3", "小明"])
def test_other_text_stays(text):
    assert harmless(text) == text


def test_a_table_keeps_its_numbers():
    frame = pd.DataFrame({"=name": ["=1+1", 'a,"b"\n'], "r2": [-0.25, float("nan")], "n": [3, -4], "ok": [True, False]})
    rows = list(csv.reader(io.StringIO(as_csv(frame))))
    assert rows == [
        ["'=name", "r2", "n", "ok"],
        ["'=1+1", "-0.25", "3", "True"],
        ['a,"b"\n', "", "-4", "False"],
    ]
