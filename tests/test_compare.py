"""Only the settings that differ, nested ones dotted."""

from __future__ import annotations

from kvlab.runs.settings_diff import MISSING, differences, flat


def test_nested_names_are_dotted():
    assert flat({"a": {"b": {"c": 1}, "d": []}, "e": {}}) == {"a.b.c": 1, "a.d": [], "e": {}}


def test_only_what_differs_in_order():
    runs = [
        {"seed": 0, "lr": 1e-3, "teachers": ["a"], "thresholds": {"memory": 0.8, "rank": 1}},
        {"seed": 0, "lr": 2e-3, "teachers": ["a"], "thresholds": {"memory": 0.9, "rank": 1.0}},
        {"seed": 0, "lr": 1e-3, "teachers": ["a", "b"], "thresholds": {"memory": 0.8, "rank": 1}},
    ]
    assert differences(runs) == {
        "lr": [1e-3, 2e-3, 1e-3],
        "teachers": [["a"], ["a"], ["a", "b"]],
        "thresholds.memory": [0.8, 0.9, 0.8],
    }


def test_missing_is_not_none_and_types_count():
    assert differences([{"a": None}, {}]) == {"a": [None, MISSING]}
    assert list(differences([{"a": 1, "b": "1", "c": (1, 2)}, {"a": True, "b": 1, "c": [1, 2]}])) == ["a", "b"]


def test_odd_values_and_no_runs():
    assert differences([]) == {} and differences([{"a": 1}]) == {}
    assert list(differences([{1: {2: "x"}, "d": float("nan")}, {1: {2: "y"}, "d": float("nan")}])) == ["1.2"]


def test_names_of_several_types_in_a_list_of_tables():
    assert list(differences([{"a": [{1: 0, "b": 0}]}, {"a": [{1: 1, "b": 0}]}])) == ["a"]


def test_a_table_nested_without_end_ends():
    inner: dict = {}
    for _ in range(500):
        inner = {"a": inner}
    assert len(flat(inner)) == 1
