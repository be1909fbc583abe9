"""Runs: the history of all runs, several laid over each other, one in detail."""

from kvlab.web.training import history

history.page()
