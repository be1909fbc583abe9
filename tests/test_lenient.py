"""A damaged record of a run is read as far as it is sound: a wrong field becomes its default, and nothing raises."""

import json
import math
import os

import pytest
from pydantic import TypeAdapter, ValidationError

from kvlab.runs import records
from kvlab.runs.lenient import Lenient, finite, read_json
from kvlab.runs.records import Checkpoint, Forecast, Report, Status, Verdict

MODELS = [model for model in vars(records).values() if isinstance(model, type) and issubclass(model, Lenient)]
GARBAGE = [None, True, -1, 10**400, 1.5, math.nan, "\ud800", "", [], [[]], {}, {"a": {"b": [None]}}, 2**60]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("garbage", GARBAGE, ids=str)
def test_any_field_of_any_record_may_be_anything(model, garbage):
    read = model.of(dict.fromkeys(model.model_fields, garbage))
    for name, field in model.model_fields.items():
        value = getattr(read, name)
        json.dumps(value, default=lambda part: part.model_dump())
        kept = value == field.get_default(call_default_factory=True)
        assert kept or _valid(field.annotation, value)
    assert model.of(garbage) in (model(), read) or isinstance(garbage, dict)


def _valid(annotation, value):
    try:
        TypeAdapter(annotation).validate_python(value)
    except ValidationError:
        return False
    return True


def test_what_is_sound_in_a_damaged_record_is_kept():
    status = Status.of(
        {"state": ["done"], "done": "many", "total": 9, "elapsed_s": 1e13, "pid": True, "name": "a\ud800"}
    )
    assert (status.state, status.done, status.total, status.elapsed_s, status.pid) == (None, 0, 9, None, None)
    assert status.name.isascii() and status.name[0] == "a"  # half a character is replaced
    verdict = Verdict.of({"state": 3, "checkpoints": [7, {"name": "memory", "threshold": "x", "step": 5}, []]})
    assert verdict.state is None and verdict.checkpoints == [Checkpoint(name="memory", step=5)]
    report = Report.of({"before": {"ce": "x", "rows": 3, "variance_ratio_key": 0.5}, "after": 7, "notes": ["a"]})
    assert report.before.model_dump(exclude_unset=True) == {"ce": None, "rows": 3, "variance_ratio_key": 0.5}
    assert report.after is None and report.notes == ["a"]
    forecast = Forecast.of({"total": -1, "lower": 2, "parts": [{"name": "maps", "bytes": 5, "model": "a"}, 3]})
    assert (forecast.total, forecast.lower) == (None, 2) and type(forecast.lower) is int
    assert [part.model_dump() for part in forecast.parts] == [{"name": "maps", "bytes": 5, "model": "a"}]


def test_only_finite_numbers_are_numbers():
    values = (1, 1.5, True, math.nan, math.inf, 10**400, "1", None, [1])
    assert [finite(value) for value in values] == [1.0, 1.5, *[None] * 7]


def test_a_file_that_is_no_object_reads_as_empty(tmp_path):
    file = tmp_path / "a.json"
    assert read_json(file) == {}
    for text in ("", "[]", "{", "\x00", "1", "[" * 100_000):
        file.write_text(text)
        assert read_json(file) == {}
    file.write_bytes(b'{"a": NaN, "b": "\xff"}')
    assert read_json(file) == {"a": None, "b": "\ufffd"}
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "pipe")
    assert read_json(tmp_path / "link") == read_json(tmp_path / "pipe") == {}
