"""Every error, note and phase that the source writes in English is said in Chinese, whole and with its values."""

import csv
import errno
import json
import os
import re

import pytest

from kvlab.align.checks import CHECKS
from kvlab.cli import main
from kvlab.doctor import packages
from kvlab.errors import KvlabError
from kvlab.host import models
from kvlab.host.memory import DeviceMemory, device_memory, dtype_name
from kvlab.language import chinese, messages, speaking, translated
from kvlab.request import align, documents, forecast, prompts, refusals, train, uploads
from kvlab.results.training import verdict
from kvlab.runs import failures, job, monitor, process, store, training
from kvlab.shapes import LayerTest, SelfTest
from kvlab.worker import _unknown
from tests.test_memory import GIB, STUDENT, TEACHER
from tests.test_train_verdict import FALLING, lines
from tests.written import STAND_IN, Source

WORD = re.compile(r"[A-Za-z]{3}")
PROSE = re.compile(r"[A-Za-z]{2,} [a-z]{2,}")
# What stays English inside a sentence: commands, flags with their values, code, names.
COMMAND = re.compile(
    r"`[^`]*`|\{.*\}|\S* ?-m (kvlab|pip|venv)( \w+)*( -[-\w.]+)*|(apt-get|pip) install( -r)? ?\S*|git checkout \S+"
    r"|hf (auth|download) \S+( --[-\w]+)?|iconv -f \S+ -t \S+ \S+ > \S+|jq -c '.*' \S+ > \S+|python -c \".*\""
    r"|--[-\w]+( [\w/.]+)?|mkdir -p \S+ && chmod \S+ \S+|\w+=\S+|bfloat16 and float16|https?://\S+"
    r"|Parquet file size .* bytes\)"  # of the library, about what is no Parquet
)
NAMES = {"python", "torch", "projected"}  # findings of the environment and fields of a file, not said


def is_prose(text):
    """Whether English words are left that somebody has to translate."""
    return bool(PROSE.search(COMMAND.sub("", text)))


def has_words(text):
    return bool(WORD.search(STAND_IN.sub("", COMMAND.sub("", text)))) and text not in NAMES


@pytest.fixture(scope="module")
def written():
    """message -> where it is written; values are stand-ins."""
    found = {}
    for place, message in Source().messages():
        found.setdefault(message, place)
    return found


def errors_of(call, *arguments, **fields):
    """Of a call that must be refused."""
    with pytest.raises(KvlabError) as caught:
        call(*arguments, **fields)
    return caught.value.to_dict()


REFUSED = {
    "nothing pasted": lambda: errors_of(prompts.read_pasted, ""),
    "extension": lambda: errors_of(prompts.read_upload, "a.exe", b"x"),
    "no file": lambda: errors_of(prompts.read_file, "/nowhere/a.txt"),
    "zip": lambda: errors_of(prompts.read_upload, "a.txt", b"PK\x03\x04"),
    "UTF-16": lambda: errors_of(prompts.read_upload, "a.txt", "text".encode("utf-16")),
    "not JSON": lambda: errors_of(
        prompts.read_upload, "a.jsonl", b'{"prompt" 1}\n{"prompt": NaN}\n[1, none, 2]\n5\n{"text": 5}'
    ),
    "array": lambda: errors_of(prompts.read_upload, "a.jsonl", b"[1, 2]"),
    "GBK": lambda: errors_of(prompts.read_upload, "a.txt", "你好".encode("gbk")),
    "columns": lambda: errors_of(prompts.read_upload, "a.csv", b"a,b\nx,y\n"),
    "blank table": lambda: errors_of(prompts.read_upload, "a.csv", b"\n\n"),
    "header alone": lambda: errors_of(prompts.read_upload, "a.csv", b"prompt\n"),
    "ragged": lambda: errors_of(prompts.read_upload, "a.csv", b"prompt,b\nx\ny\n"),
    "open quote": lambda: errors_of(prompts.read_upload, "a.csv", b'prompt,b\n"x,y\n'),
    "Parquet": lambda: errors_of(prompts.read_upload, "a.parquet", b"not one"),
    "no column": lambda: errors_of(prompts.read_upload, "a.txt", b"x", column="b"),
    "no demo model": lambda: errors_of(models.resolve, "demo/nobody"),
    "no folder": lambda: errors_of(models.resolve, "/nowhere/model"),
    "climbing": lambda: errors_of(models.resolve, "../model"),
    "empty name": lambda: errors_of(models.resolve, ""),
    "long name": lambda: errors_of(models.resolve, "m" * 300),
    "GPU": lambda: errors_of(device_memory, "cuda:99"),
    "number type": lambda: errors_of(dtype_name, "int3", "cpu"),
    "heads differ": lambda: errors_of(refusals.check, [TEACHER], STUDENT, False, "fp32", "cpu"),
    "float16": lambda: errors_of(refusals.check, [TEACHER], STUDENT, True, "fp16", "cpu"),
    "timeline": lambda: errors_of(refusals.check_index, "line-1", TEACHER, 3, 5),
    "steps": lambda: errors_of(train.checked, {"max_steps": 0}),
    "rule": lambda: errors_of(align.checked, {"teacher": "a", "student": "b", "settings": {"time": "later"}}),
    "unknown setting": lambda: errors_of(train.checked, {"speed": 1}),
    "weights": lambda: errors_of(train.checked, {"fusion_weights": [1, 2]}),
    "run id": lambda: errors_of(store.find, store.runs_root(), "x"),
    "call": lambda: _unknown("what", ["geometry", "doctor"]).to_dict(),
    "worker gone": job.server_gone,
    "lost": lambda: monitor._lost({"pid": 1, "host": "h", "updated": "now"}),
    "killed": lambda: training._killed({"phase": "training", "done": 3, "total": 9}),
    "memory": lambda: job.explain(MemoryError(), "the analysis to run to its end"),
    "disk": lambda: failures.advise(OSError(errno.ENOSPC, "No space left on device"), None, "saving"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_real_error_has_no_english_prose_left(case):
    fields = REFUSED[case]()
    with speaking("zh"):
        said = {name: translated(fields[name]) for name in ("expected", "found", "remedy")}
        line = translated(str(KvlabError.from_dict(fields)))
    assert not [text for text in said.values() if is_prose(text)]
    assert line.startswith("期望：") and "实际：" in line and not is_prose(line)


def made():
    """Messages that are put together on the way: from calls, whose values are real."""
    yield from (
        error[name] for case in REFUSED.values() for error in [case()] for name in ("expected", "found", "remedy")
    )
    yield "Expected a. Found b. What to do: c"
    yield from (documents.kind_of(value) for value in (uploads.Number("1"), "a", True, [], {}, None))
    yield from (name for _, name in uploads._MAGIC)
    yield "{'a'} (NaN is not JSON)"
    yield "ValueError: another format version"
    yield "2 of 9 documents were longer than 8 or 6 teacher or 5 student tokens and were cut: line-1"
    # how processes end
    yield from (f"it {process.exit_words(code)}" for code in (1, -9, -15, -99))
    yield from failures.SIGNALS.values()
    yield from (remedy.format("torch") for _, _, remedy in failures.SIGNS)
    yield from (failures._kind(code, "")[1] for code in (1, -99))
    yield from store.ACTIVE + store.FINAL + ("lost", "waiting", "starting")
    # training
    for settings in ({}, {"batch_size": 1}, {"batch_size": 1, "gradient_checkpointing": True}):
        yield failures._smaller(train.TrainConfig(**settings))[0]
    small = {"batch_size": 1, "gradient_checkpointing": True, "trainable": "lora"}
    for more in ({"device": "cuda"}, {"device": "cpu"}):
        yield failures._smaller(train.TrainConfig(**small, **more))[0]
    for settings in ({"precision": "fp16"}, {"lr": 0.1}, {}):
        yield failures._finite_advice(train.TrainConfig(**settings))[0]
    for on in (True, False):
        yield failures._switches(train.TrainConfig(use_kv_projector=on, use_safe_resample=on))[0]
    for settings in (("cpu", "fp32", 2), ("cpu", "fp32", 0), ("cuda:0", "fp32", 1), ("cuda:0", "bf16", 1)):
        yield failures.slow_hint(*settings)
    trained = train.TrainConfig()
    memory = forecast.training_memory([TEACHER], STUDENT, trained)
    for total in (1000 * GIB, GIB):
        yield forecast.sentence(memory, DeviceMemory("cpu", total, total, "psutil"), trained)
    yield forecast.advice(trained)
    yield "--teacher and --student, or a --config that names them"
    for settings in ({"trainable": "projector"}, {"trainable": "projector", "map": "structured", "control": "ce-only"}):
        yield errors_of(train.checked, settings)["expected"]
    yield errors_of(train.checked, {"fusion_weights": [-1]})["expected"]
    yield errors_of(train.checked, {"kv_alignment": 1})["expected"]
    # the verdict
    tables = [
        verdict.judge(lines(FALLING), 100, peak_share=0.5),
        verdict.judge([], 100, loaded=False),
        verdict.judge([], 100, loaded=False, ended=True, error="no such file"),
        verdict.judge([], 100, loaded=False, ended=True),
        verdict.judge(lines(FALLING[:20]), 100, ended=True, error="no such file"),
        verdict.judge(lines(FALLING, nonfinite=["loss"]), 100),
        verdict.judge([{"step": n, "loss": 1.0} for n in range(1, 101)], 100),
        *(verdict.judge(lines(FALLING, **{f"variance_ratio_{kind}": 0.01}), 100) for kind in ("key", "value")),
    ]
    for kind in ("key", "value"):
        records = lines(FALLING)
        records[0][f"effective_rank_{kind}"] = 1000.0
        tables.append(verdict.judge(records, 100))
    yield from (text for table in tables for checkpoint in table for text in (checkpoint.name, checkpoint.words))
    # the self-test of the rotation
    rotated = [LayerTest(0, "rope", 64, "half", 1.0, 1e-6), LayerTest(1, "rope", 32, "interleaved", 0.5, 1e-6)]
    others = [LayerTest(2, "none", None, None, 1.0, 0.0), LayerTest(3, "absolute", None, None, 1.0, 0.0)]
    yield SelfTest("m", True, (*rotated[:1], *others)).sentence()
    yield SelfTest("m", False, (*rotated, *others, *others)).sentence()
    # the environment
    yield from (check.run.__doc__ for check in CHECKS)
    yield from (text for finding in packages(prompts.SAMPLES.parent / "requirements.txt") for text in (finding.found,))
    yield from (part for part in ("config", "weights", "tokenizer"))
    yield from ("key", "value", "file", "70001 with random weights")
    # libraries
    yield from library_words()


def library_words():
    """Of pydantic, json, csv and the operating system."""
    asked = {"teacher": "a", "student": "b"}
    for fields in (
        *({"folds": value} for value in (1, 21, "x", 2.5, [])),
        *({name: value} for name, value in (("chat", "x"), ("chat", 5.5), ("seed", None), ("sinks", "x"))),
    ):
        yield errors_of(align.checked, {**asked, "settings": fields})["expected"]
    for fields in (
        {"settings": 5},
        {"student": 5},
        {"device": "x"},
        {"more_teachers": 5},
        {"markers": {"answer": [""]}},
    ):
        yield errors_of(align.checked, {**asked, **fields})["expected"]
    yield errors_of(align.checked, {"teacher": "a"})["expected"]
    yield errors_of(align.checked, {**asked, "markers": {"answer": ["x" * 300]}})["expected"]
    for fields in ({"teachers": []}, {"lr": 0}, {"lr": "x"}, {"lr": []}, {"warmup": 2}, {"device": "x"}):
        yield errors_of(train.checked, fields)["expected"]
    yield errors_of(train.checked, {"thresholds": {"rank": -1}})["expected"]
    for text in ("{", "{1}", '{"a" 1}', '{"a":1 2}', '{"a":1,}', "[1,]", "1 2", '"a', '"\n"', r'"\x"', r'"\ux"', "x"):
        with pytest.raises(json.JSONDecodeError) as caught:
            json.loads(text)
        yield caught.value.msg
    yield from (f"Illegal trailing comma before end of {what}" for what in ("array", "object"))  # from Python 3.13 on
    for text in ('"a"b', '"a'):
        with pytest.raises(csv.Error) as caught:
            list(csv.reader([text], strict=True))
        yield str(caught.value)
    for name in (
        *("ENOENT", "EACCES", "ENOTDIR", "EISDIR", "EEXIST", "ENAMETOOLONG", "ENOSPC", "EDQUOT", "EROFS", "EIO"),
        *("ESTALE", "EMFILE", "ENOMEM", "EAGAIN", "ENOLCK", "EPERM", "EOPNOTSUPP"),
    ):
        yield os.strerror(getattr(errno, name))
    yield failures.advise(RuntimeError(), None, "training")["found"]


def test_every_message_that_is_written_has_chinese_with_its_values(written):
    assert len(written) > 400
    wrong = {}
    for message, place in written.items():
        said = messages.in_chinese(message)
        lost = [value for value in STAND_IN.findall(message) if value not in said]
        chinese_words = re.search("[\u4e00-\u9fff]|^GPU", said) and not is_prose(said)
        if lost or (has_words(message) and not chinese_words):
            wrong[message] = place, said
    assert not wrong


def test_every_message_that_is_made_has_chinese():
    assert not {message: said for message in made() if is_prose(said := messages.in_chinese(message))}


def test_no_chinese_is_there_for_what_nobody_writes(written, monkeypatch):
    hit, match = set(), messages.match

    def remembered(message):
        found = match(message)
        hit.add(found and found[0])
        return found

    monkeypatch.setattr(messages, "match", remembered)
    for message in (*written, *made()):
        messages.in_chinese.cache_clear()
        messages.in_chinese(message)
    parts = [part for part in chinese.MESSAGE_PARTS if part.__name__.rpartition(".")[2].startswith("errors_")]
    unused = {key for part in parts for key in part.MESSAGES} - hit
    assert not unused, "\n".join(sorted(unused))


def test_no_message_stands_in_two_parts():
    assert sum(len(part.MESSAGES) for part in chinese.MESSAGE_PARTS) == len(chinese.MESSAGES)


@pytest.mark.parametrize(
    ("english", "said"),
    [
        ("line 3: nothing but blanks; line 4: nothing but blanks", "第 3 行：只有空白；第 4 行：只有空白"),
        ("PermissionError: Permission denied", "PermissionError: 权限不足"),
        ("a list: [1, none, 2]", "列表：[1, none, 2]"),  # not 无: it is the user's
        ("no folder /a/none, text", "没有文件夹 /a/none, text"),
        ("'x: none' is odd; no such file", "'x: none' is odd; 没有这个文件"),
        (
            "it ended with exit code 1; from the end of its log:\nnone",
            "进程以退出码 1 结束；其日志末尾：\nnone",
        ),
        (
            "No control by random weights of t: Expected 3.0 GiB of free memory on cpu for the weights of t. "
            "Found 1.0 GiB free. What to do: use auto",
            "t 没有随机权重对照：期望：cpu 上有 3.0 GiB 空闲内存用于 t 的权重。实际：空闲 1.0 GiB。处理办法：使用 auto",
        ),
        ("OSError: [Errno 13] Permission denied: '/x/none, text'", "OSError: [Errno 13] 权限不足：'/x/none, text'"),
        ("waits for step 5; the run ended at step 3: no such file", "等待第 5 步；运行在第 3 步结束：没有这个文件"),
        ("Something that no template knows, and 5 more.", "Something that no template knows, and 5 more."),
    ],
)
def test_messages_within_messages_are_said_and_values_are_left(english, said):
    assert messages.in_chinese(english) == said


def test_the_command_says_its_errors_in_the_language_asked_for(tmp_path, capsys):
    asked = ["align", "--teacher", "demo/teacher", "--student", "demo/nobody", "--out", str(tmp_path)]
    assert [main.main(asked), main.main([*asked, "--language", "zh"])] == [2, 2]
    english, said = capsys.readouterr().err.splitlines()
    assert english.startswith("kvlab: Expected one of the bundled models: demo/")
    assert said.startswith("kvlab: 期望：自带模型之一：demo/") and "没有模型 'demo/nobody'" in said


def test_the_first_message_does_not_wait_for_every_pattern():
    for cached in (messages.in_chinese, messages._templates, messages._pattern):
        cached.cache_clear()
    messages.in_chinese("3 documents of the same text")
    assert messages._pattern.cache_info().currsize < 10  # of hundreds
