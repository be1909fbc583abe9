"""The HTML report of a run in a real browser, in Chinese: its figures are drawn, without a request or an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvlab.language import phrase, say, speaking
from kvlab.results.training.facts import gather
from kvlab.results.training.figures import MEMORY_TITLES, TITLES
from kvlab.results.training.report import html
from tests import app as real
from tests.test_run_html import folder  # noqa: F401

NAME = phrase("Validation run {id}")
NEEDED = bool(os.environ.get("KVLAB_REQUIRE_BROWSER"))
pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(real.chromium() is None and not NEEDED, reason="no Chromium found: apt-get install chromium"),
]


def test_the_report_opens_offline_with_all_its_figures(folder, chromium, tmp_path: Path):  # noqa: F811
    file = tmp_path / "report.html"
    file.write_text(html(gather(folder), "zh"), encoding="utf-8")
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, offline=True)
    page, asked, errors = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(file.as_uri())
    page.locator(".main-svg").nth(0).wait_for()
    assert page.locator(".js-plotly-plot").count() == 4
    titles = page.locator(".gtitle").all_text_contents()
    with speaking("zh"):
        wanted, name = [say(words) for words in (*TITLES.values(), MEMORY_TITLES["device"])], say(NAME, id=folder.name)
    for title in wanted:
        assert any(title in found for found in titles), (title, titles)
    # The teacher's name stands in the legend to the letter, and is no link or script.
    legend = " ".join(page.locator(".legendtext").all_text_contents())
    assert "<script>document.title='owned'</script>" in legend and "owned" in page.content()
    assert page.title() == name and page.locator("a:not(.modebar-btn)").count() == 0
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"the page is {wide} pixels wider than the window"
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == [] and errors == []
    context.close()
