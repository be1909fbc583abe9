"""The command line: exit codes, one message per mistake, and the files it leaves."""

import json
import zipfile

import pytest

from kvlab.cli import flags, main
from kvlab.cli import inject as inject_flags
from kvlab.request.align import checked
from kvlab.results.alignment import data
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


def test_align_writes_everything_and_says_the_finding(pair, prompt_file, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["align", *pair, "--prompts", str(prompt_file), "--out", str(out), "--calibration", "none"]
    assert main.main(arguments) == 0
    printed = capsys.readouterr()
    assert "documents held out by document" in printed.out and "rows per feature" in printed.out
    assert printed.err == ""
    result = json.loads((out / "alignment.json").read_text(encoding="utf-8"))
    assert result["prompts"] == "prompts.txt" and result["settings"]["time"] == "floor"
    names = [[name for name, _, _ in document["segments"]] for document in result["inspected"]]
    assert names.count(["prompt", "answer"]) == 2  # an English and a Chinese marker
    assert len((out / "heads.csv").read_text().splitlines()) == 1 + 2 * 2 * 2
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "https://" not in report.split("<script", 1)[0] and "K projection error" in report
    assert (out / "projector.safetensors").stat().st_size > 0
    with zipfile.ZipFile(out / "export.zip") as archive:
        assert archive.read("heads.csv") == (out / "heads.csv").read_bytes()
        assert json.loads(archive.read("settings.json"))["settings"] == result["settings"]


@pytest.mark.parametrize(
    ("command", "request_of"),
    [("align", lambda options: checked(flags.fields_of(options))), ("inject", inject_flags.request_of)],
)
def test_segments_markers_and_chat_reach_the_request(tmp_path, command, request_of):
    def request(*extra):
        options = [command, "--teacher", "t", "--student", "s", "--out", str(tmp_path), *extra]
        return request_of(main._parser().parse_args(options))

    default = request()
    assert (default.segments, default.settings.chat) == ("auto", False) and "####" in default.markers.answer
    own = request("--answer-marker", "=>", "--answer-marker", "结果：", "--segments", "none", "--chat")
    assert own.markers.answer == ("=>", "结果：") and own.markers.reasoning == default.markers.reasoning
    assert (own.segments, own.settings.chat) == ("none", True)


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
    assert "2 个教师对方差的解释" in printed and f"已写入：{out}" in printed and "held out" not in printed
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


def test_check_prints_the_block(capsys):
    assert main.main(["check"]) == 0
    assert "🎉 所有测试通过!" in capsys.readouterr().out


def test_doctor_lists_what_it_found(capsys, monkeypatch):
    from kvlab import doctor

    findings = [doctor.Finding("python", "ok", "3.11"), doctor.Finding("package x", "fail", "missing", "pip install x")]
    monkeypatch.setattr(doctor, "examine", lambda deep, **_: findings)
    assert main.main(["doctor"]) == 1
    assert "✗ package x: missing\n    pip install x" in capsys.readouterr().out
