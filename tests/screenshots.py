"""`python -m tests.screenshots [FOLDER] [HEIGHT]`: a picture of every page of the real app, 1280 wide (docs/, 800)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests import app as real

PAGES = {
    "overview": ("", "Memory forecast on"),
    "heads": ("alignment?run=sample&view=heads&cell=K-3-0", "Against its controls"),
    "layers": ("alignment?run=sample&view=layers&cell=K-2-0", "What was chosen"),
    "timeline": ("alignment?run=sample&view=timeline", "Every rule’s map"),
    "numbers": ("alignment?run=sample&view=numbers", "Data, versions, seconds"),
    "checks": ("checks", "package torch"),
}
WAITING = "[data-testid=stStatusWidget], [data-testid=stSkeleton]"
DRAWN = "() => [...document.querySelectorAll('.js-plotly-plot')].every(plot => plot.querySelector('.main-svg'))"


def main(folder: Path, height: int) -> None:
    with (
        tempfile.TemporaryDirectory() as runs,
        real.running_app(Path(runs)) as app,
        real.browser() as browser,
    ):
        page = browser.new_context(viewport={"width": 1280, "height": height}).new_page()
        page.set_default_timeout(120_000)
        for name, (path, awaited) in PAGES.items():
            page.goto(f"{app.url}/{path}")
            page.get_by_text(awaited).first.wait_for()
            page.wait_for_function(DRAWN)
            page.wait_for_function(f"() => !document.querySelector('{WAITING}')")
            page.screenshot(path=folder / f"{name}.png")


if __name__ == "__main__":
    main(
        Path(sys.argv[1]) if len(sys.argv) > 1 else real.PROJECT / "docs",
        int(sys.argv[2]) if len(sys.argv) > 2 else 800,
    )
