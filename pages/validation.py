"""Validation: launch a training run, watch it, read its verdict."""

from kvlab.web.training import page

page.page()
