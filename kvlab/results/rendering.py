"""Render reports from the templates beside this file: HTML with every value escaped, Markdown with its own filter.

A template says its words with ``say`` and ``plural``. HTML reports extend ``page.html.j2``, which gives them their
look; ``draw(figure)`` and ``table(frame)`` put a figure or a table into one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.io import to_html

from kvlab import PACKAGE
from kvlab.language import current, plural, say

TEMPLATES = PACKAGE / "results" / "templates"
FONTS = Markup('system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif')
HTML_LANGUAGES = {"zh": "zh-Hans"}  # where HTML names a language otherwise


def render(name: str, /, **values: object) -> str:
    """Fill the template ``name`` of ``results/templates``, in the current language."""
    return environment().get_template(name).render(draw=_drawing(), **values)


@cache
def environment() -> Environment:
    """One for all reports. Templates ending in ``.html.j2`` escape every value that is not marked as safe."""
    shared = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: bool(name) and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    shared.globals.update(say=say, plural=plural, table=table, html_language=html_language, FONTS=FONTS)
    return shared


def html_language() -> str:
    """Name the current language as HTML does."""
    return HTML_LANGUAGES.get(current(), current())


def table(frame: pd.DataFrame, heading: Callable[[str], str] | None = None, form: str | None = None) -> Markup:
    """Draw a table; ``heading`` names its columns, ``form`` writes its numbers."""
    frame = frame if heading is None else frame.rename(columns=heading)
    write = form.format if form else None
    html = frame.to_html(index=False, escape=True, border=0, na_rep="–", float_format=write)
    return Markup(f'<div class="wide">{html}</div>')


def _drawing() -> Callable[[go.Figure], Markup]:
    """Figure -> HTML; the first figure of a report brings plotly along, so that the file needs no network."""
    drawn = 0

    def draw(figure: go.Figure) -> Markup:
        nonlocal drawn
        drawn += 1
        figure = go.Figure(figure).update_layout(font_family=FONTS)
        return Markup(to_html(figure, full_html=False, include_plotlyjs=drawn == 1))

    return draw
