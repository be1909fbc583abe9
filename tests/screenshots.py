"""`python -m tests.screenshots [FOLDER] [HEIGHT] [light|dark] [en|zh]`: each page of the real app, 1280 wide.

Without arguments those of the README: docs/, 800 high, light, in English.

The training runs in the pictures are trained for them: the demo student on two teachers, and its control.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page

from kvlab.language import say, speaking
from kvlab.request.train import TrainConfig
from kvlab.runs import store, training
from tests import app as real
from tests.catalogue import catalogue
from tests.waiting import wait_until

PAGES = {
    "overview": ("", "Memory forecast on"),
    "heads": ("alignment?run=sample&view=heads&cell=K-3-0", "beyond its strongest control"),
    "layers": ("alignment?run=sample&view=layers&cell=K-2-0", "What was chosen"),
    "timeline": ("alignment?run=sample&view=timeline", "Every rule’s map"),
    "numbers": ("alignment?run=sample&view=numbers", "Data, versions, seconds"),
    "function": ("function?run=sample&view=verdict", "Over the length of the prefix"),
    "function-heads": ("function?run=sample&view=heads&cell=K-3-0", "Does R² tell the damage"),
    "function-texts": ("function?run=sample&view=texts", "Continued from"),
    "certificate": ("certificate?run=sample&view=gates", "Against its controls"),
    "certificate-lengths": ("certificate?run=sample&view=prompts", "Longer than the calibrated texts"),
    "form": ("validation", "Advanced: steps"),
    "validation": ("validation?run={one}", "It runs: passed."),
    "runs": ("runs?runs={one},{two}", "Settings that differ"),
    "run": ("runs?runs={one}", "Save note"),
    "checks": ("checks", "Run again"),
}
WIDTH = 1280
IN_README = ("overview", "heads", "layers", "timeline", "function", "certificate", "validation", "runs", "checks")
CUT = {"checks": 740}  # pixels from the left: beside them are paths of the machine that takes the picture
TWO_TEACHERS = {"teachers": ["demo/teacher", "demo/teacher-b"], "fusion": "learned"}
RUNS = {"two teachers": {}, "CE only": {"control": "ce-only"}}
TRAINING = 600  # seconds
FIGURE = "[data-testid=stHtml] > [role=img]"  # one that is drawn without plotly
WAITING = "[data-testid=stStatusWidget], [data-testid=stSkeleton]"
DRAWN = "() => [...document.querySelectorAll('.js-plotly-plot')].every(plot => plot.querySelector('.main-svg'))"


def main(folder: Path | None, height: int, theme: str, language: str) -> None:
    """``folder``: where all go; without it those of the README, to docs/."""
    pages = PAGES if folder else {name: PAGES[name] for name in IN_README}
    folder = folder or real.PROJECT / "docs"
    with tempfile.TemporaryDirectory() as runs, real.running_app(Path(runs)) as app, real.browser() as browser:
        one, two = trained(Path(runs))
        context = browser.new_context(viewport={"width": WIDTH, "height": height}, color_scheme=theme)
        real.let_in(context)
        page = context.new_page()
        page.set_default_timeout(real.LONG)
        for name, (path, awaited) in pages.items():
            page.goto(f"{app.url}/{address(path.format(one=one, two=two), language)}")
            page.get_by_text(spoken(awaited, language)).first.wait_for()
            settled(page)
            area = {"x": 0, "y": 0, "width": CUT.get(name, WIDTH), "height": height}
            page.screenshot(path=folder / f"{name}.png", clip=area)


def address(path: str, language: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}lang={language}"


def spoken(words: str, language: str) -> str:
    """English ``words`` of a page as it says them in ``language``: the longest piece without a value in it."""
    if language == "en":
        return words
    keys = [message.id for message in catalogue() if isinstance(message.id, str) and words in message.id]
    with speaking(language):
        return max(re.split(r"\{[^}]*\}|\*\*", say(min(keys, key=len))), key=len).strip()


def settled(page: Page) -> None:
    """Every figure is drawn, nothing is awaited."""
    page.wait_for_function(DRAWN)
    page.wait_for_function(f"() => !document.querySelector('{WAITING}')")


def trained(root: Path) -> list[str]:
    """Ids of runs that are done."""
    ids = []
    for name, settings in RUNS.items():
        config = TrainConfig(**TWO_TEACHERS, **settings).model_dump(mode="json")
        ids.append(training.launch(config, name, "cpu", root))
    for run_id in ids:
        run = store.find(root, run_id)
        wait_until(lambda run=run: training.gone(run), TRAINING, f"the end of {run_id}")
    return ids


if __name__ == "__main__":
    main(
        Path(sys.argv[1]) if len(sys.argv) > 1 else None,
        int(sys.argv[2]) if len(sys.argv) > 2 else 800,
        sys.argv[3] if len(sys.argv) > 3 else "light",
        sys.argv[4] if len(sys.argv) > 4 else "en",
    )
