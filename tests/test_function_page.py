"""The Function page without a browser: the sample at once, what is asked for, bad runs in one clear message each."""

import shutil

import pytest

from kvlab.host import bundled
from kvlab.language import speaking
from kvlab.request.inject import InjectSettings
from kvlab.results import answer
from kvlab.results.alignment.data import read as read_analysis
from kvlab.results.alignment.sentences import sentence
from kvlab.results.function import data
from kvlab.results.function.sentences import head_sentence, hybrid_sentence, lead_sentence, shares, verdict_sentence
from kvlab.results.style import KIND_NAME
from kvlab.runs import store
from kvlab.web.function import source, texts
from tests.test_chinese_analysis import ENGLISH
from tests.test_function_report import with_sources
from tests.test_pages import open_page, said, unsaved

pytestmark = [pytest.mark.page, pytest.mark.xdist_group("pages"), pytest.mark.usefixtures("worker_of_pages")]
VIEWS = ("verdict", "heads", "texts", "numbers")


@pytest.fixture(scope="module")
def sample():
    return data.read(bundled.FUNCTION)


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_of_the_sample_opens_by_address(sample, view):
    app = open_page("function", run="sample", view=view)
    assert not app.exception
    assert app.query_params["view"] == view
    assert not unsaved(app)
    assert data.sentence(sample) in said(app)


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_in_chinese(view):
    app = open_page("function", run="sample", view=view, lang="zh")
    assert not app.exception
    shown = [e.value for kind in (app.markdown, app.caption, app.subheader, app.title) for e in kind]
    shown += [
        widget.label for kind in (app.button, app.selectbox, app.segmented_control, app.expander) for widget in kind
    ]
    of_texts = [text for text in shown if "⟦" in text or "⏎" in text]
    assert not [text for text in shown if ENGLISH.search(text) and text not in of_texts]


def test_the_share_that_is_chosen_is_the_one_that_is_judged(sample):
    app = open_page("function", run="sample", view="verdict")
    share = shares(sample)[0]
    app.select_slider(key="share-sample").set_value(share).run()
    assert verdict_sentence(sample, share) in said(app)
    assert verdict_sentence(sample, sample.injection["prefix"]) not in said(app)


def test_a_cell_in_the_address_is_the_pinned_head(sample):
    app = open_page("function", run="sample", view="heads", cell="V-3-1")
    assert "V, layer 3, head 1" in [heading.value for heading in app.subheader]
    assert head_sentence(sample, "value", 3, 1) in said(app)
    worst = max((s for s in sample.swaps if s.head is not None and s.kind == "key"), key=lambda s: s.kl)
    app = open_page("function", run="sample", view="heads", cell="K-99-0")
    assert f"K, layer {worst.layer}, head {worst.head}" in [heading.value for heading in app.subheader]


def test_texts_are_shown_as_they_are_with_the_differing_tokens_marked(sample):
    made = data.Continued("projected", ["a", "*b*", "<i>", "\n"], [False, True, True, False], "a*b*<i>\n", None, None)
    assert texts.marked(made) == "a:orange-background[⟦\\*b\\*\\<i\\>⟧] ⏎ "
    app = open_page("function", run="sample", view="texts")
    assert any("⟦" in element.value for element in app.markdown)


def test_both_sources_and_what_must_still_be_read_are_shown(monkeypatch, sample):
    told, share = with_sources(sample)
    monkeypatch.setattr(source, "injection_of", lambda run_id: told)
    app = open_page("function", run="sample", view="verdict")
    assert not app.exception
    assert verdict_sentence(told, share) in said(app) and hybrid_sentence(told) in said(app)
    assert ["first layers"] * 4 in [list(table.value["part"][:4]) for table in app.dataframe if "part" in table.value]
    chinese = open_page("function", run="sample", view="verdict", lang="zh")
    assert not chinese.exception and "学生还须自己读多少" in said(chinese)


def test_an_analysis_with_a_functional_test_leads_with_it(sample):
    app = open_page("alignment", run="sample", view="heads", cell="V-3-1")
    shown = said(app)
    answered = answer.of_analysis(read_analysis(bundled.ANALYSIS), sample)
    assert 0 <= shown.index(answered.why) < shown.index(sentence(read_analysis(bundled.ANALYSIS)))
    assert lead_sentence(sample) in shown  # behind the method's mark
    assert head_sentence(sample, "value", 3, 1) in shown
    table = next(table.value for table in app.dataframe if "attention_r2" in table.value)
    r2 = {(KIND_NAME[c.kind], c.layer, c.head): 1 - c.error for c in sample.attention if c.kind in KIND_NAME}
    assert dict(zip(zip(table["kind"], table["layer"], table["head"]), table["attention_r2"])) == r2


def test_the_form_asks_for_what_was_chosen(monkeypatch):
    asked = []
    monkeypatch.setattr(source, "launch", lambda request, documents: asked.append((request, documents)) or "x")
    app = open_page("function", run="sample")
    app.button(key="function-form-toggle").click().run()
    assert (
        app.selectbox(key="function-time").options == ["exact", "floor"]
        or len(app.selectbox(key="function-time").options) == 2
    )  # the causal ones
    app.select_slider(key="function-prefix").set_value(0.3).run()
    app.number_input(key="function-swap-layers").set_value(2).run()
    app.number_input(key="function-seconds").set_value(60).run()
    app.checkbox(key="function-hybrid").uncheck().run()
    app.button(key="function-button").click().run()
    (request, documents), *_ = asked
    assert request.injection == InjectSettings(prefix=0.3, swap_layers=2, seconds=60.0, hybrid=False)
    assert request.settings.time == "floor" and len(documents) == 160


def test_the_form_says_what_refining_costs():
    """Of 160 samples in five folds, 128 are fitted; a projector that is no ridge has no map of the own token."""

    def told(app):
        return " ".join(caption.value for caption in app.caption)

    app = open_page("function", run="sample")
    app.button(key="function-form-toggle").click().run()
    assert "At most 6 passes over 128 documents for each of 3 sources" in told(app)
    app.selectbox(key="form-projector").set_value("structured").run()
    assert "128 documents for each of 2 sources" in told(app)
    app.number_input(key="form-folds").set_value(2).run()
    assert "At most 6 passes over 80 documents" in told(app)


def test_the_form_starts_with_the_defaults_of_a_request(monkeypatch):
    asked = []
    monkeypatch.setattr(source, "launch", lambda request, documents: asked.append(request) or "x")
    app = open_page("function", run="sample")
    app.button(key="function-form-toggle").click().run()
    app.button(key="function-button").click().run()
    assert asked[0].injection == InjectSettings()


def test_a_test_of_an_analysis_has_its_prompts_and_settings_and_is_found_by_it(monkeypatch, sample):
    submitted = []
    monkeypatch.setattr("kvlab.web.backend.worker", lambda: type("Worker", (), {"submit": submitted.append}))
    run_id = source.launch_like("sample")
    folder = store.runs_root() / run_id
    assert submitted == [folder] and store.read_status(folder)["kind"] == "injection"
    assert (folder / "prompts.jsonl").read_text(encoding="utf-8").count("\n") == 160
    assert (folder / source.FROM).read_text() == "sample"
    (folder / source.FROM).write_text("20260101T000000.000Z-some-analysis-abcd")
    assert source.of_analysis("20260101T000000.000Z-some-analysis-abcd") is None  # not finished
    shutil.copy(bundled.FUNCTION / data.JSON_NAME, folder)
    store.write_status(folder, state="done")
    assert source.of_analysis("20260101T000000.000Z-some-analysis-abcd").own == sample.own
    assert source.of_analysis("another") is None
    (folder / data.JSON_NAME).write_text("{")
    assert source.of_analysis("20260101T000000.000Z-some-analysis-abcd") is None  # the report goes without it


@pytest.mark.parametrize(
    ("state", "words"),
    [("cancelled", "This functional test was stopped."), ("failed", "This functional test failed")],
)
def test_a_test_without_a_result_says_why(state, words):
    folder = store.create(store.runs_root(), "injection", "pair", {})
    error = {"kind": "x", "expected": "a thing", "found": "none", "remedy": "bring one"}
    store.write_status(folder, state=state, error=error)
    app = open_page("function", run=folder.name)
    assert not app.exception and words in said(app)
    assert ("bring one" in said(app)) == (state == "failed")


def test_an_own_cache_that_does_not_reproduce_is_all_that_is_said(monkeypatch, sample):
    broken = data.Injection(
        sample.settings,
        sample.injection,
        sample.teachers,
        sample.student,
        sample.data,
        {"largest_difference": 0.5, "tolerance": 1e-4, "reproduces": False},
    )
    monkeypatch.setattr(source, "injection_of", lambda run_id: broken)
    app = open_page("function", run="sample")
    assert not app.exception and "Nothing is reported" in said(app)
    assert not app.segmented_control or all(c.key != "function-view" for c in app.segmented_control)
    with speaking("zh"):
        assert data.sentence(broken) != data.sentence(sample)
