"""The views of one head and the timeline, without a browser."""

import dataclasses

import pytest

from kvlab.host import bundled
from kvlab.language import say, speaking
from kvlab.request.prompts import read_prompts
from kvlab.results.alignment.data import read
from kvlab.runs import store
from kvlab.web import backend
from kvlab.web.alignment import one_head
from tests import finished
from tests.test_pages import open_page, said
from tests.test_plots_drill import without

pytestmark = [pytest.mark.page, pytest.mark.xdist_group("pages"), pytest.mark.usefixtures("worker_of_pages")]


@pytest.mark.parametrize("pane", list(one_head.VIEWS))
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_view_of_a_head_opens_by_address(pane, lang):
    app = open_page("alignment", run="sample", cell="V-3-1", pane=pane, lang=lang)
    assert not app.exception and app.query_params["pane"] == pane
    awaited = {
        "controls": "The teacher and the student’s own token together reach {both}: the teacher adds {added}.",
        "teacher-heads": "**Which teacher heads it is built from** (ridge refitted without, and with only, each)",
        "tokens": "**The worst tokens in their context**",
        "spectrum": "**Which directions of the head are explained** (eigenvectors of its covariance, held-out rows)",
        "time-rules": "**This head under every time rule**",
    }[pane]
    score = read(bundled.ANALYSIS).score("value", 3, 1)
    both, added = f"{score.r2_with_own:.3f} ± {score.with_own_se:.3f}", f"+{score.added:.3f} ± {score.added_se:.3f}"
    with speaking(lang):
        assert say(awaited, both=both, added=added) in said(app)


def test_a_pane_that_is_none_is_the_first_and_a_click_changes_it():
    app = open_page("alignment", run="sample", pane="<b>")
    assert not app.exception and "R² on documents held out" in said(app)
    app.button_group(key="pane").set_value("spectrum").run()
    assert "The largest direction holds" in said(app)
    app.button_group(key="view").set_value("timeline").run()
    app.button_group(key="view").set_value("heads").run()
    assert "The largest direction holds" in said(app)  # it is where it was


def test_the_worst_tokens_of_one_document_or_of_all():
    app = open_page("alignment", run="sample", cell="K-3-0", pane="tokens")
    table = next(t.value for t in app.dataframe if "read_from" in t.value.columns)
    assert len(table) == 12 and table["document"].nunique() == 1
    app.toggle(key="worst-all-sample").set_value(True).run()
    every = next(t.value for t in app.dataframe if "read_from" in t.value.columns)
    assert every["document"].nunique() > 1 and every["r2"].iloc[0] <= table["r2"].iloc[0]
    assert "12 worst of" in said(app)


def test_the_timeline_moves_zooms_and_shows_the_pinned_head():
    app = open_page("alignment", run="sample", view="timeline", cell="V-2-1")
    assert not app.exception and "exact borders" in said(app)
    assert app.selectbox(key="signal-head").value == ("value", 2, 1)
    app.selectbox(key="signal-head").set_value(("key", 1, 0)).run()
    assert app.query_params["cell"] == "K-1-0"
    captions = "\n".join(caption.value for caption in app.caption)
    assert "bytes 0–96" in captions and "Drawn is (x − training mean)" in captions
    app.select_slider(key="zoom-sample-0").set_value(48).run()
    app.slider(key="window-sample-0").set_value(64).run()
    assert "bytes 64–112" in "\n".join(caption.value for caption in app.caption)


@pytest.fixture
def old_run():
    old = without(read(bundled.ANALYSIS), "spectrum.", "rules.", ".signal.")
    settings = {name: value for name, value in old.settings.items() if name != "compare_rules"}
    return finished.run_of(dataclasses.replace(old, settings=settings))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"pane": "spectrum"}, "does not hold the spectrum"),
        ({"pane": "time-rules"}, "--compare-rules"),
        ({"view": "timeline"}, "does not hold the resampled signal"),
    ],
)
def test_an_earlier_analysis_opens_and_says_what_it_lacks(old_run, query, words):
    app = open_page("alignment", run=old_run.name, **query)
    assert not app.exception and words in said(app)


def test_the_button_compares_the_rules_of_the_same_prompts_in_a_new_analysis(old_run, monkeypatch):
    asked = []

    def launch(request, documents):
        asked.append((request, documents))
        return backend.SAMPLE

    monkeypatch.setattr(backend, "launch", launch)
    app = open_page("alignment", run=old_run.name, pane="time-rules")
    app.button(key="compare-rules").click().run()
    assert not app.exception
    ((request, documents),) = asked
    assert request.settings.compare_rules and request.teacher == store.read_config(old_run)["teacher"]
    assert documents == read_prompts(old_run / backend.RUN_PROMPTS)
    assert "This head under every time rule" in said(app)  # the new one is open: here, the sample


def test_the_form_asks_for_the_comparison(monkeypatch):
    asked = []
    monkeypatch.setattr(backend, "launch", lambda request, documents: asked.append(request))
    app = open_page("alignment", run="sample")
    app.button(key="form-toggle").click().run()
    app.toggle(key="form-compare-rules").set_value(True).run()
    app.button(key="run-button").click().run()
    assert asked[0].settings.compare_rules
