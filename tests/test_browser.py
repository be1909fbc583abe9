"""What a new user does, in a real browser against the real app, worker and demo models."""

import csv
import io
import json
import os
import signal
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import TimeoutError

from kvlab.demo.corpus import problems
from kvlab.language import say, speaking
from kvlab.results.alignment import data as results
from kvlab.results.alignment.sentences import sentence
from tests import app as real
from tests.screenshots import FIGURE, settled
from tests.waiting import wait_until

NEEDED = bool(os.environ.get("KVLAB_REQUIRE_BROWSER"))
pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(real.chromium() is None and not NEEDED, reason="no Chromium found: apt-get install chromium"),
]
MINUTE = 60_000  # milliseconds
PROMPTS = """\
Tom has 3 apples and buys 4 more. How many apples does he have now?

小明有5个苹果，又买了7个。他一共有多少个苹果？
"""
# So many are not fitted on the bundled samples too, which takes three times as long.
TWENTY = "\n\n".join(problem["prompt"] for problem in problems("heldout", 20, seed=5))


@pytest.fixture
def prompt_file(tmp_path) -> Path:
    file = tmp_path / "my-prompts.txt"
    file.write_text(PROMPTS, encoding="utf-8")
    return file


@pytest.fixture
def twenty(tmp_path) -> Path:
    file = tmp_path / "twenty.txt"
    file.write_text(TWENTY, encoding="utf-8")
    return file


def upload(page, file, prompts):
    """Into the form, which is open."""
    page.get_by_text("Upload", exact=True).click()
    page.locator("input[type=file]").set_input_files(str(file))
    page.get_by_text(f"Prompts read: {prompts}").wait_for()


def upload_and_run(page, app, prompt_file):
    page.goto(f"{app.url}/alignment?run=sample")
    page.get_by_role("button", name="New analysis").click()
    upload(page, prompt_file, 2)
    return runs(page)


def runs(page):
    """Click Run -> the id of the analysis."""
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_url(lambda url: "run=2" in url)
    return page.url.split("run=")[1].split("&")[0]


def taken(page, name) -> bytes:
    with page.expect_download() as download:
        page.get_by_role("button", name=name).click()
    return Path(download.value.path()).read_bytes()


def click_cell(page, plot, layer, head, opens):
    """Click a cell of a 4 x 2 heatmap, once the form above it is gone and the plot stands still."""
    page.get_by_role("button", name="Run", exact=True).wait_for(state="detached")
    page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for()
    click_in(page, plot, (head + 0.5) / 2, (layer + 0.5) / 4, page.get_by_role("heading", name=opens))


def click_in(page, plot, x, y, shown):
    """Click a plot, at shares of its width and height, until ``shown`` is there."""
    settled(page)  # before all are drawn, another plot may have this number
    surface = page.locator(".js-plotly-plot").nth(plot).locator(".nsewdrag").first
    for _ in range(8):  # a click while the plot is drawn anew reaches nobody or lies outside; a user clicks again
        with suppress(TimeoutError):
            box = surface.bounding_box(timeout=MINUTE / 6)
            surface.click(position={"x": box["width"] * x, "y": box["height"] * y}, timeout=MINUTE / 6)
            shown.wait_for(timeout=MINUTE / 6)
            return
    shown.wait_for(timeout=1)


def picked(page, name, option):
    """Open a picker and take an option. The list closes when the page is drawn anew meanwhile: open it again."""
    for _ in range(8):
        with suppress(TimeoutError):
            page.get_by_role("combobox", name=name).click(timeout=MINUTE / 6)
            page.get_by_role("option", name=option).click(timeout=MINUTE / 6)
            return
    page.get_by_role("option", name=option).click(timeout=1)


def status(app, run):
    return json.loads((app.runs / run / "status.json").read_text())


def reaches(app, run, state):
    wait_until(lambda: status(app, run)["state"] == state, real.LONG / 1000, f"{run} to be {state}")


def worker_of(app) -> int:
    """Its process, which the server may just be starting anew."""
    return wait_until(lambda: app.workers(), 60, "a worker") and app.worker().pid


def test_cancel_and_a_killed_worker_are_said_and_the_app_is_kept(app, page, prompt_file):
    """First of the tests of this server: an analysis that ends well is made on it afterwards."""
    os.kill(worker_of(app), signal.SIGSTOP)  # hold the worker, so that there is something to cancel
    run = upload_and_run(page, app, prompt_file)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("This analysis was stopped").wait_for()
    assert status(app, run)["state"] == "cancelled"

    run = upload_and_run(page, app, prompt_file)
    reaches(app, run, "running")  # one that only waits would go on in the next worker
    os.kill(app.worker().pid, signal.SIGKILL)
    page.get_by_text("This analysis failed").wait_for()
    page.get_by_text("signal 9").wait_for()
    assert status(app, run)["error"]["kind"] == "worker-died"


def test_a_new_user_reads_the_sample_runs_a_file_looks_elsewhere_meanwhile_and_takes_the_numbers(app, page, twenty):
    page.goto(app.url)
    page.get_by_text("Sample analysis").wait_for()
    page.get_by_text("In 12 of 16 heads the teacher explains more").wait_for()
    page.locator(FIGURE).nth(2).wait_for()
    page.get_by_text("Memory forecast on").wait_for()
    assert page.get_by_text("Traceback").count() == 0

    page.get_by_role("button", name="Align my own prompts").click()
    upload(page, twenty, 20)
    page.get_by_text("Advanced: further teachers").click()
    picked(page, "Layer rule", "depth — ")  # the quickest
    worker = worker_of(app)
    os.kill(worker, signal.SIGSTOP)  # hold the worker, so that it is at work meanwhile
    run = runs(page)
    page.get_by_role("link", name="Overview").click()
    page.get_by_text("Can this teacher").wait_for()
    page.reload()
    page.get_by_text("Can this teacher").wait_for()
    first, page = page, page.context.new_page()
    page.goto(f"{app.url}/alignment?run={run}")
    page.get_by_role("button", name="Cancel").wait_for()
    first.close()
    os.kill(worker, signal.SIGCONT)
    page.get_by_text("heads the teacher explains more than every control").wait_for()
    assert status(app, run)["state"] == "done"

    click_cell(page, plot=1, layer=2, head=1, opens="V, layer 2, head 1")
    page.get_by_text("The teacher explains R²").wait_for()
    assert f"run={run}" in page.url and "cell=V-2-1" in page.url

    folder = app.runs / run
    written = results.read(folder)
    page.get_by_role("button", name="Report and files").click()
    heads = taken(page, "heads.csv")
    assert heads == (folder / "heads.csv").read_bytes()
    rows = list(csv.DictReader(io.StringIO(heads.decode())))
    assert len(rows) == 16 and {row["kind"] for row in rows} == {"key", "value"}
    assert json.loads(taken(page, "alignment.json")) == json.loads((folder / "alignment.json").read_bytes())
    data = taken(page, "ZIP of CSV and JSON")
    assert data == (folder / "export.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        scores = list(csv.DictReader(io.StringIO(archive.read("scores.csv").decode())))
        assert [float(row["r2"]) for row in scores] == [score.r2 for score in written.heads]
        assert json.loads(archive.read("settings.json"))["prompts"] == "twenty.txt"
    html = taken(page, "HTML, one file").decode()
    assert html.count("<html") == 1 and '<html lang="en">' in html

    page.goto(f"{page.url}&lang=zh")
    with speaking("zh"):
        opens, file, finding = say("Report and files"), say("HTML, one file with figures"), sentence(written)
    page.get_by_role("button", name=opens).click()
    html = taken(page, file).decode()
    assert '<html lang="zh-Hans">' in html and finding in html


def test_a_click_on_the_strip_moves_the_timeline(app, page):
    page.goto(f"{app.url}/alignment?run=sample&view=timeline")
    page.get_by_text("the frame is what is drawn: bytes 0–96").wait_for()
    click_in(page, 1, 0.95, 0.75, page.get_by_text("the frame is what is drawn: bytes 88–179"))


def test_who_has_no_token_is_asked_for_it_and_comes_in_where_they_meant_to(app, chromium):
    context = chromium.new_context()
    context.set_default_timeout(real.LONG)
    page = context.new_page()
    page.goto(f"{app.url}/alignment?run=sample&view=numbers")
    field, button = page.get_by_label("Token"), page.get_by_role("button")
    field.fill("a guess")
    button.click()
    page.get_by_role("alert").wait_for()
    field.fill(app.token)
    button.click()
    page.get_by_text("Data, versions, seconds").wait_for()
    assert "view=numbers" in page.url and app.token not in page.url
    assert "kvlab" not in page.evaluate("document.cookie")  # HttpOnly
    context.close()


def test_markup_in_an_address_is_text(app, page):
    for place in ("alignment?run=", "validation?run=", "runs?runs="):
        page.goto(f"{app.url}/{place}%3Cimg src=x onerror=window.hit=1%3E")
        page.get_by_text("onerror").first.wait_for()
        assert page.locator("img[onerror]").count() == 0 and page.evaluate("window.hit") is None


def test_a_bad_upload_names_the_line_and_keeps_the_rest(app, page, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"prompt": "good"}\n{broken\n', encoding="utf-8")
    page.goto(f"{app.url}/alignment?run=sample")
    page.get_by_role("button", name="New analysis").click()
    page.get_by_text("Upload", exact=True).click()
    page.locator("input[type=file]").set_input_files(str(file))
    page.get_by_text("Prompts read: 1").wait_for()
    page.get_by_text("Not read as given: 1").wait_for()
    page.locator("[data-testid=stDataFrame]").first.wait_for()


def test_the_checks_pass_and_the_web_process_never_loads_torch(app, page):
    """Looks at the process itself, after every page above was used in it."""
    page.goto(f"{app.url}/checks")
    page.get_by_text("All 7 checks passed").wait_for()
    page.get_by_text("package torch").wait_for()
    mapped = Path(f"/proc/{app.process.pid}/maps").read_text()
    assert "libtorch" not in mapped and "torch/_C" not in mapped
    # The worker may have just been started anew: it comes to its imports.
    maps_of_worker = Path(f"/proc/{app.worker().pid}/maps")
    wait_until(lambda: "libtorch" in maps_of_worker.read_text(), 60, "the worker to load torch")
