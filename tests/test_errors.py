"""Errors as data: three parts that survive JSON, and the operating system's reasons."""

import json
import os

from kvlab.errors import SYSTEM, KvlabError, ModelError, system_reason
from kvlab.language import Message, speaking


def test_an_error_is_the_same_after_json_in_either_language():
    inner = Message("line {n}", n=3)
    error = ModelError(
        "odd", expected=Message("{where}: {problem}", where=inner, problem="done"), found="x", remedy="y"
    )
    again = KvlabError.from_dict(json.loads(json.dumps(error.to_dict())))
    assert (again.kind, again.expected, again.message) == ("odd", error.expected, error.message)
    assert str(again) == "Expected line 3: done. Found x. What to do: y"
    with speaking("zh"):
        assert str(again.expected) == "第 3 行：done"  # what is a value stays as it is


def test_numbers_that_are_no_json_come_back_as_unknown():
    for value, shown in ((2.0, "2"), (float("inf"), "–"), (float("nan"), "–")):
        error = KvlabError("odd", expected=Message("{error:.2g}", error=value), found="x", remedy="y")
        assert str(KvlabError.from_dict(json.loads(json.dumps(error.to_dict()))).expected) == shown


def test_the_systems_reasons_are_those_of_the_c_library():
    assert {number: os.strerror(number) for number in SYSTEM} == SYSTEM
    reason = system_reason(PermissionError(13, "whatever the call said", "/some/file"))
    assert str(reason) == "Permission denied"
    with speaking("zh"):
        assert str(reason) == "权限不足"
        assert str(system_reason(OSError(9999, "odd"))) == "odd" and str(system_reason(OSError("bare"))) == "bare"


def test_errors_of_older_versions_are_shown_as_they_were_written():
    words = {"expected": "a model", "found": "done", "remedy": "resume the run"}
    with speaking("zh"):
        parts = KvlabError.from_dict({"kind": "odd", **words})
        assert [str(part) for part in (parts.expected, parts.found, parts.remedy)] == list(words.values())
