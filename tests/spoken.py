"""Errors as people read them."""

from kvlab.errors import PARTS, KvlabError


def spoken(error) -> dict:
    """An error, also one from JSON, with its parts in words."""
    fields = error if isinstance(error, dict) else error.to_dict()
    known = KvlabError.from_dict(fields)
    return {**fields, **{name: str(getattr(known, name)) for name in PARTS}}
