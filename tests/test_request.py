"""Requests: the choices offered are those that exist, and a wrong setting is named."""

import json
import shutil
from typing import get_args

import pytest
from pydantic_core._pydantic_core import list_all_errors

from kvlab.align import layers
from kvlab.errors import AlignError, TrainError
from kvlab.host import bundled
from kvlab.inject.controls import ROWS
from kvlab.language import Message, speaking
from kvlab.request import align, settings, train
from kvlab.request.align import PASTED, SAMPLES, AnalysisRequest, prompt_source
from kvlab.request.inject import InjectionRequest
from kvlab.request.settings import checked
from kvlab.request.train import TrainConfig
from kvlab.results.alignment import data as analysis
from kvlab.results.function import data as function
from kvlab.results.function.data import CONTROLS, SOURCES

PAIR = {"teacher": "demo/teacher", "student": "demo/student"}
PROJECTOR = {"trainable": "projector"}


def test_choices_are_those_that_exist():
    times = ("floor", "exact", "ceil", "overlap", "linear", "nearest", "segment")
    assert (get_args(align.TimeRule), get_args(train.TimeRule)) == ((*times, "rkv"), times)
    assert set(get_args(align.LayerRule)) == set(layers.RULES)
    assert get_args(align.Projector) == ("ridge", "structured", "group-mean")
    assert CONTROLS == ("mean", "shuffled", "own-tokens", "identity", "random") and tuple(ROWS) == CONTROLS[:2]
    assert SOURCES == ("projected", "with-own-token")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"student": "demo/student"}, r"teacher: Field required"),
        (PAIR | {"settings": {"time": "magic"}}, r"settings.time.*'floor'.*Found 'magic'"),
        (PAIR | {"settings": {"folds": 1}}, r"settings.folds.*greater than or equal to 2"),
        (PAIR | {"settings": {"tiem": "floor"}}, r"settings.tiem.*Extra inputs"),
        (PAIR | {"device": "tpu"}, r"device.*cuda"),
        (None, "a table of settings"),
        (["a", "list"], "a table of settings"),
    ],
)
def test_a_wrong_setting_is_named(fields, message):
    with pytest.raises(AlignError, match=message) as caught:
        checked(AnalysisRequest, fields)
    assert caught.value.kind == "request-invalid"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_steps": 0}, "max_steps：应大于或等于 1"),
        ({"lr": "fast"}, "lr：应为数字，无法从字符串解析"),
        ({"trainable": "all"}, "trainable：应为 'full'、'lora' 或 'projector'"),
        ({"teachers": []}, "teachers：不应为空"),
        ({"thresholds": 5}, "thresholds：应为设置表（Thresholds）"),
        ({"speed": 1}, "speed：没有这一项设置"),
        ({"fusion_weights": [1, 2]}, "1 个教师对应了 2 个 fusion_weights"),
        (PROJECTOR, "trainable 为 projector 时 map 应为 structured：ridge 映射是冻结的"),
        (
            {"kv_alignment": {"done": 1}},
            "kv_alignment 只含 use_head_projector 与 use_safe_resample，而不是 {'done': 1}",
        ),
    ],
)
def test_a_wrong_setting_is_named_in_the_readers_language(fields, expected):
    with pytest.raises(TrainError) as caught:
        checked(TrainConfig, fields)
    with speaking("zh"):
        assert (caught.value.kind, str(caught.value.expected)) == ("config-invalid", expected)


def test_the_words_for_a_wrong_setting_are_those_of_pydantic():
    theirs = {error["type"]: error["message_template_python"] for error in list_all_errors()}
    plural = {"string_too_long": "{max_length} character{expected_plural}"}
    for kind, words in settings.PROBLEMS.items():
        template = theirs[kind].replace(plural.get(kind, "{expected_plural}"), "{max_length} characters")
        assert words == template


@pytest.mark.parametrize(("model", "command"), [(AnalysisRequest, "align"), (InjectionRequest, "inject")])
def test_a_wrong_setting_points_to_the_help_of_its_own_command(model, command):
    with pytest.raises(AlignError) as caught:
        checked(model, PAIR | {"settings": {"folds": 1}})
    assert f"python -m kvlab {command} --help" in str(caught.value)


def test_defaults_are_the_recommended_run():
    chosen = checked(AnalysisRequest, PAIR).settings
    assert (chosen.time, chosen.layers, chosen.projector, chosen.keys) == ("floor", "heldout", "ridge", "pre-rope")


def test_our_names_of_prompts_are_said_and_a_file_keeps_its_own():
    files = ["training.txt", "done.jsonl", "training", "done", "running", "model"]
    with speaking("zh"):
        assert [prompt_source(name) for name in files] == files
        assert (prompt_source(SAMPLES), prompt_source(PASTED)) == ("自带样例", "粘贴")


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
