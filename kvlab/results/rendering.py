"""Render reports from templates, in which no value becomes markup.

A template translates its words with ``say`` and ``plural``; ``spoken`` is ``say`` for the names of a table's columns.
HTML reports extend ``page.html.j2``, which holds their style; ``draw(figure)`` and ``table(frame)`` insert a figure or
a table. A template ending in ``.md.j2`` is Markdown.
"""

import re
from collections.abc import Callable
from functools import cache
from itertools import count
from string import Formatter

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape
from plotly.io import to_html

from kvlab import PACKAGE
from kvlab.language import Message, current, plural, say

TEMPLATES = PACKAGE / "results" / "templates"
FONTS = Markup('system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif')
HTML_LANGUAGES = {"zh": "zh-Hans"}  # languages that HTML names differently
# Characters in a line that CommonMark, GitHub's tables, links and mathematics read as markup.
MARKUP = re.compile(r"[\\`*_\[\]<>|~&$@]|(?<=\w):(?=//)|(?<=www)\.", re.IGNORECASE)
# Width of a printed page's text, in inches; a figure's smallest letters are then 7.5 points high or more.
PRINT_INCHES, PNG_DOTS = 6.75, 300
BLOCK_START = re.compile(r"^(\s*\d*)([#+=.)-])(?=[\s#=-]|$)")  # a heading, a list, a rule


class Quoted(str):
    """Literal text: a name, a path, a setting, a library's message. A report shows it as code."""


def render(name: str, /, **values: object) -> str:
    """Fill the template ``name`` of ``results/templates``, in the current language."""
    return environment().get_template(name).render(draw=_drawing(), markdown=name.endswith(".md.j2"), **values)


def figure_page(figure: go.Figure, name: str) -> str:
    """Return a figure as one HTML file that needs no network, with buttons that save it as SVG and PNG."""
    return render("figure.html.j2", title=name, figure=figure)


@cache
def environment() -> Environment:
    """Return the environment of all reports. It escapes every value not marked as safe, for HTML or for Markdown."""
    layout = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    values = {"autoescape": True, "finalize": drawn, "undefined": StrictUndefined}
    shared = Environment(loader=FileSystemLoader(TEMPLATES), **values, **layout)
    shared.globals.update(
        say=_say,
        spoken=say,
        plural=plural,
        table=table,
        html_language=lambda: HTML_LANGUAGES.get(current(), current()),
        FONTS=FONTS,
        PRINT_INCHES=PRINT_INCHES,
        PNG_DOTS=PNG_DOTS,
        quoted=Quoted,
    )
    shared.filters.update(cell=cell, fenced=fenced)
    return shared


@pass_context
def drawn(context: Context, value: object) -> object:
    """Format a value for the template's HTML or Markdown; a dash for None."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, Message) and not value.many:
        return _say(context, value.template, **value.values)
    if isinstance(value, list | tuple):
        return escape(drawn(context, say(", "))).join(drawn(context, part) for part in value)
    value = "–" if value is None else value
    if not context.resolve("markdown"):
        return Markup("<code>{}</code>").format(value) if isinstance(value, Quoted) else value
    if isinstance(value, Quoted):
        return Markup(_code_span(value))
    return Markup(BLOCK_START.sub(r"\1\\\2", _escaped(str(value))))


@pass_context
def cell(context: Context, value: object) -> Markup:
    """Format a value for a Markdown table, where a bar ends the cell even within code."""
    return Markup(re.sub(r"(?<!\\)\|", r"\\|", str(drawn(context, value))))


def fenced(text: str, language: str = "text") -> Markup:
    """Return a Markdown code block of several lines. ``language``: of the code."""
    fence = "`" * max(3, _longest_ticks(text) + 1)
    return Markup(f"{fence}{language}\n{text}\n{fence}")


@pass_context
def _say(context: Context, text: str, /, **values: object) -> Markup:
    """Translate in a template. Each value is formatted by itself, so that a Quoted value stays code."""
    escaped = _escaped if context.resolve("markdown") else escape
    parts = []
    for literal, name, form, _ in Formatter().parse(say(text)):
        parts.append(escaped(literal))
        if name is not None:
            value = values[name]
            if form or value is None or isinstance(value, float):
                value = say("{value" + (f":{form}" if form else "") + "}", value=value)
            parts.append(escape(drawn(context, value)))
    return Markup("".join(parts))


def _escaped(text: str) -> str:
    """Escape words within a line of Markdown."""
    return MARKUP.sub(lambda sign: "\\" + sign.group(), re.sub(r"\s+", " ", text))


def _code_span(text: str) -> str:
    text = " ".join(text.split()) or " "
    ticks = "`" * (_longest_ticks(text) + 1)
    pad = " " if text[0] == "`" or text[-1] == "`" else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def _longest_ticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def table(frame: pd.DataFrame, heading: Callable[[str], str] | None = None, form: str | None = None) -> Markup:
    """Draw a table; ``heading`` names its columns, ``form`` formats its numbers."""
    frame = frame if heading is None else frame.rename(columns=heading)
    write = form.format if form else None
    html = frame.to_html(index=False, escape=True, border=0, na_rep="–", float_format=write)
    return Markup(f'<div class="wide">{html}</div>')


def _drawing() -> Callable[[go.Figure], Markup]:
    """Return a function figure -> HTML. The first figure of a report includes plotly, so the file needs no network."""
    numbers = count()

    def draw(figure: go.Figure) -> Markup:
        figure = go.Figure(figure).update_layout(font_family=FONTS)
        drawn = to_html(figure, full_html=False, include_plotlyjs=next(numbers) == 0, config={"displaylogo": False})
        return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(Markup(drawn), _saving())

    return draw


def _saving() -> Markup:
    """Return the buttons under a figure. The script of ``page.html.j2`` listens to them."""
    about = say("{inches} inches wide ({mm} mm), on white", inches=PRINT_INCHES, mm=round(PRINT_INCHES * 25.4))
    png = say("PNG, {dots} dpi", dots=PNG_DOTS)
    buttons = [
        Markup('<button type="button" data-save="{}" title="{}">{}</button>').format(form, about, label)
        for form, label in (("svg", say("SVG")), ("png", png))
    ]
    return Markup(" ").join(buttons)
