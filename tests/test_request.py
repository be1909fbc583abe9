"""Requests: the choices offered are those that exist, and a wrong setting is named."""

import json
import shutil
from typing import get_args

import pytest

from kvlab.align import layers
from kvlab.errors import AlignError
from kvlab.host import bundled
from kvlab.inject.controls import ROWS
from kvlab.language import Message, speaking
from kvlab.request import align, inject, train
from kvlab.results.alignment import data as analysis
from kvlab.results.function import data as function
from kvlab.results.function.data import CONTROLS

PAIR = {"teacher": "demo/teacher", "student": "demo/student"}


def test_choices_are_those_that_exist():
    times = ("floor", "exact", "ceil", "overlap", "linear", "nearest", "segment")
    assert (get_args(align.TimeRule), get_args(train.TimeRule)) == ((*times, "rkv"), times)
    assert set(get_args(align.LayerRule)) == set(layers.RULES)
    assert get_args(align.Projector) == ("ridge", "structured", "group-mean")
    assert CONTROLS == ("mean", "shuffled", "identity", "random") and tuple(ROWS) == CONTROLS[:2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"student": "demo/student"}, r"teacher: Field required"),
        (PAIR | {"settings": {"time": "magic"}}, r"settings.time.*'floor'.*Found 'magic'"),
        (PAIR | {"settings": {"folds": 1}}, r"settings.folds.*greater than or equal to 2"),
        (PAIR | {"settings": {"tiem": "floor"}}, r"settings.tiem.*Extra inputs"),
        (PAIR | {"device": "tpu"}, r"device.*cuda"),
        (None, "a table of settings"),
    ],
)
def test_a_wrong_setting_is_named(fields, message):
    with pytest.raises(AlignError, match=message):
        align.checked(fields)


@pytest.mark.parametrize(("of", "command"), [(align, "align"), (inject, "inject")])
def test_a_wrong_setting_points_to_the_help_of_its_own_command(of, command):
    with pytest.raises(AlignError) as caught:
        of.checked(PAIR | {"settings": {"folds": 1}})
    assert f"python -m kvlab {command} --help" in str(caught.value)


def test_defaults_are_the_recommended_run():
    settings = align.checked(PAIR).settings
    assert (settings.time, settings.layers, settings.projector, settings.keys) == (
        "floor",
        "heldout",
        "ridge",
        "pre-rope",
    )


@pytest.mark.parametrize(
    ("sample", "read", "name", "where"),
    [
        (bundled.ANALYSIS, analysis.read, analysis.JSON_NAME, "controls"),
        (bundled.FUNCTION, function.read, function.JSON_NAME, "data"),
    ],
)
def test_finished_words_of_older_results_are_shown_as_they_are(sample, read, name, where, tmp_path):
    folder = shutil.copytree(sample, tmp_path / "old")
    fields = json.loads((folder / name).read_text())
    fields["notes"] = ["done", "Only 3 tokens are scored."]
    fields[where]["random_teacher"] = "not measured: 2 GiB free"
    (folder / name).write_text(json.dumps(fields))
    result = read(folder)
    with speaking("zh"):
        assert list(map(str, result.notes)) == fields["notes"]
        assert str(getattr(result, where)["random_teacher"]) == "not measured: 2 GiB free"
    result.notes.append(Message("Only {n} documents are judged: standard errors are rough.", n=3))
    (analysis if where == "controls" else function).write(result, folder)
    again = read(folder)
    assert again.notes == result.notes and again.notes[2].values == {"n": 3}
