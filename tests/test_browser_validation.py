"""A validation run as a user has it: a real browser, the real app, and once real training of the demo models."""

import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import TimeoutError

from kvlab.host.bundled import ANALYSIS
from kvlab.request.train import TrainConfig
from kvlab.results import answer
from kvlab.results.alignment import data as results
from kvlab.runs import process, run_queue, store, training
from tests import app as real
from tests import finished, trainers
from tests.waiting import wait_until

NEEDED = bool(os.environ.get("KVLAB_REQUIRE_BROWSER"))
pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser-validation"),
    pytest.mark.skipif(real.chromium() is None and not NEEDED, reason="no Chromium found: apt-get install chromium"),
]
TRAINING = 300  # seconds for a run of the demo models on a busy machine


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    yield root
    for entry in run_queue.entries(root):
        status = store.read_status(entry.folder)
        (entry.folder / "stop").touch()
        if process.exists(status.get("pid"), status.get("process_started")):
            process.end(status["pid"])
    wait_until(lambda: not run_queue.entries(root) and run_queue.keeper(root) is None, TRAINING, "the runs to be over")


@pytest.fixture(scope="module")
def app(runs):
    with real.running_app(runs, torch=False) as running:
        yield running


def status(runs, run):
    return json.loads((runs / run / "status.json").read_text())


def alive(told):
    return process.exists(told.get("pid"), told.get("process_started"))


def run_of(page):
    page.wait_for_url(lambda url: "run=2" in url)
    return page.url.split("run=")[1].split("&")[0]


def step(page):
    """The step that the page shows."""
    # Of two for a moment, while the page is drawn anew.
    shown = page.get_by_test_id("stMetricValue").filter(has_text=re.compile(r"\d of \d")).last.inner_text()
    return int(re.match(r"([\d,]+) of", shown)[1].replace(",", ""))


def rises(page, above):
    return wait_until(lambda: (found := step(page)) > above and found, TRAINING, f"a step above {above}")


def ticks(page):
    """The numbers along the step axis of the first chart."""
    labels = page.locator(".vega-embed").first.locator('svg [aria-label^="X-axis"] .role-axis-label text')
    return [float(label.replace(",", "")) for label in labels.all_text_contents()]


def zoom(page):
    """Into the middle seventh of the steps, by the wheel over the first chart -> its labels then."""
    for _ in range(4):  # the page may move under the mouse while it is filled; a user turns the wheel again
        page.locator(".vega-embed").first.hover()
        page.mouse.wheel(0, -2000)
        with suppress(AssertionError):
            return wait_until(lambda: (found := ticks(page)) and max(found) < 1.5 * min(found) and found, 30, "zoom")
    pytest.fail(f"the chart does not zoom: {ticks(page)}")


def test_a_run_of_one_click_ends_by_itself_without_browser_and_server_and_new_ones_show_all(
    runs, chromium, request, monkeypatch
):
    """What lay in the folder before, an analysis, has the same address on the new server."""
    monkeypatch.setenv("KVLAB_RUNS", str(runs))
    analysis = finished.run_of(finished.shifted(results.read(ANALYSIS), "key", 0, 0, -0.1))
    finding = answer.of_analysis(results.read(analysis)).why.split(" (")[0]
    with real.running_app(runs) as old, real.tab(chromium) as page:
        page.goto(f"{old.url}/alignment?run={analysis.name}")
        page.get_by_text(finding).wait_for()
        page.wait_for_url(lambda url: "cell=" in url)
        address = page.url.removeprefix(old.url)
        page.get_by_role("link", name="Validation").click()
        page.get_by_role("button", name="Launch 100-step validation").click()
        run = run_of(page)
        rises(page, 0)
        page.reload()
        rises(page, 0)
        told = status(runs, run)
        os.killpg(os.getpgid(old.process.pid), signal.SIGKILL)
        wait_until(lambda: not old.process.is_running() or old.process.status() == "zombie", 120, "the server's end")
        assert alive(told) and status(runs, run)["state"] == "running"
    wait_until(lambda: training.gone(runs / run), TRAINING, "the end of the run")
    ended = status(runs, run)
    assert ended["state"] == "done" and ended["pid"] == told["pid"]
    app = request.getfixturevalue("app")  # started now: this is the first test
    with real.tab(chromium) as page:  # another browser
        page.goto(f"{app.url}/validation?run={run}")
        verdict = json.loads((runs / run / "verdict.json").read_text())
        assert len(verdict["checkpoints"]) == 8
        said = {"pass": "It runs: passed.", "fail": "It runs: failed"}[verdict["state"]]
        page.get_by_text(said).first.wait_for()
        page.get_by_text("What was compared").click()
        page.get_by_text("KV error of K").wait_for()
        assert step(page) == 100 and page.get_by_text("Traceback").count() == 0
        page.get_by_role("button", name="Report and files").click()
        assert "Validation run" in taken(page, "Markdown")
        page.get_by_test_id("stPopoverBody").get_by_text("中文").click()
        wait_until(
            lambda: '<html lang="zh-Hans">' in taken_or_none(page, "HTML, one file with figures"),
            120,
            "the report in Chinese",
        )

        page.goto(app.url + address)
        page.get_by_text(finding).wait_for()
        page.locator(".js-plotly-plot").nth(1).wait_for()
        assert f"run={analysis.name}" in page.url
    # A student so near its targets may miss one checkpoint, by how far its loss falls, and none else.
    assert {c["name"] for c in verdict["checkpoints"] if c["state"] == "fail"} <= {"loss converging"}


def test_stop_saves_resume_goes_on_and_kill_asks_first(app, page, monkeypatch):
    """What the real trainer saves when it is asked to stop, and goes on from: test_train_run."""
    monkeypatch.setattr(run_queue, "TRAINER", trainers.FAKE)
    config = TrainConfig(max_steps=100_000).model_dump(mode="json") | {"steps": 100_000, "pace": 0.1}
    run = training.launch(config, "long", "cpu", app.runs)
    page.goto(f"{app.url}/validation?run={run}")
    rises(page, 0)
    # In a run that does not end meanwhile, however fast the machine is.
    wait_until(lambda: len(ticks(page)) > 4, 120, "the chart of some steps")
    zoomed = zoom(page)
    rises(page, step(page) + 2)
    assert ticks(page) == zoomed, "the zoom is lost when new steps arrive"
    first = status(app.runs, run)
    assert alive(first)
    page.get_by_test_id("stMain").get_by_role("button", name="Stop").click()  # the header has its own
    page.get_by_text("This run was stopped").wait_for()
    page.get_by_text("Its process is gone").wait_for()
    assert not alive(first) and status(app.runs, run)["state"] == "cancelled"
    saved = int((app.runs / run / "checkpoint" / "step").read_text())
    assert saved == step(page)

    page.get_by_role("button", name="Resume from its last checkpoint").click()
    rises(page, saved)
    second = status(app.runs, run)
    page.get_by_role("button", name="Kill", exact=True).click()
    page.get_by_text("Kill ends the process").wait_for()
    assert alive(second)
    page.get_by_role("button", name="Kill it now").click()
    page.get_by_text(f"Killed: process {second['pid']} and all that it started are gone").wait_for()
    page.get_by_text("This run was killed").wait_for()
    assert not process.group_members(second["pid"])

    wait_until(lambda: not run_queue.entries(app.runs), TRAINING, "the end to be recorded")
    training.delete(app.runs / run)
    page.reload()
    page.get_by_text("What to do:").wait_for()
    page.get_by_text("no such folder").wait_for()
    assert page.get_by_text("Traceback").count() == 0


def taken(page, label: str, milliseconds: float = real.LONG) -> str:
    with page.expect_download(timeout=milliseconds) as download:
        page.get_by_role("button", name=label).click()
    return Path(download.value.path()).read_text(encoding="utf-8")


def taken_or_none(page, label: str) -> str:
    """Nothing where the button was drawn anew meanwhile: its file was that of the former one."""
    with suppress(TimeoutError):
        return taken(page, label, 20_000)
    return ""
