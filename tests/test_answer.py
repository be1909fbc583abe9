"""The answer of known cases: the sample, random weights, templated questions, too few tokens, a model with itself.

``answers.json`` holds what real analyses of the demo models' sizes stored of the last four: random weights in both
models on 40 samples; 36 questions of one template; a student with itself on 24 samples; three pasted sentences.
"""

import dataclasses
import json
from pathlib import Path

import pytest

from kvlab.host import bundled
from kvlab.language import Message, speaking
from kvlab.results import answer
from kvlab.results.alignment.data import Alignment, HeadScore, numbers, read
from kvlab.results.function import data as function

STORED = json.loads((Path(__file__).parent / "answers.json").read_text(encoding="utf-8"))
VERDICTS = {"sample": "Yes", "random": "No", "templated": "No", "few": "Cannot be told", "itself": "Yes"}


@pytest.fixture(scope="module")
def sample():
    return read(bundled.ANALYSIS)


@pytest.fixture(scope="module")
def tested():
    return function.read(bundled.FUNCTION)


def case(sample: Alignment, name: str) -> Alignment:
    if name == "sample":
        return sample
    stored = STORED[name]
    columns = numbers(stored["heads"])
    heads = [HeadScore(**dict(zip(columns, row))) for row in zip(*columns.values())]
    notes = [Message.read(note) for note in stored["notes"]]
    return dataclasses.replace(sample, heads=heads, data=sample.data | stored["data"], notes=notes)


@pytest.mark.parametrize("name", VERDICTS)
def test_the_answer_of_known_cases(sample, name):
    found = answer.of_analysis(case(sample, name))
    assert found.words == VERDICTS[name]
    assert found.line().startswith(f"{VERDICTS[name]}. ") and len(found.why.split()) <= 40
    with speaking("zh"):
        assert answer.of_analysis(case(sample, name)).words in ("是", "否", "无法判断")
