"""Requests: the choices offered are those that exist, and a wrong setting is named."""

from typing import get_args

import pytest

from kvlab.align import layers, projectors, time_rules
from kvlab.errors import AlignError
from kvlab.request import align, inject
from kvlab.results.alignment.timeline import RULE_COLOUR

PAIR = {"teacher": "demo/teacher", "student": "demo/student"}


def test_choices_are_the_rules_that_exist():
    assert set(get_args(align.TimeRule)) == set(time_rules.RULES) | time_rules.HEAD_RULES
    assert set(RULE_COLOUR) == set(time_rules.RULES)
    assert set(get_args(align.LayerRule)) == set(layers.RULES)
    assert set(get_args(align.Projector)) == set(projectors.PROJECTORS)


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
