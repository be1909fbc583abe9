"""The one warm worker of this server. No Streamlit here: the server itself starts and stops it."""

from __future__ import annotations

from functools import cache

from kvlab.runs.launch import Worker


@cache
def worker() -> Worker:
    """Not started yet; starts at the latest when it is first asked."""
    return Worker()
