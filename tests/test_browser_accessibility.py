"""Every page before an accessibility engine (axe-core): dark in Chinese, then light in English and on a phone.

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
GROUND = "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor.match(/\\d+/)[0]"  # its red
STILL = """() => !document.getAnimations().some(found => found instanceof CSSTransition
  && found.playState === 'running' && /color|background/.test(found.transitionProperty))"""  # between two colours
FITS = "() => document.querySelector('[data-testid=stMain]').scrollWidth <= innerWidth"


@pytest.fixture
def runs(app):
    """Two runs of the server that the browser tests share, away again afterwards."""
    folders = [trained.by_hand(app.runs, name) for name in ("one", "two")]
    yield [folder.name for folder in folders]
    for folder in folders:
        shutil.rmtree(folder)


def broken(page, name, awaited, language, theme):
    """Wait for a page in a language and a theme -> the places that break a rule."""
    page.get_by_text(spoken(awaited, language)).first.wait_for()
    page.wait_for_function(f"() => document.documentElement.lang === '{language}'")
    page.wait_for_function(f"() => {GROUND} {'<' if theme == 'dark' else '>'} 127")
    settled(page)
    page.wait_for_function(STILL)
    return [
        f"{name}, {language}: {rule['id']}: {node['html']} {node['failureSummary']}"
        for rule in Axe().run(page, options=RULES).response["violations"]
        for node in rule["nodes"]
        if spoken(OF_A_DISABLED_FIELD, language) not in node["html"]
    ]


def test_no_page_breaks_a_rule_or_is_wider_than_a_phone(app, runs, chromium):
    """Each page is loaded once: language and theme change on it."""
    one, two = runs
    found = []
    context = chromium.new_context(viewport=COMPUTER)
    real.let_in(context)
    page = context.new_page()
    page.set_default_timeout(real.LONG)
    for name, (path, awaited) in PAGES.items():
        page.set_viewport_size(COMPUTER)
        page.emulate_media(color_scheme="dark")
        page.goto(f"{app.url}/{address(path.format(one=one, two=two), 'zh')}")
        awaited = "Report and files" if name == "validation" else awaited
        found += broken(page, name, awaited, "zh", "dark")
        page.emulate_media(color_scheme="light")
        page.get_by_text("English", exact=True).click()
        page.mouse.move(COMPUTER["width"] / 2, 1)  # away from the button, which has another colour under the mouse
        found += broken(page, name, awaited, "en", "light")
        page.set_viewport_size(PHONE)  # in English, whose words are the longer ones
        try:
            page.wait_for_function(FITS, timeout=120_000)  # figures take their new width one after the other
        except TimeoutError:
            found.append(f"{name}: wider than a phone")
    context.close()
    assert not found, "\n".join(found)
