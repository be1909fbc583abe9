"""Analyses that are shared: an address after a restart, the files of one, and two side by side, in a real browser."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from math import hypot
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

from kvlab.host.bundled import ANALYSIS
from kvlab.language import say, speaking
from kvlab.results import style
from kvlab.results.alignment import data as results
from kvlab.results.alignment import page as alignment_page
from kvlab.results.alignment.layers import MATRICES
from kvlab.results.alignment.sentences import sentence
from tests import app as real
from tests.finished import fused
from tests.screenshots import settled
from tests.test_browser import TWENTY, click_cell, upload_and_run
from tests.test_browser_accessibility import RULES

NEEDED = bool(os.environ.get("KVLAB_REQUIRE_BROWSER"))
pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(real.chromium() is None and not NEEDED, reason="no Chromium found: apt-get install chromium"),
]
FINDING = "On 20 documents held out by document"


@pytest.fixture(scope="module")
def analysed(chromium, tmp_path_factory):
    """(runs folder, run id, its address without the server): an analysis by a server that has ended."""
    runs, prompts = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("prompts") / "my-prompts.txt"
    prompts.write_text(TWENTY, encoding="utf-8")
    with real.running_app(runs) as app, real.tab(chromium) as page:
        run = upload_and_run(page, app, prompts, 20)
        page.get_by_text(FINDING).wait_for()
        page.wait_for_url(lambda url: "cell=" in url)
        address = page.url.removeprefix(app.url)
    return runs, run, address


@pytest.fixture(scope="module")
def restarted(analysed):
    with real.running_app(analysed[0]) as running:
        yield running


def taken(page, name):
    with page.expect_download() as download:
        page.get_by_role("button", name=name).click()
    return Path(download.value.path()).read_bytes()


def test_an_address_opens_the_same_analysis_on_a_new_server_and_gives_its_files(analysed, restarted, page):
    runs, run, address = analysed
    assert f"run={run}" in address
    page.goto(restarted.url + address)
    page.get_by_text(FINDING).wait_for()
    page.locator(".js-plotly-plot").nth(1).wait_for()
    written = results.read(runs / run)
    assert page.get_by_text(sentence(written).split(" (")[0]).count() == 1

    page.get_by_role("button", name="Report and files").click()
    data = taken(page, "ZIP of CSV and JSON")
    assert data == (runs / run / "export.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        scores = list(csv.DictReader(io.StringIO(archive.read("scores.csv").decode())))
        assert [float(row["r2"]) for row in scores] == [score.r2 for score in written.heads]
        assert json.loads(archive.read("settings.json"))["prompts"] == "my-prompts.txt"
    html = taken(page, "HTML, one file").decode()
    assert html.count("<html") == 1 and '<html lang="en">' in html

    page.goto(f"{restarted.url}{address}&lang=zh")
    with speaking("zh"):
        opens, file, finding = say("Report and files"), say("HTML, one file with figures"), sentence(written)
    page.get_by_role("button", name=opens).click()
    html = taken(page, file).decode()
    assert '<html lang="zh-Hans">' in html and finding in html


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
    figures = 2 + 2 + 2 * len(MATRICES) + 2 + 2  # errors, fusion, layers, spectrum and rules, timeline
    page.wait_for_function(
        f"() => document.querySelectorAll('.js-plotly-plot .main-svg:first-child').length >= {figures}"
    )
    assert page.locator(".js-plotly-plot").count() == figures
    text = page.locator("body").inner_text()
    for words in (f"{alignment.heads[0].r2:.4f}".rstrip("0"), "time\tfloor", "torch\t", sentence(alignment)):
        assert words in text, words
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"the page is {wide} pixels wider than the window"
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == [] and errors == []
    context.close()


def test_two_analyses_side_by_side_by_address_and_by_click(analysed, restarted, page):
    runs, run, _ = analysed
    a, b = results.read(runs / run), results.read(ANALYSIS)
    page.goto(f"{restarted.url}/alignment?run={run}&with=sample&cell=K-0-0")
    page.get_by_text("B explains").first.wait_for()
    page.locator(".js-plotly-plot").nth(1).wait_for()
    first, second = a.score("key", 0, 0), b.score("key", 0, 0)
    gain = style.written(second.r2 - first.r2, sign="+")
    page.get_by_text(f"{gain} ± {hypot(first.se, second.se):.3f} R²").wait_for()
    page.get_by_text("Not measured on the same text").wait_for()
    page.get_by_role("heading", name="Settings that differ").wait_for()
    assert "view=compare" in page.url and page.get_by_text("Traceback").count() == 0

    click_cell(page, plot=1, layer=2, head=1, opens="V, layer 2, head 1")
    assert "cell=V-2-1" in page.url and "with=sample" in page.url
    page.reload()
    page.get_by_role("heading", name="V, layer 2, head 1").wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_comparison_and_the_files_break_no_rule_of_accessibility(analysed, restarted, chromium, theme):
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, color_scheme=theme)
    real.let_in(context)
    page = context.new_page()
    page.set_default_timeout(real.LONG)
    page.goto(f"{restarted.url}/alignment?run={analysed[1]}&with=sample&cell=K-0-0")
    page.get_by_role("heading", name="Settings that differ").wait_for()
    settled(page)
    page.get_by_role("button", name="Report and files").click()
    page.get_by_text("need no network").wait_for()
    broken = Axe().run(page, options=RULES).response["violations"]
    assert not broken, [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in broken]
    context.close()
