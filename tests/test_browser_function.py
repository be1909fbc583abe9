"""The functional test in a real browser: a head by a click, and both languages, kept over reloads and pages."""

import os
from urllib.parse import parse_qs, urlparse

import pytest

from tests import app as real
from tests.test_browser import click_cell

NEEDED = bool(os.environ.get("KVLAB_REQUIRE_BROWSER"))
pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(real.chromium() is None and not NEEDED, reason="no Chromium found: apt-get install chromium"),
]


def address(page):
    return {name: values[0] for name, values in parse_qs(urlparse(page.url).query).items()}


def test_a_head_is_picked_by_a_click_and_stays_in_the_language_that_is_chosen(app, page):
    page.goto(f"{app.url}/function?run=sample&view=heads&cell=K-3-0")
    page.get_by_role("heading", name="K, layer 3, head 0").wait_for()
    click_cell(page, plot=1, layer=1, head=1, opens="V, layer 1, head 1")
    assert address(page)["cell"] == "V-1-1"

    page.get_by_text("中文", exact=True).click()
    chosen = page.get_by_role("heading", name="V，第 1 层第 1 头")
    chosen.wait_for()
    page.wait_for_url("**lang=zh**")
    page.reload()
    chosen.wait_for()
    assert page.locator("html").get_attribute("lang") == "zh"
    assert address(page) == {"run": "sample", "view": "heads", "cell": "V-1-1", "lang": "zh"}

    page.get_by_role("link", name="运行记录").click()
    page.get_by_role("heading", name="运行记录").wait_for()
    page.wait_for_url("**/runs?lang=zh")
    page.get_by_text("English", exact=True).click()
    page.get_by_role("heading", name="Runs").wait_for()
    page.wait_for_url("**/runs?lang=en")


def test_one_step_back_is_the_page_before(app, page):
    page.goto(f"{app.url}/runs")
    page.get_by_role("heading", name="Runs").wait_for()
    page.get_by_role("link", name="Validation").click()
    page.get_by_role("heading", name="Validation").wait_for()
    page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for()
    page.go_back()
    page.get_by_role("heading", name="Runs").wait_for()
