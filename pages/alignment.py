"""Alignment: prompts and settings in, per-head errors and timelines out."""

from kvlab.ui import alignment

alignment.page()
