"""Runs: the history of all runs, several laid over each other, one in detail."""

from kvlab.ui import runs

runs.page()
