"""The answer in a real browser, 1280 x 800: on the first screen, in few words, with the detail of a clicked cell."""

import os
import shutil

import pytest

from kvlab.host import bundled
from kvlab.results.alignment.data import read
from tests import app as real
from tests import finished
from tests.test_answer import VERDICTS, case
from tests.test_browser import click_cell
from tests.waiting import wait_until

NEEDED = bool(os.environ.get("KVLAB_REQUIRE_BROWSER"))
pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(real.chromium() is None and not NEEDED, reason="no Chromium found: apt-get install chromium"),
]
MOST_WORDS = 60  # beside the figure
# The words of the page that can be read without scrolling, but those within a figure.
WORDS = """() => {
  const main = document.querySelector('[data-testid="stMainBlockContainer"]'), found = [];
  const walker = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const place = walker.currentNode.parentElement;
    if (place.closest('.js-plotly-plot, style, [data-testid="stIconMaterial"]') || !place.checkVisibility()) continue;
    const box = place.getBoundingClientRect();
    if (box.height > 0 && box.top < window.innerHeight) found.push(walker.currentNode.textContent);
  }
  return found.join(' ').split(/\\s+/).filter(word => /[\\p{L}\\p{N}]/u.test(word));
}"""


def ready(page):
    page.locator(".js-plotly-plot .main-svg").nth(2).wait_for()
    page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for()


def bottom(shown):
    box = shown.bounding_box()
    return box["y"] + box["height"] if box and box["y"] > 0 else 0


def test_the_first_screen_answers_known_cases_each_the_latest_analysis(app, page, monkeypatch):
    """The address without a run is that of the latest."""
    monkeypatch.setenv("KVLAB_RUNS", str(app.runs))
    sample = read(bundled.ANALYSIS)
    for name, verdict in VERDICTS.items():
        folder = finished.run_of(case(sample, name))
        try:
            for place in ("", "alignment") if verdict == "No" else ("",):
                page.goto(f"{app.url}/{place}")
                answer = page.locator(".st-key-answer")
                answer.get_by_text(f"{verdict}.", exact=True).wait_for()
                page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for()
                # Until what the page showed before is gone.
                wait_until(lambda shown=answer: 0 < bottom(shown) < 250, 60, f"{name}, {place}: the answer at the top")
        finally:
            shutil.rmtree(folder)


def test_the_first_screen_has_few_words_beside_its_figure(app, page, monkeypatch):
    """Of an analysis of one's own, which has a longer name than the sample."""
    monkeypatch.setenv("KVLAB_RUNS", str(app.runs))
    finished.run_of(read(bundled.ANALYSIS))
    page.goto(app.url)
    ready(page)
    words = page.evaluate(WORDS)
    assert 20 < len(words) <= MOST_WORDS, words
    assert "Align" in words
    for plot in page.locator(".js-plotly-plot").all()[:3]:
        box = plot.bounding_box()
        assert box["y"] + box["height"] < 800


def test_the_detail_of_a_clicked_cell_is_seen_without_scrolling(app, page):
    page.goto(f"{app.url}/alignment?run=sample&cell=K-3-0")
    page.get_by_role("heading", name="K, layer 3, head 0").wait_for()
    click_cell(page, plot=1, layer=2, head=1, opens="V, layer 2, head 1")
    ready(page)
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop") == 0
    detail = page.locator(".st-key-detail")
    seen = (
        detail.get_by_role("heading"),
        detail.get_by_text("its strongest control"),
        detail.locator(".js-plotly-plot"),
    )
    for part in seen:
        box = part.first.bounding_box()
        assert box["y"] + box["height"] <= 800, part
