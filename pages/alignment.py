"""Alignment: prompts and settings in, per-head errors and timelines out."""

from kvlab.web.alignment import page

page.page()
