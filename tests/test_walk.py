"""The walk-through leads a new user over every step's page, and once dismissed it stays away."""

import pytest
from streamlit.testing.v1 import AppTest

from kvlab.runs import store
from kvlab.web import walk
from kvlab.web.walk import STEPS
from tests.test_pages import SCRIPT

pytestmark = [pytest.mark.page, pytest.mark.xdist_group("pages"), pytest.mark.usefixtures("worker_of_pages")]


def opened():
    return AppTest.from_file(SCRIPT, default_timeout=60).run()


def keys(app):
    return {button.key for button in app.button if (button.key or "").startswith("walk-")}


def test_it_leads_over_every_step_and_is_dismissed_for_good():
    app = opened()
    assert keys(app) == {"walk-again", "walk-start", "walk-never"}
    app.button(key="walk-start").click().run()
    for number, step in enumerate(STEPS, 1):
        assert not app.exception
        assert any(f"{number}/{len(STEPS)} · {step.title}" in said.value for said in app.markdown)
        if "view" in step.state:
            assert app.query_params["view"] == step.state["view"]
        if number < len(STEPS):
            app.button(key="walk-next").click().run()
    app.button(key="walk-done").click().run()
    assert keys(app) == {"walk-again"}
    assert (store.runs_root() / walk.DISMISSED).exists()
    assert store.listing(store.runs_root()) == []  # what is remembered is not a run
    assert keys(opened()) == {"walk-again"}


def test_closed_it_is_away_for_this_visit_only_and_can_be_called_back():
    app = opened()
    app.button(key="walk-start").click().run()
    app.button(key="walk-close").click().run()
    assert keys(app) == {"walk-again"}
    app.button(key="walk-again").click().run()
    assert keys(app) == {"walk-again", "walk-start", "walk-never"}
    assert keys(opened()) == {"walk-again", "walk-start", "walk-never"}


def test_where_nothing_can_be_written_it_is_dismissed_for_this_session(tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("in the way")
    monkeypatch.setenv("KVLAB_RUNS", str(tmp_path / "a file" / "runs"))
    app = opened()
    app.button(key="walk-never").click().run()
    assert not app.exception
    assert keys(app) == {"walk-again"}
