"""`python -m tests.clicks [SESSIONS]`: how long the server takes for its first page and for a click (10 sessions).

The browser's own drawing is not in it. Exit code 1: a bar does not hold. Measure on a machine that does nothing else.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles

from tests import app as real
from tests.session import Session, session

FIRST_PAGE_S, CLICK_S, CLICK_OF_MANY_S = 3.0, 0.2, 0.5  # the bars
ROUNDS = 12
THINKING_S = (0.5, 1.5)  # between two clicks of one of many users
LAYERS, HEADS = 4, 2  # of the sample's student

Click = Callable[[Session, int], float]
CLICKS: dict[str, Click] = {
    "a cell of the K map": lambda s, n: s.select_cell("gain-sample-key", n % LAYERS, n % HEADS),
    "a cell of the V map": lambda s, n: s.select_cell("gain-sample-value", n % LAYERS, (n + 1) % HEADS),
    "a row of the table": lambda s, n: s.select_row("heads-table-sample", n % (LAYERS * HEADS)),
    "to Tokens of the head": lambda s, n: s.choose("pane", "Tokens"),
    "to its Spectrum": lambda s, n: s.choose("pane", "Spectrum"),
    "to its Time rules": lambda s, n: s.choose("pane", "Time rules"),
    "to its Teacher heads": lambda s, n: s.choose("pane", "Teacher heads"),
    "back to its Controls": lambda s, n: s.choose("pane", "Controls"),
    "to Layers": lambda s, n: s.choose("view", "Layers"),
    "to Timeline": lambda s, n: s.choose("view", "Timeline"),
    "back to Heads": lambda s, n: s.choose("view", "Heads"),
}
OF_FUNCTION: dict[str, Click] = {
    "a head of the functional test": lambda s, n: s.select_cell("function-attention-sample-key", n % LAYERS, n % HEADS),
    "to its Texts": lambda s, n: s.choose("function-view", "Texts"),
    "to its controls": lambda s, n: s.choose("function-view", "Against its controls"),
    "back to its heads": lambda s, n: s.choose("function-view", "Heads and layers"),
}


def main(sessions: int) -> int:
    with tempfile.TemporaryDirectory() as runs, real.running_app(Path(runs)) as app:
        with session(app):
            first = time.time() - app.process.create_time()
        held = [told("first page after the start of the process", [first], FIRST_PAGE_S)]
        with session(app, "alignment", run="sample", view="heads") as one:
            in_turn(one, 1)  # the caches of a server that has just started
            before = sum(app.process.cpu_times()[:2])
            times = in_turn(one, ROUNDS)
            spent = (sum(app.process.cpu_times()[:2]) - before) / (ROUNDS * len(CLICKS))
        with session(app, "function", run="sample", view="heads") as other:
            in_turn(other, 1, OF_FUNCTION)
            times |= in_turn(other, ROUNDS, OF_FUNCTION)
        held += [told(f"click: {name}", taken, CLICK_S) for name, taken in times.items()]
        print(f"processor time of the server per click: {spent:.3f} s")
        resident = app.process.memory_info().rss
        with ThreadPoolExecutor(sessions) as pool:
            together = [taken for of_one in pool.map(lambda n: busy(app, n), range(sessions)) for taken in of_one]
        held.append(told(f"a click, {sessions} sessions at once", together, CLICK_OF_MANY_S))
        grown = app.process.memory_info().rss - resident
        print(f"server: {resident / 2**20:.0f} MiB with one session, {grown / 2**20:+.0f} MiB with {sessions} more")
    return 0 if all(held) else 1


def in_turn(one: Session, rounds: int, clicks: dict[str, Click] = CLICKS) -> dict[str, list[float]]:
    """Seconds of every kind of click, ``rounds`` of each."""
    times: dict[str, list[float]] = {name: [] for name in clicks}
    for n in range(rounds):
        for name, click in clicks.items():
            times[name].append(click(one, n))
    return times


def busy(app: real.App, seed: int) -> list[float]:
    """One of many users, who looks at what a click has shown before the next."""
    chance = random.Random(seed)
    taken = []
    with session(app, "alignment", run="sample", view="heads") as own:
        for n in range(ROUNDS):
            for click in CLICKS.values():
                time.sleep(chance.uniform(*THINKING_S))  # the user's time, not the server's
                taken.append(click(own, n))
    return taken


def told(what: str, seconds: list[float], bar: float) -> bool:
    middle = median(seconds)
    spread = f", 9 in 10 within {quantiles(seconds, n=10)[-1]:.2f} s, n = {len(seconds)}" if len(seconds) > 1 else ""
    print(f"{'ok ' if middle < bar else 'SLOW'} {what}: {middle:.3f} s (bar {bar:g} s){spread}", flush=True)
    return middle < bar


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
