"""Analyses that are shared: the report of one without a network, and two side by side, in a real browser."""

from __future__ import annotations

import os
import re
from math import hypot
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

from kvlab.host.bundled import ANALYSIS
from kvlab.results import style
from kvlab.results.alignment import data as results
from kvlab.results.alignment import page as alignment_page
from kvlab.results.alignment.layers import MATRICES
from kvlab.results.alignment.sentences import sentence
from tests import app as real
from tests.finished import fused, run_of, shifted
from tests.screenshots import settled
from tests.test_browser import click_cell
from tests.test_browser_accessibility import RULES

NEEDED = bool(os.environ.get("KVLAB_REQUIRE_BROWSER"))
pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(real.chromium() is None and not NEEDED, reason="no Chromium found: apt-get install chromium"),
]


def saved(page, form, number):
    with page.expect_download() as download:
        page.locator(f"[data-save={form}]").nth(number).click()
    assert download.value.suggested_filename == f"KV-alignment-demo-teacher-demo-student-{number + 1}.{form}"
    return Path(download.value.path()).read_bytes()


def test_the_report_opens_offline_with_all_its_figures(chromium, tmp_path):
    file = tmp_path / "report.html"
    alignment = fused(results.read(ANALYSIS))
    file.write_text(alignment_page.html(alignment), encoding="utf-8")
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, offline=True)
    page, asked, errors = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(file.as_uri())
    # The answer with its gains; R², sources, fusion, layers, spectrum and rules, timeline.
    figures = 3 + 2 + 1 + 2 + 2 * len(MATRICES) + 2 + 2
    page.wait_for_function(
        f"() => document.querySelectorAll('.js-plotly-plot .main-svg:first-child').length >= {figures}"
    )
    assert page.locator(".js-plotly-plot").count() == figures
    text = page.locator("body").inner_text()
    for words in (f"{alignment.heads[0].r2:.4f}".rstrip("0"), "time\tfloor", "torch\t", sentence(alignment)):
        assert words in text, words
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"the page is {wide} pixels wider than the window"
    for number in range(0, figures, 5):  # for print: 6.75 inches of 96 pixels, letters of 7 points or more
        drawing = saved(page, "svg", number).decode()
        assert re.search(r'<svg [^>]*width="648" height="[1-9]', drawing)
        letters = [float(size) * 72 / 96 for size in re.findall(r"font-size: ([0-9.]+)px", drawing)]
        assert min(letters) >= 7, (number, letters)
    png = saved(page, "png", 0)
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and int.from_bytes(png[16:20], "big") == round(6.75 * 300)
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == [] and errors == []
    context.close()


def test_two_analyses_side_by_side_by_address_and_by_click_break_no_rule_of_accessibility(app, chromium, monkeypatch):
    """And the files of one of them. In the dark; the pages in test_browser_accessibility have both themes."""
    monkeypatch.setenv("KVLAB_RUNS", str(app.runs))
    a = results.read(ANALYSIS)
    b = shifted(a, "key", 0, 0, -0.2)
    run = run_of(b).name
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, color_scheme="dark")
    real.let_in(context)
    page = context.new_page()
    page.set_default_timeout(real.LONG)
    page.goto(f"{app.url}/alignment?run=sample&with={run}&cell=K-0-0")
    page.get_by_text("B explains").first.wait_for()
    first, second = a.score("key", 0, 0), b.score("key", 0, 0)
    gain = style.written(second.r2 - first.r2, sign="+")
    page.get_by_text(f"{gain} ± {hypot(first.se, second.se):.3f} R²").wait_for()
    page.get_by_role("heading", name="Settings that differ").wait_for()
    assert "view=compare" in page.url and page.get_by_text("Traceback").count() == 0

    click_cell(page, plot=1, layer=2, head=1, opens="V, layer 2, head 1")
    assert "cell=V-2-1" in page.url and f"with={run}" in page.url
    page.reload()
    page.get_by_role("heading", name="V, layer 2, head 1").wait_for()
    settled(page)
    page.get_by_role("button", name="Report and files").click()
    page.get_by_text("need no network").wait_for()
    broken = Axe().run(page, options=RULES).response["violations"]
    assert not broken, [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in broken]
    context.close()
