"""Checks: the seven KV checks and the environment."""

from kvlab.web import checks

checks.page()
