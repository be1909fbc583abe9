"""Tests of one group share a worker: else each worker starts the group's servers, browsers and runs anew."""

import os

import pytest


@pytest.mark.xdist_group("groups")
def test_groups_are_kept_together(request):
    in_a_worker = "PYTEST_XDIST_WORKER" in os.environ
    assert request.node.nodeid.endswith("@groups") == in_a_worker, (
        f"pytest {pytest.__version__} and pytest-xdist do not go together: pip install -r requirements-dev.txt"
    )
