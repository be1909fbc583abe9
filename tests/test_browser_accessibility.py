"""Every page before an accessibility engine (axe-core): light in English, also as narrow as a phone; dark in Chinese.

The rules are those of WCAG 2.1, levels A and AA.
"""

import os
import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import TimeoutError

from tests import app as real
from tests import trained
from tests.screenshots import PAGES, address, settled, spoken

NEEDED = bool(os.environ.get("KVLAB_REQUIRE_BROWSER"))
pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(real.chromium() is None and not NEEDED, reason="no Chromium found: apt-get install chromium"),
]
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
# What cannot be used needs no contrast (WCAG 1.4.3); the engine does not see that this label is of such a field.
OF_A_DISABLED_FIELD = "Fusion of teachers"
COMPUTER, PHONE = ({"width": width, "height": 800} for width in (1280, 390))
FITS = "() => document.querySelector('[data-testid=stMain]').scrollWidth <= innerWidth"


@pytest.fixture
def runs(app):
    """Two runs of the server that the browser tests share, away again afterwards."""
    folders = [trained.by_hand(app.runs, name) for name in ("one", "two")]
    yield [folder.name for folder in folders]
    for folder in folders:
        shutil.rmtree(folder)


@pytest.mark.parametrize(("theme", "language"), [("light", "en"), ("dark", "zh")])
def test_no_page_breaks_a_rule_or_is_wider_than_a_phone(app, runs, chromium, theme, language):
    one, two = runs
    found = []
    context = chromium.new_context(viewport=COMPUTER, color_scheme=theme)
    real.let_in(context)
    page = context.new_page()
    page.set_default_timeout(real.LONG)
    for name, (path, awaited) in PAGES.items():
        page.set_viewport_size(COMPUTER)
        page.goto(f"{app.url}/{address(path.format(one=one, two=two), language)}")
        awaited = "Report and files" if name == "validation" else awaited
        page.get_by_text(spoken(awaited, language)).first.wait_for()
        settled(page)
        assert page.locator("html").get_attribute("lang") == language
        for rule in Axe().run(page, options=RULES).response["violations"]:
            found += [
                f"{name}: {rule['id']}: {node['html']} {node['failureSummary']}"
                for node in rule["nodes"]
                if spoken(OF_A_DISABLED_FIELD, language) not in node["html"]
            ]
        if theme == "dark":
            continue  # the same boxes, and Chinese words are shorter
        page.set_viewport_size(PHONE)
        try:
            page.wait_for_function(FITS, timeout=120_000)  # figures take their new width one after the other
        except TimeoutError:
            found.append(f"{name}: wider than a phone")
    context.close()
    assert not found, "\n".join(found)
