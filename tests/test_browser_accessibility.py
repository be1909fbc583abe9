"""Every page in both themes before an accessibility engine (axe-core): the rules of WCAG 2.1, levels A and AA."""

import os
import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests import app as real
from tests import trained
from tests.screenshots import PAGES, settled

NEEDED = bool(os.environ.get("KVLAB_REQUIRE_BROWSER"))
pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(real.chromium() is None and not NEEDED, reason="no Chromium found: apt-get install chromium"),
]
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
# What cannot be used needs no contrast (WCAG 1.4.3); the engine does not see that this label is of such a field.
OF_A_DISABLED_FIELD = "Fusion of teachers"


@pytest.fixture
def runs(app):
    """Two runs of the server that the browser tests share, away again afterwards."""
    folders = [trained.by_hand(app.runs, name) for name in ("one", "two")]
    yield [folder.name for folder in folders]
    for folder in folders:
        shutil.rmtree(folder)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_breaks_a_rule(app, runs, chromium, theme):
    one, two = runs
    found = []
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, color_scheme=theme)
    real.let_in(context)
    page = context.new_page()
    page.set_default_timeout(120_000)
    for name, (path, awaited) in PAGES.items():
        page.goto(f"{app.url}/{path.format(one=one, two=two)}")
        page.get_by_text("Report and files" if name == "validation" else awaited).first.wait_for()
        settled(page)
        for rule in Axe().run(page, options=RULES).response["violations"]:
            found += [
                f"{name}: {rule['id']}: {node['html']} {node['failureSummary']}"
                for node in rule["nodes"]
                if OF_A_DISABLED_FIELD not in node["html"]
            ]
    context.close()
    assert not found, "\n".join(found)
