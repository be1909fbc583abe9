"""The answer in a real browser, 1280 x 800: on the first screen, in few words, with the detail of a clicked cell."""

import os
import shutil

import pytest

from kvlab.host import bundled
from kvlab.results.alignment.data import read
from tests import app as real
from tests import finished
from tests.screenshots import FIGURE, address
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
    if (place.closest('[role=img], style, [data-testid="stIconMaterial"]') || !place.checkVisibility()) continue;
    const box = place.getBoundingClientRect();
    if (box.height > 0 && box.top < window.innerHeight) found.push(walker.currentNode.textContent);
  }
  return found.join(' ').split(/\\s+/).filter(word => /[\\p{L}\\p{N}]/u.test(word));
}"""


# Words of a figure that lie over others of it, or over its edge.
COLLISIONS = """figure => {
  const edge = figure.getBoundingClientRect();
  const words = [...figure.querySelectorAll('.text')].map(found => [found.textContent, found.getBoundingClientRect()]);
  const within = a => Math.min(a.left - edge.left, edge.right - a.right, a.top - edge.top, edge.bottom - a.bottom);
  const shared = (a, b) => Math.min(
    Math.min(a.right, b.right) - Math.max(a.left, b.left), Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));
  return words.flatMap(([text, a], n) => [
    ...(within(a) < -1 ? [text + ' | edge'] : []),
    ...words.slice(n + 1).filter(([, b]) => shared(a, b) > 1).map(([other]) => text + ' | ' + other)]);
}"""


def ready(page, figure=FIGURE):
    page.locator(figure).nth(2).wait_for()
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
    page.get_by_role("button", name="Align my own prompts").wait_for()
    words = page.evaluate(WORDS)
    assert 20 < len(words) <= MOST_WORDS, words
    assert "Align" in words
    for figure in page.locator(FIGURE).all()[:3]:
        box = figure.bounding_box()
        assert box["y"] + box["height"] < 800


def test_a_first_visit_shows_its_figures_without_the_script_of_plotly(app, chromium):
    with real.tab(chromium) as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url.lower()))
        page.goto(app.url)
        ready(page)
        page.get_by_text("Memory forecast on").wait_for()
        cells = page.locator(f"{FIGURE} .cell")
        assert cells.count() == 16
        box = cells.first.bounding_box()
        pointed = page.evaluate(
            "([x, y]) => document.elementFromPoint(x, y).title",
            [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2],  # on its number
        )
        assert pointed.startswith("K layer 0, head 0\n") and "over the student’s own tokens" in pointed
        assert not [url for url in asked if "plotly" in url] and any("/html." in url for url in asked)
        page.goto(f"{app.url}/alignment?run=sample")
        page.locator(".js-plotly-plot").first.wait_for()
        assert [url for url in asked if "plotly" in url]  # how its script is called


@pytest.mark.parametrize(("width", "language"), [(1280, "en"), (1280, "zh"), (390, "en"), (700, "en")])
def test_no_word_of_a_figure_lies_over_another_or_over_its_edge(app, page, width, language, monkeypatch):
    """Of an analysis without a functional test, whose bars are in pairs, then of the sample."""
    monkeypatch.setenv("KVLAB_RUNS", str(app.runs))
    page.set_viewport_size({"width": width, "height": 800})
    folder = finished.run_of(read(bundled.ANALYSIS))
    page.goto(f"{app.url}/{address('', language)}")
    figures = page.locator(FIGURE)
    for legend, bars in ((2, 14), (0, 8)):
        wait_until(lambda bars=bars: page.locator(f"{FIGURE} .bar").count() == bars, 60, f"{bars} bars")
        page.locator(f"{FIGURE} .block").first.wait_for()
        assert figures.count() == 4 and page.locator(f"{FIGURE} .key").count() == legend
        assert [figure.evaluate(COLLISIONS) for figure in figures.all()] == [[], [], [], []]
        if legend:
            page.locator(".st-key-show-sample button").click()
    shutil.rmtree(folder)


def test_the_detail_of_a_clicked_cell_is_seen_without_scrolling(app, page):
    page.goto(f"{app.url}/alignment?run=sample&cell=K-3-0")
    page.get_by_role("heading", name="K, layer 3, head 0").wait_for()
    click_cell(page, plot=1, layer=2, head=1, opens="V, layer 2, head 1")
    ready(page, ".js-plotly-plot .main-svg")
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
