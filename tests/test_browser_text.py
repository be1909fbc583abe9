"""Hostile names and the Content-Security-Policy in a real browser: names are text, and nothing calls out."""

from __future__ import annotations

import http.server
import os
import shutil
import threading

import pytest

from tests import app as real
from tests import hostile
from tests.hostile import NAME
from tests.screenshots import settled

NEEDED = bool(os.environ.get("KVLAB_REQUIRE_BROWSER"))
pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(real.chromium() is None and not NEEDED, reason="no Chromium found: apt-get install chromium"),
]
CALLS = (
    "img[src*=evil], a[href*='//evil'], a[href*='//www'], a[href^=mailto], img[alt*=logo], .katex, [aria-label^=bug], "
    "[data-testid=stMain] b, [data-testid=stMain] em, [data-testid=stMain] del"
)
VIEWS = (
    *(f"alignment?run={{analysis}}&view={view}" for view in ("layers", "timeline", "fusion", "numbers")),
    "alignment?run={analysis}&view=compare&with=sample",
    *(f"alignment?run={{analysis}}&view=heads&pane={pane}" for pane in ("controls", "tokens")),
    *(f"function?run={{function}}&view={view}" for view in ("verdict", "heads", "texts", "numbers")),
    *(f"certificate?run={{certificate}}&view={view}" for view in ("gates", "prompts", "latency", "heads")),
    *("validation?run={training}", "validation?run={failed}", "runs?runs={training}", "runs?runs={training},{failed}"),
    *("", "validation", "checks"),
)


@pytest.fixture
def runs(app, monkeypatch):
    """Runs with hostile names on the server that the browser tests share, away again afterwards."""
    monkeypatch.setenv("KVLAB_RUNS", str(app.runs))
    made = {
        "analysis": hostile.analysis_run(),
        "function": hostile.function_run(),
        "certificate": hostile.certificate_run(),
        "training": hostile.training_run(),
        "failed": hostile.broken("training"),
    }
    yield {name: folder.name for name, folder in made.items()}
    for folder in made.values():
        shutil.rmtree(folder)


@pytest.fixture
def elsewhere():
    """The address of another server, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_names_are_read_as_they_are_and_no_page_calls_out_or_breaks_its_own_policy(app, runs, page, elsewhere):
    wrong: list[object] = []
    page.on("console", lambda message: wrong.append(message.text) if _is_error(message) else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    for view in VIEWS:
        wrong.append(view)
        page.goto(f"{app.url}/{view.format(**runs)}")
        page.get_by_text("kvlab runs on this machine and sends nothing anywhere.").wait_for()
        settled(page)
        wrong += page.locator(CALLS).evaluate_all("found => found.map(element => element.outerHTML)")
        if view.startswith("alignment"):
            page.get_by_role("button", name="caution").click()
            if NAME not in (note := page.get_by_test_id("stAlert").first.inner_text()):
                wrong.append(note)
    assert wrong == list(VIEWS)
    address, asked = elsewhere
    blocked = page.evaluate(
        """async address => {
            const blocked = new Set(), image = new Image()
            document.addEventListener("securitypolicyviolation", event => blocked.add(event.effectiveDirective))
            const refused = new Promise((refuse, load) => Object.assign(image, {onerror: refuse, onload: load}))
            document.body.append(image)
            image.src = `${address}/image.png`
            await refused
            await fetch(address).then(() => blocked.add("fetched"), () => null)
            await new Promise(done => setTimeout(done, 100))
            return [...blocked].sort()
        }""",
        address,
    )
    assert blocked == ["connect-src", "img-src"] and asked == []


def _is_error(message) -> bool:
    """Streamlit asks for its own addresses below the address of a page, too, to find out where it is served."""
    return message.type == "error" and "/_stcore/" not in message.location["url"]
