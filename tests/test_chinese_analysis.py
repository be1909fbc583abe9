"""The pages of an analysis in Chinese: no English is left but names, and what is written on disk stays English."""

import dataclasses
import json
import re

import pytest
from google.protobuf.json_format import MessageToDict

from kvlab.host import bundled
from kvlab.language import speaking
from kvlab.request.align import AlignSettings
from kvlab.results.alignment.data import read
from tests import finished
from tests.test_pages import made, open_page

pytestmark = [pytest.mark.page, pytest.mark.xdist_group("pages"), pytest.mark.usefixtures("worker_of_pages")]

ENGLISH = re.compile(r"(?<![A-Za-z])(?![KMG]iB )[A-Za-z]{3,} [a-z]{2,}")  # a size may stand before a name
SHOWN = {"label", "body", "help", "placeholder", "options", "alt", "text"}  # fields of elements
OF_A_FIGURE = re.compile(r'>([^<]+)<|(?:title|aria-label)="([^"]*)"')  # its words in HTML
NAMES = [  # settings are called as they are set, and commands as they are typed
    *(name.replace("_", " ") for name in AlignSettings.model_fields),
    *("streamlit run app.py", "python -m kvlab check", "python tests/test_kv_fixes.py"),
]


def nodes(block):
    for child in block.children.values():
        yield child
        yield from nodes(child) if hasattr(child, "children") else ()


def words(value, field=""):
    """What a user reads or hears in an element's fields; of a table its headers."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from words(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from words(inner, field)
    elif field == "columns":
        yield from words(list(json.loads(value).values()))
    elif field == "body" and value.startswith("<div"):  # a figure
        yield from (said or heard for said, heard in OF_A_FIGURE.findall(value))
    elif field in SHOWN and not value.startswith("<style>"):
        yield value


def seen(app):
    """Every text of a page, with the cells of its tables."""
    for node in nodes(app._tree):
        if node.proto is not None:
            yield from words(MessageToDict(node.proto, preserving_proto_field_name=True))
    for table in app.dataframe:
        yield from (cell for row in table.value.to_numpy() for cell in row if isinstance(cell, str))


def assert_chinese(app, *expected):
    assert not app.exception
    shown = [text for text in seen(app) if not text.startswith("heldout-")]  # the documents of the sample
    for text in expected:
        assert any(text in other for other in shown), f"{text} is not among {shown}"
    for name in NAMES:
        shown = [text.replace(name, "") for text in shown]
    assert not [text for text in shown if ENGLISH.search(text)]


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("heads", ("相对最强对照的增益", "标准化 R²", "每个通道权重相同。", "打乱行")),
        ("layers", ("学生层", "其零假设值（打乱行）", "描边：已选")),
        ("timeline", ("采用 **floor** 时", "平均偏移（字节）", "exact：仅限")),
        ("numbers", ("计分行数", "按文档", "旋转的通道数", "自带样例")),
    ],
)
def test_every_view_of_the_sample(view, expected):
    assert_chinese(open_page("alignment", run="sample", view=view, lang="zh"), "报告与文件", *expected)


def test_overview_and_checks():
    expected = ("这个教师的 KV 缓存能否", "KV 头（查询头）", "≠ 投影器", "教师：demo/teacher")
    in_figures = ("投影缓存：0.071", "超出最强对照的", "学生层", "个通道", "4 层 × 2 个 KV 头")
    assert_chinese(open_page(lang="zh"), *expected, *in_figures)
    assert_chinese(open_page("checks", lang="zh"), "kvlab 在本机运行")


def test_the_form_and_its_choices():
    with speaking("zh"):  # outside a page, the test looks a choice up by its label
        app = open_page("alignment", run="sample", lang="zh")
        app.button(key="form-toggle").click().run()
        assert_chinese(
            app, "收起表单", "ceil：结束位置不早于", "抽样（学生词元数）", "每行一个：引出推理", "取自前 1,024 篇"
        )
        app.button_group(key="form-source").set_value("paste").run()
        app.text_area(key="form-pasted").set_value("苹果\n\n苹果").run()
        assert_chinese(app, "已读取提示：1 · 略去重复：1")


def test_a_choice_stays_when_the_language_changes():
    app = open_page("alignment", run="sample")
    app.button(key="form-toggle").click().run()
    app.selectbox(key="form-time").set_value("nearest").run()
    app.button_group(key="language-en").set_value("zh").run()
    assert_chinese(app, "收起表单")
    assert app.selectbox(key="form-time").value == "nearest"


def test_the_fusion_of_several_teachers():
    run = finished.run_of(finished.fused(read(bundled.ANALYSIS))).name
    app = open_page("alignment", run=run, view="fusion", cell="V-0-1", lang="zh")
    assert_chinese(app, "2 个教师合起来", "其他教师没有带来", "各教师的权重", "单独 R²：2 demo/teacher-b")


@pytest.mark.parametrize("view", ["heads", "timeline", "layers", "numbers"])
def test_both_classes_of_tokens_and_the_student_s_own(view):
    run = finished.run_of(finished.by_class(read(bundled.ANALYSIS))).name
    app = open_page("alignment", run=run, view=view, lang="zh")
    assert_chinese(app, "在 demo/student 自身词元无需教师即可解释的部分之上", "每类词元各有一个映射")


def test_an_analysis_with_one_map():
    run = finished.run_of(finished.of_one_map(read(bundled.ANALYSIS))).name
    assert_chinese(open_page("alignment", run=run, lang="zh"), "由较早的版本生成：所有词元共用一个映射")


def test_two_analyses():
    other = finished.shifted(read(bundled.ANALYSIS), "value", 2, 1, -0.4)
    run = finished.run_of(dataclasses.replace(other, prompts="mine.txt")).name
    app = open_page("alignment", run="sample", cell="V-2-1", lang="zh", **{"with": run})
    assert_chinese(app, "提示有差异", "有差异的设置", "超过 2 个标准误", "**A**：demo/teacher，自带样例")


def test_the_steps_that_a_head_keeps():
    run = finished.run_of(finished.of_rkv(read(bundled.ANALYSIS))).name
    assert_chinese(open_page("alignment", run=run, view="timeline", lang="zh"), "教师头保留的步")


def test_what_gave_no_result():
    error = {"kind": "k", "expected": "一", "found": "二", "remedy": "三"}
    failed = open_page("alignment", run=made("failed", error=error).name, lang="zh")
    assert_chinese(failed, "该分析失败", "**预期**：一", "**实际**：二\n\n**处理办法**：三")
    assert_chinese(open_page("alignment", run=made("cancelled").name, lang="zh"), "该分析已取消")
    assert_chinese(open_page("alignment", run="sample", lang="zh", **{"with": made("cancelled").name}), "已取消。")
