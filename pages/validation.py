"""Validation: launch a training run, watch it, read its verdict."""

from kvlab.ui import validation

validation.page()
