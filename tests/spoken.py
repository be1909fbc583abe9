"""Errors and texts of pages as people read them."""

import re

from kvlab.errors import PARTS, KvlabError


def spoken(error) -> dict:
    """An error, also one from JSON, with its parts in words."""
    fields = error if isinstance(error, dict) else error.to_dict()
    known = KvlabError.from_dict(fields)
    return {**fields, **{name: str(getattr(known, name)) for name in PARTS}}


def as_read(markdown: str) -> str:
    """The text without what ``widgets.plain`` adds so that nobody reads a name as Markdown."""
    return re.sub(r":small\[\]|\\(?=[!-/:-@\[-`{-~])", "", markdown)
