"""A damaged record of a run is read as far as it is sound: a wrong field becomes its default, and nothing raises."""

import json
import math
import os
import shutil

import pytest
from pydantic import TypeAdapter, ValidationError

from kvlab.errors import AlignError
from kvlab.host import bundled
from kvlab.results.alignment import data as aligned
from kvlab.results.function import data as tested
from kvlab.runs import monitor, records
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


NO_RESULTS = {"empty": "", "deep list": "[" * 100_000, "deep object": '{"a":' * 100_000, "other": '{"format": 2}'}
NO_RESULTS |= {text: text for text in ("null", "[]", '"x"', "1", "\\x00")}


@pytest.mark.parametrize("text", NO_RESULTS.values(), ids=NO_RESULTS)
@pytest.mark.parametrize("result", [aligned, tested], ids=["alignment", "injection"])
def test_a_file_that_is_no_result_is_refused_in_words(tmp_path, result, text):
    (tmp_path / result.JSON_NAME).write_text(text)
    with pytest.raises(AlignError) as refused:
        result.read(tmp_path)
    assert refused.value.kind.endswith("-unreadable") and "again" in str(refused.value.remedy)


@pytest.mark.parametrize("size", [0, 7, 100, 10_000])
def test_arrays_that_are_cut_off_are_refused_in_words(tmp_path, size):
    shutil.copy(bundled.ANALYSIS / aligned.JSON_NAME, tmp_path)
    whole = (bundled.ANALYSIS / aligned.ARRAYS_NAME).read_bytes()
    (tmp_path / aligned.ARRAYS_NAME).write_bytes(whole[:size])
    with pytest.raises(AlignError):
        aligned.read(tmp_path)


def test_half_a_character_anywhere_in_a_status_can_be_printed(tmp_path):
    bad = "\ud800x"
    error = {"kind": bad, "expected": bad, "found": {"template": bad, "values": {bad: [bad]}}, "remedy": bad}
    texts = dict.fromkeys(("name", "phase", "started", "updated", "heartbeat", "host", bad), bad)
    for state in ("failed", "running"):  # an error of its own, and the cause that the keeper found
        fields = texts | {"kind": "injection", "state": state, "pid": 1, "error": error, "cause": error}
        (tmp_path / "status.json").write_text(json.dumps(fields | {"history": [fields]}))
        assert "?x" in json.dumps(vars(monitor.view(tmp_path)), default=str, ensure_ascii=False).encode().decode()
