"""Checks: the seven KV checks and the environment."""

from kvlab.ui import checks

checks.page()
