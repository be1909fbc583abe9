"""Every page in both themes before an accessibility engine (axe-core): the rules of WCAG 2.1, levels A and AA."""

import os

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests import app as real
from tests import trained
from tests.screenshots import PAGES, settled

NEEDED = bool(os.environ.get("KVLAB_REQUIRE_BROWSER"))
pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser-accessibility"),
    pytest.mark.skipif(real.chromium() is None and not NEEDED, reason="no Chromium found: apt-get install chromium"),
]
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
# What cannot be used needs no contrast (WCAG 1.4.3); the engine does not see that this label is of such a field.
OF_A_DISABLED_FIELD = "Fusion of teachers"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with real.running_app(tmp_path_factory.mktemp("runs")) as running:
        yield running


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_breaks_a_rule(app, theme):
    one, two = (trained.by_hand(app.runs, name).name for name in ("one", "two"))
    found = []
    with real.browser() as browser:
        context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=theme)
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
    assert not found, "\n".join(found)
