"""The Certificate page without a browser: the sample at once, every view, the form, a run that failed."""

import pytest

from kvlab.host import bundled
from kvlab.language import speaking
from kvlab.request.certify import Gates
from kvlab.results.certificate import data, words
from kvlab.results.function import data as function
from kvlab.runs import store
from kvlab.web import backend
from tests.test_chinese_analysis import ENGLISH
from tests.test_pages import open_page, said, unsaved

pytestmark = [pytest.mark.page, pytest.mark.xdist_group("pages"), pytest.mark.usefixtures("worker_of_pages")]
VIEWS = ("gates", "prompts", "latency", "heads")


@pytest.fixture(scope="module")
def sample():
    return data.read(bundled.CERTIFICATE)


def test_the_sample_is_the_bundled_functional_tests(sample):
    test = function.read(bundled.FUNCTION)
    measured = {row.variant: row for row in test.at(0.5)}
    assert {row.variant: (row.kl, row.kl_p95, row.n) for row in sample.injected} == {
        name: (row.kl, row.kl_p95, row.n) for name, row in measured.items()
    }
    assert sample.verdict == "hand-over" and sample.documents_judged == test.data["documents_judged"]
    assert sample.gates == Gates() and sample.longest == sample.longest_fitted


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_of_the_sample_opens_by_address_in_both_languages(sample, view):
    app = open_page("certificate", run="sample", view=view)
    assert not app.exception and app.query_params["view"] == view and not unsaved(app)
    assert words.answered(sample).why in said(app)
    assert any("**Hand over.**" in element.value for element in app.markdown)
    chinese = open_page("certificate", run="sample", view=view, lang="zh")
    assert not chinese.exception
    with speaking("zh"):
        assert words.answered(sample).why in said(chinese)
    shown = [e.value for kind in (chinese.markdown, chinese.caption, chinese.title) for e in kind]
    shown += [
        widget.label for kind in (chinese.button, chinese.selectbox, chinese.segmented_control) for widget in kind
    ]
    shown += [column for table in chinese.dataframe for column in table.value.columns]
    assert not [text for text in shown if ENGLISH.search(text)]


def test_the_form_asks_for_what_was_chosen(monkeypatch):
    asked = []
    monkeypatch.setattr(backend, "launch", lambda request, documents, kind: asked.append((request, kind)) or "x")
    app = open_page("certificate", run="sample")
    app.button(key="certificate-form-toggle").click().run()
    app.number_input(key="certificate-kl").set_value(0.35).run()
    app.number_input(key="certificate-cosine").set_value(0.5).run()
    app.checkbox(key="certificate-groups").uncheck().run()
    shown = [code.value for code in app.code]
    assert any(
        line.startswith("python -m kvlab certify --teacher demo/teacher") and "--kl-p95 0.35" in line for line in shown
    )
    app.button(key="certificate-button").click().run()
    (request, kind), *_ = asked
    assert kind == "certificate" and (request.teacher, request.student) == ("demo/teacher", "demo/student")
    assert request.gates == Gates(kl_p95=0.35, head_output_cosine=0.5, every_group=False)


def test_a_failed_and_a_damaged_certificate_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("KVLAB_RUNS", str(tmp_path))
    folder = store.create(tmp_path, "certificate", "a", {"teacher": "demo/teacher", "student": "demo/student"})
    store.write_status(folder, state="failed", error={"kind": "x", "expected": "e", "found": "f", "remedy": "r"})
    app = open_page("certificate", run=folder.name)
    assert not app.exception and "This certificate failed" in [heading.value for heading in app.subheader]
    store.write_status(folder, state="done")
    (folder / data.NAME).write_text("{}", encoding="utf-8")
    app = open_page("certificate", run=folder.name)
    assert not app.exception and "certificate as written by kvlab" in said(app)


def test_a_certificate_of_which_nothing_was_measured_opens_in_every_view(sample, tmp_path, monkeypatch):
    monkeypatch.setenv("KVLAB_RUNS", str(tmp_path))
    empty = {name: () for name, rows in sample if isinstance(rows, tuple) and name != "teachers"}
    nothing = sample.model_copy(update={**empty, "verdict": "prefill-anew", "own_layers": 0}).signed()
    folder = store.create(tmp_path, "certificate", "a", {"teacher": "demo/teacher", "student": "demo/student"})
    data.write(nothing, folder)
    store.write_status(folder, state="done")
    for view in VIEWS:
        app = open_page("certificate", run=folder.name, view=view)
        assert not app.exception and any("Prefill anew" in element.value for element in app.markdown)
