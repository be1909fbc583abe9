"""User text is never Markdown: not in a sentence, a label, a help text or an option of any page."""

import ast
import json
import re
from concurrent.futures import Future
from dataclasses import asdict
from itertools import chain

import pytest
from markdown_it import MarkdownIt
from streamlit.testing.v1 import AppTest, local_script_runner

from kvlab import PACKAGE
from kvlab.errors import KvlabError
from kvlab.host import bundled
from kvlab.language import Message
from kvlab.results.alignment import so_far
from kvlab.results.alignment.data import read
from kvlab.results.alignment.so_far import SoFar
from kvlab.runs import process, store
from kvlab.shapes import Geometry
from kvlab.web import backend, server
from kvlab.web.alignment import one_head
from kvlab.web.widgets import plain
from tests import hostile
from tests.catalogue import called
from tests.hostile import NAME, PLAIN, markup, written
from tests.spoken import as_read
from tests.test_first_look import SCORES
from tests.test_pages import SCRIPT, open_page

PAGE = [pytest.mark.page, pytest.mark.xdist_group("pages"), pytest.mark.usefixtures("worker_of_pages")]
NOTHING = ":small[]"  # Streamlit's; CommonMark does not know it
# What Streamlit 1.67 and its plugins replace in the texts of a parsed document, where an escaped sign is as any other.
SOUGHT = re.compile(
    r":[\w+/-]+:|https?:/|www(?=\.)|[-.\w+]+@[-\w]+\.\w|(^|\s)(<->|->|<-|--|>=|<=|~=)(\s|$)", re.IGNORECASE
)
PATTERNS = ["a -> b", "a <- b", "a <-> b", "a -- b", "a >= b", "a <= b", "a ~= b", "-> b", "a --", "HTTPS://x", "WWW.x"]


def page_test(test):
    for mark in PAGE:
        test = mark(test)
    return test


@pytest.mark.parametrize(
    "text", [*NAME.split(" "), NAME, "# a", "- a", "1. a", "2) a", "+ a", "---", "a | b", "&copy;"]
)
def test_escaped_text_is_one_paragraph_of_that_text(text):
    opening, inline, _ = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(plain(text))
    assert opening.type == "paragraph_open" and {token.type for token in inline.children} <= {"text", "text_special"}
    assert "".join(token.content for token in inline.children).replace(NOTHING, "") == text


@pytest.mark.parametrize("text", [NAME, *NAME.split(" "), *PATTERNS])
def test_escaped_text_is_parted_where_streamlit_looks_for_icons_emoji_addresses_and_arrows(text):
    assert SOUGHT.search(text) or text not in (NAME, *PATTERNS)
    parts = [as_read(part) for part in plain(text).split(NOTHING)]
    assert "".join(parts) == text and not any(SOUGHT.search(part) for part in parts)


def test_escaped_text_is_on_one_line_and_keeps_its_spaces_around():
    assert plain(" a\n\n\tb\r\n") == " a b "
    assert plain("half \ud800") == "half ?"


@pytest.mark.parametrize("text", [NAME, *NAME.split(" ")])
def test_the_look_for_markup_sees_each_part_and_nothing_of_escaped_text(text):
    assert markup(plain(text)) == []
    assert markup(text) or text in ("->", "a", "b", "[evil](http://evil.example)")


# What people, files or libraries name: attributes and keys.
NAMING = {"name", "id", "text", "expected", "found", "remedy", "device", "dtype", "prompts", "note", "error", "teacher"}
NAMING |= {"student", "answer", "path", "file"}
SPEAKS = ("say", "plural")
DRAWS = {"markdown", "caption", "info", "warning", "error", "success", "title", "subheader", "metric", "progress"}
DRAWS |= {"spinner", "button", "download_button", "page_link", "expander", "popover", "toggle", "checkbox"}
ESCAPED_LATER = {  # heads of a table are no Markdown; a line of facts is escaped as a whole
    ("overview.py", "geometries[0].name"),
    ("overview.py", "geometries[1].name"),
    ("live.py", "view.id"),
}


def named(node):
    """The parts of an expression that are names, outside of ``plain``. Other functions are not looked into."""
    if isinstance(node, ast.Call) and called(node) not in (*SPEAKS, "str", "repr"):
        return
    key = node.attr if isinstance(node, ast.Attribute) else None
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        key = node.slice.value
    if key in NAMING:
        yield ast.unparse(node)
    for child in ast.iter_child_nodes(node):
        yield from named(child)


def test_a_sentence_of_a_page_takes_names_through_plain_only():
    """In the source; the pages below are walked with such names."""
    found = set()
    for path in (PACKAGE / "web").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            said = [keyword.value for keyword in call.keywords] if called(call) in SPEAKS else []
            if isinstance(call.func, ast.Attribute) and call.func.attr in DRAWS:
                said = [
                    *call.args[:1],
                    *(keyword.value for keyword in call.keywords if keyword.arg in ("text", "help")),
                ]
            found |= {(path.name, name) for value in said for name in named(value)}
    assert found == ESCAPED_LATER


@pytest.fixture
def sent(monkeypatch):
    """Every message that pages send from now on."""
    messages, parse = [], local_script_runner.parse_tree_from_messages

    def seen(forwarded):
        messages.extend(message for message in forwarded if message.HasField("delta"))
        return parse(forwarded)

    monkeypatch.setattr(local_script_runner, "parse_tree_from_messages", seen)
    return messages


def called_out(sent) -> list[tuple[str, str]]:
    """Where names would be Markdown: the field and the text."""
    texts = chain.from_iterable(written(message.delta) for message in sent)
    return [(field, text) for field, text in texts if field not in PLAIN and markup(text)]


def shows(app, sent):
    """The page is whole and has a hostile name on it, and none is Markdown. Forget what was sent."""
    assert not app.exception
    assert any("evil" in text for message in sent for _, text in written(message.delta))
    assert not called_out(sent)
    tables = [str(value) for table in app.table for value in table.value.to_numpy().ravel()]
    assert not [text for text in tables if markup(text)]
    sent.clear()


@page_test
def test_no_name_in_an_analysis_is_markdown(sent):
    run = hostile.analysis_run().name
    for view in ("layers", "timeline", "fusion", "compare", "numbers"):
        shows(open_page("alignment", run=run, view=view, **({"with": run} if view == "compare" else {})), sent)
    for pane in one_head.VIEWS:
        shows(open_page("alignment", run=run, view="heads", pane=pane), sent)


@page_test
def test_no_name_in_a_functional_test_is_markdown(sent):
    run = hostile.function_run().name
    for view in ("verdict", "heads", "texts", "numbers"):
        shows(open_page("function", run=run, view=view), sent)


@page_test
def test_no_name_in_a_certificate_is_markdown(sent):
    run = hostile.certificate_run().name
    for view in ("gates", "prompts", "latency", "heads"):
        shows(open_page("certificate", run=run, view=view), sent)


@page_test
def test_no_name_of_a_run_is_markdown(sent):
    trained, failed = hostile.training_run(), hostile.broken("training")
    for run in (trained, failed, hostile.broken("training", "cancelled"), hostile.training_run("a b")):
        app = open_page("runs", runs=run.name)
        shows(app, sent)
        shows(app.button(key="run-delete").click().run(), sent)
        shows(open_page("validation", run=run.name), sent)
    shows(open_page("runs", runs=f"{trained.name},{failed.name}"), sent)
    shows(open_page("runs", runs=hostile.analysis_run().name), sent)
    shows(open_page("runs", runs=f"{NAME},{failed.name}"), sent)
    for page in ("alignment", "function", "certificate", "validation"):
        shows(open_page(page, run=NAME), sent)


@page_test
@pytest.mark.parametrize("kind", ["analysis", "injection", "certificate", "training"])
def test_no_name_of_an_active_run_is_markdown(sent, kind):
    pages = {"analysis": "alignment", "injection": "function", "certificate": "certificate"}
    run, page = hostile.broken(kind), pages.get(kind, "validation")
    store.write_status(run, state="running", phase=NAME, done=1, total=3, error=None, **process.identity())
    so_far.write(SoFar(**(asdict(SCORES) | {"teacher": NAME})), run)
    shows(open_page(page, run=run.name), sent)
    if kind != "training":
        shows(open_page("checks"), sent)  # under the banner
    store.write_status(run, state="failed", error={"kind": "k", **dict.fromkeys(("expected", "found", "remedy"), NAME)})
    shows(open_page(page, run=run.name), sent)


@page_test
def test_no_name_of_a_model_is_markdown(sent, monkeypatch):
    app = AppTest.from_file(SCRIPT, default_timeout=60)
    for role in ("teacher", "student"):
        app.session_state[f"kept-{role}"] = NAME

    def unknown(name):
        raise KvlabError("model-not-found", expected=name, found=name, remedy=name)

    monkeypatch.setattr(backend, "geometry", unknown)
    shows(app.run(), sent)
    sample = read(bundled.ANALYSIS)
    monkeypatch.setattr(backend, "geometry", lambda name: Geometry.from_dict(sample.teacher | {"name": name}))
    part = {"name": Message("weights of {name}", name=NAME).to_dict(), "bytes": 1}
    forecast = {"device": NAME, "dtype": NAME, "free": 1, "total": 1, "parts": [part]}
    answers = {"forecast": forecast, "loaded": [NAME]}

    def answered(call, **_):
        future = Future()
        future.set_result(answers[call])
        return future

    monkeypatch.setattr(server.worker(), "question", answered)
    shows(app.run(), sent)


@page_test
def test_no_name_in_an_upload_is_markdown(sent):
    app = open_page("alignment", run="sample")
    app.button(key="form-toggle").click().run()
    app.button_group(key="form-source").set_value("upload").run()
    for kind, data in (("csv", f"{NAME};{NAME} 2\na;b\n"), ("jsonl", json.dumps({NAME: NAME}))):
        shows(app.file_uploader[0].set_value((f"{NAME}.{kind}", data.encode(), "text/plain")).run(), sent)
