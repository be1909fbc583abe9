"""The Experiments page without a browser, and the button of the form that begins an experiment."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from kvlab.runs import experiment, run_queue, store
from kvlab.web.training import experiment as page
from tests.spoken import as_read
from tests.test_experiment import begun, finish

PAGES = Path(__file__).parents[1] / "pages"
SCRIPT = str(PAGES.parent / "kvlab" / "web" / "script.py")
pytestmark = [pytest.mark.page, pytest.mark.xdist_group("pages"), pytest.mark.usefixtures("worker_of_pages")]


@pytest.fixture(autouse=True)
def idle(monkeypatch):
    """A queue that starts nothing."""
    monkeypatch.setattr(run_queue, "attend", lambda *_: None)
    return store.runs_root()


def open_page(name="experiments", **query):
    app = AppTest.from_file(SCRIPT, default_timeout=60)
    for key, value in query.items():
        app.query_params[key] = value
    app = app.switch_page(str(PAGES / f"{name}.py")).run()
    assert not app.exception
    return app


def said(app):
    kinds = (app.markdown, app.error, app.warning, app.info, app.success, app.subheader, app.caption)
    return as_read("\n".join(element.value for kind in kinds for element in kind))


def keys(app):
    return {button.key for button in app.button}


def test_one_click_on_the_form_launches_a_run_with_its_controls(idle):
    assert "No experiments yet" in said(open_page())
    app = open_page("validation")
    app.button(key="launch-experiment").click().run()
    assert not app.exception
    (folder,) = experiment.listing(idle)
    described = experiment.read(folder)
    assert list(described.arms) == ["kv", "ce-only", "shuffled-teacher"] and described.seeds == page.SEEDS
    assert len(store.listing(idle)) == 9 and described.settings["max_steps"] == 100
    assert "Not judged yet: 9 of 9" in said(open_page())


def test_the_page_shows_verdict_intervals_and_runs_of_an_experiment(idle):
    folder = begun(idle)
    assert "experiment-stop" in keys(open_page())
    finish(folder)
    app = open_page(experiment=folder.name)
    text = said(app)
    assert "It does not help: no different from ce-only (-0.0020 [-0.0045, +0.0005], n = 3 seeds)" in text
    assert "Intervals are of 95.0%: look 1 of 1 planned." in text and "9 of 9 runs are over" in text
    comparisons, runs = (table.value for table in app.dataframe[:2])
    assert list(comparisons["call"][:2]) == ["no different", "better"] and len(runs) == 9
    app.button(key="experiment-more").click().run()
    assert experiment.read(folder).seeds == (0, 1, 2, 3, 4) and "seeds 3, 4" in said(app)

    run = experiment.read(folder).runs["kv"][0]
    assert "By its experiment:** Not judged yet" in said(open_page("validation", run=run))
    text = said(open_page(lang="zh"))
    assert "尚未判断" in text and "Intervals" not in text
