"""Every test has its own empty runs/ and no way to a model hub."""

import os

# One thread a test worker: the workers of pytest-xdist already take every core. Before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What is asserted are a processor's numbers, in float32; with CUDA_VISIBLE_DEVICES=0 the device "auto" is a GPU.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from functools import cache

import pytest
from hypothesis import settings
from streamlit.components.v2 import manifest_scanner

settings.register_profile("kvlab", deadline=None)  # a busy machine is no failure
settings.load_profile("kvlab")

# Every AppTest looks through all installed packages for components, which takes longer than most pages.
manifest_scanner.scan_component_manifests = cache(manifest_scanner.scan_component_manifests)


# Groups that take longest, the longest first; with --no-loadscope-reorder they start in this order.
LONGEST = ("sample", "browser", "browser-validation", "pages", "engine", "pairs", "train-run", "pipeline", "inject")
LONGEST += ("bench", "train-faults", "rounding", "unfinished", "train-loop", "adding", "security", "beginnings")


def pytest_collection_modifyitems(items):
    def place(item):
        group = item.get_closest_marker("xdist_group")
        return LONGEST.index(group.args[0]) if group and group.args[0] in LONGEST else len(LONGEST)

    items.sort(key=place)  # stable: within a group as collected


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("KVLAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def app(tmp_path_factory):
    """The server of all browser tests that need none of their own; they are one xdist_group, "browser"."""
    from tests import app  # with Playwright, which the other tests do without

    with app.running_app(tmp_path_factory.mktemp("runs")) as running:
        yield running


@pytest.fixture(scope="session")
def worker_of_pages():
    """The worker that pages without a browser start, if any: one for all of them, which imports torch once."""
    from kvlab.web import server

    yield
    server.worker().stop()


@pytest.fixture(scope="module")
def chromium():
    from tests import app

    with app.browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def user(chromium):
    """One user of all tests of a file, whose browser reads the scripts of the pages once."""
    from tests import app

    with app.user(chromium) as opened:
        yield opened


@pytest.fixture
def page(user):
    from tests import app

    app.let_in(user)
    opened = user.new_page()
    yield opened
    for left in user.pages:
        left.close()


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Settings of a training run of tiny models; tests only read its files."""
    from tests.training import tiny_pair

    return tiny_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def finished_run(pair, tmp_path_factory):
    """The folder of a run of that pair to which nothing happened; tests only read it."""
    from kvlab.train.process import perform
    from tests.training import forget_accelerate, written

    forget_accelerate()
    folder = written(tmp_path_factory.mktemp("finished") / "run", pair)
    perform(folder)
    return folder


@pytest.fixture
def fresh_accelerate():
    from tests.training import forget_accelerate

    forget_accelerate()
