"""The Runs page in a real browser: pick, overlay, compare, note, delete."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from kvlab.runs import store
from tests import app as real
from tests import trained
from tests.test_browser import pytestmark  # noqa: F401
from tests.waiting import wait_until

RESTS = '[data-testid="stApp"][data-test-script-state="notRunning"]'


@pytest.fixture(scope="module")
def runs(app):
    """The oldest stands last in the table."""
    settings = {"kv": {}, "ce only": {"control": "ce-only"}}
    return [trained.by_hand(app.runs, name, **more) for name, more in settings.items()]


def tick(page, row: int) -> None:
    """The box before a row of the history, which is drawn: 35 pixels a row below the heading."""
    page.locator(RESTS).wait_for()
    page.get_by_test_id("data-grid-canvas").first.wait_for()
    box = page.get_by_test_id("stDataFrame").first.bounding_box()
    page.mouse.click(box["x"] + 16, box["y"] + 35 * (row + 1) + 18)


def selected(url: str) -> list[str]:
    found = re.search(r"[?&]runs=([^&]*)", url)
    return found.group(1).replace("%2C", ",").split(",") if found else []


def drawn(page) -> list[str]:
    """The words and numbers in the figure."""
    return page.locator("[data-testid=stVegaLiteChart] svg text").all_text_contents()


def test_pick_overlay_compare_note_delete(app, page, runs):
    kv, ce_only = runs
    page.goto(f"{app.url}/runs")
    page.get_by_text("2 runs, newest first").wait_for()
    tick(page, 1)
    page.wait_for_url(lambda url: selected(url) == [kv.name])
    page.get_by_role("heading", name=f"kv · {kv.name[-4:]}").wait_for()
    tick(page, 0)
    page.wait_for_url(lambda url: selected(url) == [kv.name, ce_only.name])

    # overlay, with both runs in its legend
    page.get_by_role("heading", name="Results side by side").wait_for()
    page.get_by_role("heading", name="Settings that differ").wait_for()
    page.locator("[data-testid=stVegaLiteChart] svg").wait_for()
    labels = [f"{name} · {run.name[-4:]}" for name, run in (("kv", kv), ("ce only", ce_only))]
    assert set(labels) <= set(drawn(page))
    page.reload()
    page.get_by_role("heading", name="Settings that differ").wait_for()
    assert selected(page.url) == [kv.name, ce_only.name]
    page.locator(RESTS).wait_for()
    page.get_by_role("combobox", name="Metric").click()
    page.get_by_role("option", name="Cross-entropy (CE), held-out").click()
    page.get_by_text("Measured twice").wait_for()

    # one again, and a note on it
    tick(page, 0)
    page.wait_for_url(lambda url: selected(url) == [kv.name])
    note = page.get_by_role("textbox", name="Note")
    note.fill("<b>the good one</b>")
    page.get_by_role("button", name="Save note").click()
    wait_until(lambda: (kv / "notes.md").exists(), 120, "the note on disk")
    assert (kv / "notes.md").read_text() == "<b>the good one</b>\n"
    page.reload()
    page.get_by_role("textbox", name="Note").wait_for()
    assert page.get_by_role("textbox", name="Note").input_value() == "<b>the good one</b>"
    page.get_by_role("button", name="Report and files").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON", exact=True).click()
    report = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert report["run"]["id"] == kv.name and report["notes"].strip() == "<b>the good one</b>"

    # its live view, and back
    page.get_by_role("link", name="Open live view").click()
    page.get_by_text("It runs: passed.", exact=True).wait_for()
    page.go_back()
    page.get_by_role("textbox", name="Note").wait_for()

    # a run deleted behind the page's back is named, the other is shown
    page.goto(f"{app.url}/runs?runs={ce_only.name},20260101T000000.000Z-away-abcd")
    page.get_by_text("deleted or never there").wait_for()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Keep").click()
    page.get_by_role("button", name="Keep").wait_for(state="detached")
    assert ce_only.exists()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete for good").click()
    page.get_by_text("Deleted: 1 run.").wait_for()
    page.get_by_text("1 run, newest first").wait_for()
    assert kv.exists() and not ce_only.exists()
    assert page.get_by_text("Traceback").count() == 0


def test_zoom_is_kept_while_a_run_goes_on(app, page):
    """A step that is logged meanwhile is drawn into the same figure."""
    run = trained.by_hand(app.runs, "at work", steps=40, state="running")
    store.write_status(run, host=real.socket.gethostname(), **identity_of(app))
    page.goto(f"{app.url}/runs?runs={run.name}")
    chart = page.locator("[data-testid=stVegaLiteChart] svg")
    chart.scroll_into_view_if_needed()
    page.locator(RESTS).wait_for()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    begin = drawn(page)[0]  # of the axis of the steps

    def zoomed() -> bool:
        page.mouse.wheel(0, -300)
        return drawn(page)[0] != begin

    wait_until(zoomed, 120, "the figure to be zoomed in")
    page.evaluate("document.querySelector('[data-testid=stVegaLiteChart] svg').marked = true")
    store.append_metrics(run, {"step": 41, "loss": 0.2})
    page.get_by_text("step 41 / 80").wait_for()
    page.locator(RESTS).wait_for()
    assert page.evaluate("document.querySelector('[data-testid=stVegaLiteChart] svg').marked") is True
    assert drawn(page)[0] != begin


def identity_of(app) -> dict:
    """The server stands for the run's process: it lives as long as the test."""
    return {"pid": app.process.pid, "process_started": app.process.create_time()}
