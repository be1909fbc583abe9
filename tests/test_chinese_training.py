"""The training side in Chinese: no English prose on any of its pages, and the words that the report of a run has."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from kvlab.language import say, speaking
from kvlab.request.train import TrainConfig
from kvlab.results.training.verdict import judge
from kvlab.results.training.words import mark_words, state_words
from kvlab.runs import store
from kvlab.runs.history import History
from kvlab.shapes import phase_words
from kvlab.web.training import charts, words
from tests import trained
from tests.test_live import table
from tests.test_pages import open_page

pytestmark = [pytest.mark.page, pytest.mark.xdist_group("pages"), pytest.mark.usefixtures("worker_of_pages")]

PROSE = re.compile(r"[A-Za-z]{3,} [a-z]{2,}")
NAMES = re.compile(r"Hugging Face id|kv (one|two)|as it wrote")
MACHINE = {"id", "icon", "data", "element_type", "type", "language", "key", "form_id", "page_script_hash", "url"}
ERRORS = [{"step": n, "loss": 4.0, "ce": 2.0, "kv_key": 1.0} for n in range(1, 101)]


def strings(message) -> list[str]:
    """Every string that a browser is sent for an element, but for those that are names of the machine."""
    found: list[str] = []
    for field, value in message.ListFields():
        if field.name in MACHINE:
            continue
        for one in value if field.is_repeated else [value]:
            if isinstance(one, str):
                found += from_json(one) if field.name in ("columns", "spec") else [one]
            elif hasattr(one, "ListFields"):
                found += strings(one)
    return found


def from_json(text: str) -> list[str]:
    """Labels and helps of a table's columns, titles and data of a chart."""
    shown: list[str] = []

    def read(value, name=""):
        if isinstance(value, dict):
            for key, inner in value.items():
                read(inner, key)
        elif isinstance(value, list):
            for inner in value:
                read(inner, name)
        elif isinstance(value, str) and name in ("label", "help", "title", "domain", "words"):
            shown.append(value)

    read(json.loads(text))
    return shown


def visible(app) -> str:
    """Everything that can be read on a page: texts, labels, help, options, heads and cells of tables."""
    assert not app.exception
    found: list[str] = []

    def walk(block):
        for child in block.children.values():
            found.extend(strings(child.proto))
            if hasattr(child, "children"):
                walk(child)

    walk(app.main)
    for frame in (*app.dataframe, *app.table):
        found.extend(str(cell) for cell in frame.value.to_numpy().ravel())
        found.extend(map(str, frame.value.columns if frame in app.table else ()))
    return "\n".join(found)


def english(text: str) -> list[str]:
    lines = [NAMES.sub("", line) for line in text.splitlines() if not line.startswith("python -m kvlab ")]
    return [line for line in lines if PROSE.search(line)]


@pytest.fixture
def folder():
    """A run that is done, with a verdict that failed, held-out numbers, curves and a log."""
    root = store.runs_root()
    folder = trained.by_hand(root, "kv one", teachers=["demo/teacher", "demo/teacher-b"], control="ce-only")
    rows = [row.to_dict() for row in judge(ERRORS, 100, peak_share=0.5)]
    trained.write(folder, "verdict.json", {"state": "fail", "checkpoints": rows})
    measured = {"ce": 3.5, "kv_key": 1.0, "kv_value": 1.5, "documents": 32, "tokens": 3700}
    report = {"before": measured, "after": {**measured, "ce": 3.25}, "device": {"device": "cpu"}}
    trained.write(folder, "report.json", report | {"functional": trained.functional()})
    (folder / "training.log").write_text("as it wrote\n")
    return folder


def test_the_form_is_in_chinese_with_every_choice_and_help():
    text = visible(open_page("validation", lang="zh"))
    assert "启动 100 步验证训练" in text and "map：ridge：闭式解，冻结；structured：可训练的 KVProjector。" in text
    assert "岭回归：闭式解，冻结" in text
    assert not english(text)


def test_the_live_view_is_in_chinese_and_says_what_the_report_says(folder):
    text = visible(open_page("validation", run=folder.name, lang="zh"))
    assert "**可运行性：未通过**（100 步），未通过的检查点：损失收敛。" in text
    assert "**效果：尚未比较。**" in text and "没有标准误" in text
    assert "留出文本上，训练前 → 训练后：交叉熵 3.5000 → 3.2500（每词元 nat）" in text
    assert "32 篇文档、3,700 个词元" in text
    assert "最后 5 步的平均损失为 4，第 1 步为 4，是其 100%，应低于 80%" in text
    assert "对照：损失中没有教师参与" in text
    assert "使用投影缓存时 KL 0.250 ± 0.010 → 0.125 ± 0.010（-0.125 ± 0.030）" in text
    assert {"步", "检查项", "结果", "值", "阈值", "备注", "✗\u00a0未通过"} <= set(text.splitlines())
    assert not english(text)


def test_a_run_that_ended_otherwise_is_in_chinese():
    for state, end in (("failed", "本次运行失败。"), ("cancelled", "被取消")):
        folder = store.create(store.runs_root(), "training", "kv one", TrainConfig().model_dump(mode="json"))
        store.write_status(folder, state=state, done=3, total=100)
        text = visible(open_page("validation", run=folder.name, lang="zh"))
        assert end in text and not english(text)


def test_the_runs_page_is_in_chinese_with_one_run_and_with_two(folder):
    one = visible(open_page("runs", runs=folder.name, lang="zh"))
    assert "留出 CE 3.5000 → 3.2500（每词元 nat，n = 3,700 个词元，32 篇留出文档）" in one
    assert {"已完成", "✗ 未通过", "损失收敛", "指标", "config.yaml"} <= set(one.splitlines())
    assert not english(one)
    other = trained.by_hand(store.runs_root(), "kv two", control="ce-only")
    two = visible(open_page("runs", runs=f"{folder.name},{other.name}", lang="zh"))
    assert {"CE 训练后", "删除 2 个运行", "结果并列比较"} <= set(two.splitlines())
    assert not english(two)


def test_the_report_is_offered_in_the_language_of_the_page(folder):
    for language, label in (("zh", "报告语言"), ("en", "Language of the report")):
        app = open_page("runs", runs=folder.name, lang=language)
        (choice,) = [group for group in app.button_group if group.label == label]
        assert choice.value == language


def test_pages_and_vocabulary_name_states_phases_and_checkpoints_alike(folder):
    (row,) = History(store.runs_root()).rows()
    with speaking("zh"):
        assert words.state(row) == state_words("done") == "已完成"
        row = replace(row, state="running", phase="fitting the map")
        assert words.state(row) == f"{state_words('running')}：{phase_words('fitting the map')}"
        assert words.mark("fail") == mark_words("fail").replace(" ", "\u00a0") == "✗\u00a0未通过"
    assert words.state(row) == "running: fitting the map"


def test_figures_are_in_the_language_and_their_series_are_still_told_apart():
    steps = table(step=[1, 2], loss=[4.0, 2.0], kv_key=[1.0, 1.0])
    with speaking("zh"):
        chart = charts.terms(steps, charts.TERMS, say("loss")).to_dict()
    rows = next(iter(chart["datasets"].values()))
    assert {(row["name"], row["line"]) for row in rows} == {(t, w) for t in ("总计", "KV K") for w in ("原始", "平滑")}
    assert chart["encoding"]["opacity"]["scale"]["domain"] == ["平滑", "原始"]
    assert chart["encoding"]["x"]["title"] == "步"

    folder = trained.by_hand(store.runs_root())
    with speaking("zh"):
        figure = charts.of_runs(History(store.runs_root()).rows(), "loss").to_dict()
    assert {row["line"] for row in next(iter(figure["datasets"].values()))} == {"原始", "平滑"}
    assert figure["encoding"]["color"]["scale"]["domain"] == [f"kv · {folder.name[-4:]}"]
    assert figure["encoding"]["y"]["title"] == "总损失"


def test_choices_stay_when_the_language_changes(folder):
    app = open_page("validation")
    app.selectbox(key="train-map").set_value("structured").run()
    app.number_input(key="train-max_steps").set_value(7).run()
    app.button_group(key="language-en").set_value("zh").run()
    assert "启动 7 步验证训练" in visible(app) and app.selectbox(key="train-map").value == "structured"

    app = open_page("runs", runs=folder.name)
    app.button_group(key="runs-show").set_value("all").run()
    app.selectbox(key="runs-metric").set_value("ce").run()
    app.button_group(key="language-en").set_value("zh").run()
    assert "训练 CE（每词元 nat）" in visible(app) and app.query_params["runs"] == folder.name
    assert app.button_group(key="runs-show").value == "all" and app.selectbox(key="runs-metric").value == "ce"
