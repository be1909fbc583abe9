"""The real app in a real process, and a real browser to look at it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from kvlab.web import walk
from tests import trainers
from tests.waiting import wait_until

PROJECT = Path(__file__).parents[1]
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
LONG = 300_000  # milliseconds for whatever a page waits for, the start of a worker and a whole analysis included
# As root, and without Chromium's own calls to the internet.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class App:
    url: str
    process: psutil.Process
    runs: Path
    token: str

    def worker(self) -> psutil.Process:
        """The warm worker of this server."""
        found = self.workers()
        assert len(found) == 1, f"{len(found)} workers"
        return found[0]

    def workers(self) -> list[psutil.Process]:
        return [
            child for child in self.process.children() if {"kvlab.worker", FAKES["worker"][1]} & set(child.cmdline())
        ]


_running: list[App] = []


# `python -m streamlit`, after a worker and a trainer without torch have taken the place of the real ones.
WITHOUT_TORCH = """
import sys
from kvlab.runs import run_queue, worker_client
from streamlit.web.cli import main
run_queue.TRAINER = {trainer!r}
worker_client.Worker.__init__.__defaults__ = ({worker!r}, None)
sys.argv[0] = "streamlit"
sys.exit(main())
"""
FAKES = {"trainer": trainers.FAKE, "worker": (sys.executable, str(Path(__file__).with_name("fake_worker.py")))}


@contextmanager
def running_app(runs: Path, torch: bool = True) -> Iterator[App]:
    """`streamlit run app.py` on a free port; afterwards neither server nor worker is left.

    ``torch=False``: its worker and its trainers are the fake ones, which start at once and take no processor.
    """
    token = secrets.token_urlsafe(12)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    streamlit = ["-m", "streamlit"] if torch else ["-c", WITHOUT_TORCH.format(**FAKES)]
    command = [sys.executable, *streamlit, "run", "app.py", "--server.port", str(port)]
    environment = {**os.environ, "KVLAB_RUNS": str(runs), "HF_HUB_OFFLINE": "1", "KVLAB_TOKEN": token}
    runs.mkdir(parents=True, exist_ok=True)
    (runs / walk.DISMISSED).touch()  # its card would lie over what a test clicks
    with open(runs / "server.log", "wb") as log:
        apart = {"start_new_session": True, "umask": 0}  # what it writes is its account's alone all the same
        server = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=log, **apart)
    process = psutil.Process(server.pid)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(f"{url}/_stcore/health", token), 60, "the server to answer")
        _running.append(app := App(url, process, runs, token))
        yield app
    finally:
        _running[:] = [other for other in _running if other.url != url]
        children = process.children(recursive=True) if server.poll() is None else []
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(20)
        _, left = psutil.wait_procs(children, timeout=20)
        for child in left:
            child.kill()
        assert not left, f"processes outlived the server: {left}"


def _answers(url: str, token: str) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def chromium() -> str | None:
    """Where Chromium is, if anywhere."""
    return next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_FLAGS)
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def user(opened: Browser) -> Iterator[BrowserContext]:
    """A user of a browser that nobody has used. Afterwards no page may have asked another machine for anything."""
    context = opened.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    context.set_default_timeout(LONG)
    outside = []
    context.on("request", lambda request: outside.append(request.url) if "127.0.0.1" not in request.url else None)
    yield context
    context.close()
    assert not [url for url in outside if not url.startswith(("data:", "blob:"))], "the page asked another machine"


@contextmanager
def tab(opened: Browser) -> Iterator[Page]:
    """The page of a new user, let in to every app that runs."""
    with user(opened) as context:
        let_in(context)
        yield context.new_page()


def let_in(context: BrowserContext) -> None:
    """The cookie of every app that runs, as opening the address that it printed gives it."""
    for app in _running:
        answer = context.request.get(f"{app.url}/_stcore/health?token={app.token}")
        assert answer.ok, answer.status
