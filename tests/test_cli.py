"""The command line: exit codes, one message per mistake, and the files it leaves."""

import argparse
import json
import os
import re
import subprocess
import sys
import zipfile
from operator import attrgetter
from pathlib import Path
from typing import get_args

import pytest

from kvlab import PROJECT
from kvlab.cli import main
from kvlab.cli.analysis import ANALYSIS_ONLY, request_of
from kvlab.cli.train import config_of
from kvlab.request.align import AnalysisRequest
from kvlab.request.inject import InjectionRequest
from kvlab.request.train import TrainConfig
from kvlab.results import answer
from kvlab.results.alignment import data
from kvlab.runs import process, store
from kvlab.train.data import align_settings, documents
from tests import inputs
from tests.tiny import TEXT, tiny_model

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("cli")]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    teacher, student = tmp_path_factory.mktemp("teacher"), tmp_path_factory.mktemp("student")
    tiny_model("qwen2", teacher, seed=1, num_hidden_layers=2)
    tiny_model("llama", student, seed=2, tokenizer_style="sentencepiece", num_hidden_layers=2)
    return ["--teacher", str(teacher), "--student", str(student)]


@pytest.fixture
def prompt_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n\n".join(TEXT.splitlines()), encoding="utf-8")
    return file


HOLDS = """
import sys, time
from pathlib import Path
from kvlab.cli import output
Path(sys.argv[1]).mkdir()
with output.locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def test_align_writes_everything_and_says_the_finding(pair, prompt_file, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["align", *pair, "--prompts", str(prompt_file), "--out", str(out), "--calibration", "none"]
    assert main.main(arguments) == 0
    printed = capsys.readouterr()
    assert "documents held out by document" in printed.out
    assert printed.out.splitlines()[-1] == answer.of_analysis(data.read(out)).line()
    assert printed.err == "prompts.txt was read as: plain text, 11 documents\n"
    result = json.loads((out / "alignment.json").read_text(encoding="utf-8"))
    assert result["prompts"] == "prompts.txt" and result["settings"]["time"] == "floor"
    names = [[name for name, _, _ in document["segments"]] for document in result["inspected"]]
    assert names.count(["prompt", "answer"]) == 2  # an English and a Chinese marker
    assert len((out / "heads.csv").read_text().splitlines()) == 1 + 2 * 2 * 2
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "https://" not in report.split("<script", 1)[0] and "beyond the strongest control" in report
    assert (out / "projector.safetensors").stat().st_size > 0
    with zipfile.ZipFile(out / "export.zip") as archive:
        assert archive.read("heads.csv") == (out / "heads.csv").read_bytes()
        assert json.loads(archive.read("settings.json"))["settings"] == result["settings"]


def options_in(parser, command=""):
    """(command, action) of every option of every command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from options_in(inner, f"{command} {name}".strip())
        elif command and action.option_strings and action.dest != "help":
            yield command, action


PARSER = main.parser()
OPTIONS = list(options_in(PARSER))
NAMES = sorted({command for command, _ in OPTIONS})
VALUES = {int: "3", float: "0.5"}


def written(option, flag):
    """A flag with a value that its type takes, and that is not the default."""
    if option.nargs == 0:
        return [flag]
    return [flag, str(option.choices[-1]) if option.choices else VALUES.get(option.type, "1")]


@pytest.mark.parametrize("command", NAMES)
def test_every_flag_of_every_command_is_read_with_dashes_and_underscores(command):
    options = [option for name, option in OPTIONS if name == command]
    ids = ["x"] if command.startswith("runs ") and command != "runs list" else []

    def read(option, flag):
        line = [*command.split(), *ids]
        for other in options:
            if other.required and other != option:
                line += written(other, other.option_strings[0])
        return vars(PARSER.parse_args([*line, *written(option, flag)]))

    for option in options:
        for flag in option.option_strings:
            assert flag.startswith("--") and "_" not in flag
            assert read(option, flag) == read(option, "--" + flag[2:].replace("-", "_"))
            assert read(option, flag)[option.dest] != option.default


def test_a_value_keeps_its_underscores():
    line = ["align", "--teacher", "my_model", "--student", "s", "--out", "o_o", "--answer_marker=--so_it_is"]
    options = vars(PARSER.parse_args(line))
    assert (options["teachers"], options["out"]) == (["my_model"], Path("o_o"))
    assert options["markers.answer"] == ["--so_it_is"]


def leaves(model, parent=""):
    """(place, field) of every setting, also of the models in a model."""
    for name, field in model.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from leaves(field.annotation, f"{parent}{name}.")
        else:
            yield parent + name, field


def another(field):
    """(words on the command line, value) of a setting, such that it is not the default."""
    default, inner = field.default, get_args(field.annotation)
    if isinstance(default, bool):
        return [], not default
    if isinstance(default, tuple):
        return (["0.6"], (0.6,)) if "float" in str(inner) else (["x"], ("x",))
    if isinstance(next(iter(inner), None), str):
        word = next(word for word in inner if word != default)
        return [word], word
    if field.annotation is int or int in inner:
        return [str((default or 0) + 2)], (default or 0) + 2
    if field.annotation is float or float in inner:
        value = 0.6 if default is None or default <= 1 else default + 1
        return [str(value)], value
    return ["cpu"], "cpu"


COMMANDS = {"align": AnalysisRequest, "inject": InjectionRequest, "train": TrainConfig}
ELSEWHERE = {"teacher", "more_teachers", "prompts"}  # said by --teacher and --prompts


def settings_of(command, *extra):
    """Every setting by its place, as the command would use it."""
    folder = "--output-dir" if command == "train" else "--out"
    options = PARSER.parse_args([command, "--teacher", "t", "--student", "s", folder, "o", *extra])
    request = config_of(options) if command == "train" else request_of(COMMANDS[command], options)
    return {place: attrgetter(place)(request) for place, _ in leaves(COMMANDS[command])}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_is_a_flag_with_its_description_and_reaches_the_request(command):
    before = settings_of(command)
    left_out = ELSEWHERE | (set(ANALYSIS_ONLY) if command == "inject" else set())
    for place, field in leaves(COMMANDS[command]):
        if place in left_out:
            continue
        places = [option for name, option in OPTIONS if name == command and option.dest == place]
        option = next(option for option in places if field.description in option.help.replace("%%", "%"))
        words, value = another(field)
        if not words:
            value = not before[place]
        flag = option.option_strings[0 if words or value else 1]
        value = ("t", *value) if place == "teachers" else value
        assert before[place] != value
        assert settings_of(command, flag, *words) == before | {place: value}, place


TODAY = {
    "align": "teacher student prompts column out time layers search projector keys folds sinks max-tokens batch-tokens "
    "sample-tokens seed chat random-teacher no-random-teacher calibration segments reasoning-marker answer-marker "
    "language device dtype inspect compare-rules no-compare-rules debug",
    "inject": "teacher student prompts column out time layers search projector keys folds sinks max-tokens "
    "batch-tokens sample-tokens seed chat random-teacher no-random-teacher calibration segments reasoning-marker "
    "answer-marker language device dtype prefix documents swap-layers seconds forwards texts new-tokens curve debug",
    "train": "teacher student output_dir config fusion_weights fp16 bf16 data max_steps batch_size "
    "gradient_accumulation_steps gradient_checkpointing lr map_lr max_grad_norm warmup seed max_tokens "
    "use_kv_projector use_safe_resample map time layers sinks fit_documents fusion fusion_temperature entropy_weight "
    "entropy lambda_key lambda_value trainable lora_rank control eval_documents functional checkpoint_every device "
    "log",
    "runs show": "json debug",
    "runs stop": "no-wait debug",
    "runs delete": "yes debug",
    "runs report": "json checks language format out debug",
    "runs export": "to merged language debug",
    "bench": "rows device out quick debug",
}


@pytest.mark.parametrize("command", TODAY)
def test_the_flags_that_people_have_in_their_scripts_are_still_there(command):
    there = {flag for name, option in OPTIONS if name == command for flag in option.option_strings}
    assert {"--" + name.replace("_", "-") for name in TODAY[command].split()} <= there


def test_segments_markers_and_chat_reach_the_request():
    for command, model in (("align", AnalysisRequest), ("inject", InjectionRequest)):

        def request(*extra, command=command, model=model):
            line = [command, "--teacher", "t", "--student", "s", "--out", "o", *extra]
            return request_of(model, PARSER.parse_args(line))

        default = request()
        assert (default.segments, default.settings.chat) == ("auto", False) and "####" in default.markers.answer
        chosen = request("--answer-marker", "=>", "--answer-marker", "结果：", "--segments", "none", "--chat")
        assert chosen.markers.answer == ("=>", "结果：") and chosen.markers.reasoning == default.markers.reasoning
        assert (chosen.segments, chosen.settings.chat) == ("none", True)
        assert request("--prompts", "a/done.txt").prompts == "done.txt" and default.prompts == "bundled samples"


def test_several_teachers_are_one_analysis_with_a_fusion(pair, prompt_file, tmp_path, capsys):
    out = tmp_path / "out"
    again = [*pair, "--teacher", pair[3], "--prompts", str(prompt_file), "--out", str(out), "--inspect", "0"]
    assert main.main(["align", *again, "--calibration", "none", "--language", "zh"]) == 0
    first, second = data.read(out), data.read(out / "teacher-2")
    assert first.teachers == second.teachers == [pair[1], pair[3]]
    assert (first.teacher["name"], second.teacher["name"]) == (pair[1], pair[3])
    assert first.fusion == second.fusion != []
    header = (out / "fusion.csv").read_text().splitlines()[0]
    assert header == (
        "kind,layer,head,r2,se,gain,gain_se,n,r2_alone 1,r2_alone 2,weights 1,weights 2,"
        "gain_random,gain_random_se,n_control"
    )
    printed = capsys.readouterr().out
    assert "2 个教师解释" in printed and f"已写入：{out}" in printed and "held out" not in printed
    for folder in (out, out / "teacher-2"):
        assert '<html lang="zh-Hans">' in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--teacher", "no/such-folder/at-all"], "kvlab: Expected"),
        (["--prompts", "missing.txt"], "no such file"),
        (["--answer-marker", " "], "markers.answer.0"),
        (["--folds", "1"], "settings.folds"),
        (["--device", "tpu"], "device"),
        (["--out", "/proc/nowhere"], "a folder that can be written"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(pair, tmp_path, capsys, extra, message):
    assert main.main(["align", *pair, "--out", str(tmp_path / "out"), *extra]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "What to do" in captured.err
    assert "Traceback" not in captured.err


@pytest.fixture
def read_by(pair, tmp_path, monkeypatch, capsys):
    """Run align on prompts up to the first forward; return the texts of its documents and what was said."""

    def read(prompts, *extra):
        given = []

        def compute(request, documents, *_):
            given.extend(document.text for document in documents)
            raise KeyboardInterrupt

        monkeypatch.setattr("kvlab.align.run.compute", compute)
        assert main.main(["align", *pair, "--prompts", str(prompts), "--out", str(tmp_path / "out"), *extra]) == 2
        return given, capsys.readouterr().err

    return read


FOREIGN = ("alignment.json", "injection.json", "so_far.json", "report.html", "heads.csv", "status.json", ".hidden")


@pytest.mark.parametrize("command", ["align", "inject"])
@pytest.mark.parametrize("names", [FOREIGN, *((name,) for name in FOREIGN)])
def test_a_folder_of_somebody_else_is_refused_and_nothing_in_it_changes(command, names, tmp_path, capsys):
    for name in names:
        (tmp_path / name).write_text('{"kind": "training", "teacher": "theirs"}')
    before = everything(tmp_path)
    flags = ["--teacher", "demo/teacher", "--student", "demo/student", "--device", "cpu"]
    assert main.main([command, *flags, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "a new or empty folder" in error and min(names) in error and "another --out" in error
    assert everything(tmp_path) == before


def everything(folder):
    return {path: path.is_file() and path.read_bytes() for path in (folder, *folder.rglob("*"))}


def test_a_second_command_in_a_folder_is_refused_and_names_the_first(pair, tmp_path, capsys, monkeypatch):
    """Also one behind an analysis of the app, which has no lock; a result of kvlab is no foreign folder."""
    flags, out = [*pair, "--inspect", "0", "--device", "cpu"], tmp_path / "out"
    calls = []

    def computes(request, documents, cache, progress, folder):
        calls.append(folder)
        raise KeyboardInterrupt

    with subprocess.Popen([sys.executable, "-c", HOLDS, str(out)], stdout=subprocess.PIPE, cwd=PROJECT) as first:
        assert first.stdout.readline()
        assert main.main(["align", *flags, "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert f"process {first.pid} on" in said and f"kill {first.pid}" in said
        first.kill()
    assert [path.name for path in out.iterdir()] == [".lock", ".lock.process"]
    monkeypatch.setattr("kvlab.align.run.compute", computes)
    assert main.main(["align", *flags, "--out", str(out)]) == 2 and calls == [out]
    busy = store.create(tmp_path / "runs", "analysis", "x", {})
    store.write_status(busy, state="running", **process.identity())
    assert main.main(["inject", *pair, "--out", str(busy)]) == 2
    assert f"process {os.getpid()} on" in capsys.readouterr().err
    (out / "unfinished.safetensors").touch()
    (out / "notes.txt").touch()
    assert main.main(["align", *flags, "--out", str(out)]) == 2 and calls == [out, out]


@pytest.mark.parametrize("name", inputs.FILES)
def test_files_as_people_have_them_are_read_and_what_they_are_is_said(read_by, tmp_path, name):
    data, texts, words = inputs.FILES[name]
    (tmp_path / name).write_bytes(data)
    given, said = read_by(tmp_path / name)
    assert given == texts
    assert (f"{name} was read as: {words}\n" if texts else words) in said
    assert ("roles: " in words) == ("--chat reads them" in said)


@pytest.mark.parametrize("name", inputs.FOLDERS)
def test_folders_as_people_have_them_are_data_to_train_on(tmp_path, name):
    place = str(inputs.write(tmp_path) / name)
    line = ["train", "--teacher", "a", "--student", "b", "--output_dir", "o", "--data", place, "--eval_documents", "1"]
    train, heldout, notes = documents(config_of(PARSER.parse_args(line)), tmp_path)
    assert sorted(d.text for d in (*train, *heldout)) == sorted(inputs.FOLDERS[name]) and len(heldout) == 1
    assert "was read as: files: " in notes[0]


def test_how_data_is_read_is_overruled_and_what_cannot_be_read_is_said(tmp_path):
    rows = [{"problem": str(n), "solution": "s", "messages": [{"role": "user", "content": "m"}]} for n in range(4)]
    (tmp_path / "a.jsonl").write_text("\n".join([*map(json.dumps, rows), "{broken"]))
    line = ["train", "--teacher", "a", "--student", "b", "--output_dir", "o", "--data", str(tmp_path)]
    line += ["--data_column", "problem", "--data_answer", "solution"]
    train, heldout, notes = documents(config_of(PARSER.parse_args(line)), tmp_path)
    assert sorted(d.text for d in (*train, *heldout)) == [f"{n}\ns" for n in range(4)]
    assert not align_settings(config_of(PARSER.parse_args(line))).chat
    assert align_settings(config_of(PARSER.parse_args([*line, "--chat"]))).chat
    assert "not read: 'messages'" in notes[0] and "1 place of" in notes[1] and "line 5" in notes[1]


@pytest.mark.parametrize("name", inputs.FOLDERS)
def test_folders_as_people_have_them_are_prompts(read_by, tmp_path, name):
    given, said = read_by(inputs.write(tmp_path) / name)
    assert given == inputs.FOLDERS[name] and "was read as: files: " in said


def test_what_was_recognised_is_overruled_by_flags(read_by, tmp_path):
    row = {"prompt": "p", "messages": [{"role": "user", "content": "m"}], "problem": "q", "solution": "s"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert "--format messages | prompt" in read_by(tmp_path / "a.jsonl")[1]
    assert read_by(tmp_path / "a.jsonl", "--format", "messages")[0] == ["m"]
    assert read_by(tmp_path / "a.jsonl", "--column", "problem", "--answer", "solution")[0] == ["q\ns"]


def test_a_name_with_a_way_up_or_a_home_folder_is_a_path(pair, tmp_path, monkeypatch):
    teacher = Path(pair[1])
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    monkeypatch.setenv("HOME", str(teacher.parent))
    up = os.path.relpath(teacher)
    assert up.startswith("../")
    for name in (up, f"~/{teacher.name}", f"../inner/{up}"):
        align = ["align", "--teacher", name, "--teacher", name, "--student", name, "--out", "o"]
        request = request_of(AnalysisRequest, PARSER.parse_args(align))
        assert (*request.teachers, request.student) == (str(teacher),) * 3
        train = ["train", "--teacher", name, "--student", name, "--output_dir", "o"]
        config = config_of(PARSER.parse_args(train))
        assert (*config.teachers, config.student) == (str(teacher),) * 2
    plain = request_of(
        AnalysisRequest, PARSER.parse_args(["align", "--teacher", "a/b", "--student", "c", "--out", "o"])
    )
    assert (plain.teacher, plain.student) == ("a/b", "c")


def test_debug_shows_the_traceback(pair, tmp_path, capsys):
    assert main.main(["align", *pair, "--prompts", "missing.txt", "--out", str(tmp_path / "o"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["dance"], ["align"], ["align", "--teacher", "x"], ["align", "--time", "x"]])
def test_usage_errors_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main(arguments)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_problems_of_a_file_are_named_by_line_and_the_rest_is_used(pair, tmp_path, capsys):
    file = tmp_path / "p.jsonl"
    good = [json.dumps({"prompt": line}, ensure_ascii=False) for line in TEXT.splitlines()]
    file.write_text("\n".join([good[0], "{broken", good[0], *good[1:]]), encoding="utf-8")
    out = tmp_path / "out"
    assert main.main(["align", *pair, "--prompts", str(file), "--out", str(out), "--calibration", "none"]) == 0
    captured = capsys.readouterr()
    assert "p.jsonl, line 2:" in captured.err and "Duplicates left out: 1." in captured.err
    assert json.loads((out / "alignment.json").read_text())["data"]["documents"] == len(good)


def test_check_speaks_both_languages(capsys):
    assert main.main(["check"]) == 0
    said = capsys.readouterr().out
    assert "🎉 All checks passed!" in said and not re.search("[\u4e00-\u9fff]", said)
    assert main.main(["check", "--language", "zh"]) == 0
    assert "🎉 所有测试通过!" in capsys.readouterr().out


def test_doctor_lists_what_it_found(capsys, monkeypatch):
    from kvlab import doctor

    findings = [doctor.Finding("python", "ok", "3.11"), doctor.Finding("package x", "fail", "missing", "pip install x")]
    monkeypatch.setattr(doctor, "examine", lambda deep, **_: findings)
    assert main.main(["doctor"]) == 1
    assert "✗ package x: missing\n    pip install x" in capsys.readouterr().out
