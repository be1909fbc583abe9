"""The queue of training runs as this server finds it: taken up at start, and whenever it stands still. No Streamlit."""

from __future__ import annotations

from kvlab.errors import KvlabError
from kvlab.runs import queue, store

_problem: KvlabError | None = None  # of the last attempt; the pages say it


def take_up() -> KvlabError | None:
    """Put back what lost its place, and see that a keeper is at work -> what stands in the way, if anything does."""
    global _problem
    try:
        queue.recover(store.runs_root())
        queue.attend(store.runs_root())
        _problem = None
    except KvlabError as error:
        _problem = error
    return _problem


def problem() -> KvlabError | None:
    """What keeps the queue from going on now; tries again first. Cheap while all is well."""
    root = store.runs_root()
    stands_still = bool(queue.entries(root)) and queue.keeper(root) is None
    return take_up() if _problem is not None or stands_still else None
