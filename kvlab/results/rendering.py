"""Render reports from the templates beside this file: HTML with every value escaped, Markdown with its own filter."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kvlab import PACKAGE
from kvlab.language import current, plural, say

TEMPLATES = PACKAGE / "results" / "templates"


@cache
def environment() -> Environment:
    """One for all reports. Templates ending in ``.html.j2`` escape every value that is not marked as safe."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: bool(name) and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals.update(say=say, plural=plural, language=current)
    return made


def render(name: str, /, **values: object) -> str:
    """Fill the template ``name`` of ``results/templates``, in the current language."""
    return environment().get_template(name).render(**values)
