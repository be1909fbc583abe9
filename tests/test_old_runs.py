"""Run folders that an earlier version wrote, with finished English sentences, open everywhere in both languages.

Three training runs (one whose loss became infinite, one that is done, one whose teacher was not found), two analyses
(one failed) and a functional test. Their names and document ids are words that kvlab itself says: done, training,
running, waiting.
"""

import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from kvlab import PACKAGE, PROJECT
from kvlab.cli.main import main
from kvlab.language import speaking
from kvlab.results.alignment import data as alignments
from kvlab.results.alignment.page import html
from kvlab.results.alignment.sentences import sentence
from kvlab.results.function import data as injections
from kvlab.runs import store
from tests.spoken import as_read

OLD = Path(__file__).parent / "old_runs"
RUNS = sorted(folder.name for folder in OLD.iterdir())


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    shutil.copytree(OLD, tmp_path / "runs")
    monkeypatch.setenv("KVLAB_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def name_of(run):
    return run.split("Z-")[1].rsplit("-", 1)[0]


def shown(app):
    kinds = ("markdown", "caption", "error", "warning", "info", "success", "title", "subheader", "metric")
    texts = [str(element.value) for kind in kinds for element in app.get(kind) if hasattr(element, "value")]
    return as_read("\n".join(texts))


def page(name, language, **parameters):
    app = AppTest.from_file(str(PACKAGE / "web" / "script.py"), default_timeout=120)
    for key, value in {"lang": language, **parameters}.items():
        app.query_params[key] = value
    return app.switch_page(str(PROJECT / "pages" / f"{name}.py")).run()


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("run", RUNS)
def test_the_command_line_shows_an_old_run(run, language, capsys):
    assert main(["runs", "show", run, *(("--language", language) if language != "en" else ())]) == 0
    printed = capsys.readouterr().out
    assert name_of(run) in printed
    if name_of(run) == "diverges":
        assert "NaN or Inf in grad_norm at step 2" in printed and "a smaller learning rate: --lr 100" in printed


def test_an_old_note_is_shown_as_it_was_written():
    (folder,) = OLD.glob("*-training-1eae")
    (note,) = alignments.read(folder).notes
    words = "161 of 161 documents were longer than 60 teacher or 60 student tokens and were cut: done, training, "
    for language in ("en", "zh"):
        with speaking(language):
            assert str(note).startswith(words)


def test_an_old_analysis_says_that_it_has_one_map_for_all_tokens():
    (folder,) = OLD.glob("*-training-1eae")
    old = alignments.read(folder)
    assert not old.by_class and old.row_class(0) is None and not any(score.has_classes for score in old.heads)
    assert "made by an earlier version, with one map for all tokens" in html(old)
    with speaking("zh"):
        assert "由较早的版本生成" in sentence(old)


def test_old_functional_tests_and_errors_are_read():
    (folder,) = OLD.glob("*-done-*")
    assert any("Only 3 documents are judged" in note for note in injections.read(folder).notes)
    (failed,) = OLD.glob("*-running-*")
    assert store.read_status(failed)["error"]["found"] == "no folder /no/such/model"


@pytest.mark.page
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("run", RUNS)
def test_the_pages_show_an_old_run(run, language):
    kind = store.read_status(OLD / run)["kind"]
    pages = {"training": ("validation", "runs"), "analysis": ("alignment",), "injection": ("function",)}[kind]
    for name in pages:
        app = page(name, language, **({"runs": run} if name == "runs" else {"run": run}))
        assert not app.exception, (name, app.exception)
        assert name_of(run) in shown(app) or name_of(run) in str(app), name
