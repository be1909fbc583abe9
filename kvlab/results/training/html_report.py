"""The gathered report of a run as one HTML file that needs no network, with its figures.

Everything that came from a user or a machine is escaped, figure labels too. It knows no word itself.
"""

from __future__ import annotations

from html import escape
from typing import Any

import plotly.graph_objects as go

from kvlab.results.html_page import drawing, whole_page
from kvlab.results.training import figures
from kvlab.results.training.blocks import (
    Block,
    Figure,
    Heading,
    Items,
    Paragraph,
    Quoted,
    Table,
    Text,
    Verbatim,
    pieces,
)
from kvlab.results.training.sections import sections
from kvlab.results.training.words import WORDS

Fields = dict[str, Any]
LANGUAGES = {"en": "en", "zh": "zh-Hans"}
STYLE = """
td, th { text-align: left; white-space: normal; vertical-align: top; }
code, pre { font-family: ui-monospace, monospace; font-size: .92em; background: #f4f6f8; overflow-wrap: anywhere; }
code { padding: 0 .2rem; white-space: pre-wrap; } pre { padding: .6rem .8rem; white-space: pre-wrap; }
.wide { margin: 0 0 1rem; } figure { margin: 1rem 0; } figcaption { color: #555; }
"""


def html(report: Fields, language: str = "en") -> str:
    """The whole report of kvlab.results.training.facts.gather; ``language``: "en" or "zh"."""
    draw = drawing()
    title = WORDS[language]["title"].format(id=report["run"]["id"])
    written = [_block(block, report, language, draw) for block in sections(report, language)]
    return whole_page(title, written, LANGUAGES[language], STYLE)


def _block(block: Block, report: Fields, language: str, draw) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_text(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_text(text)}</p>"
        case Table(names, rows):
            head = "".join(f"<th>{_text(name)}</th>" for name in names)
            body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
            table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            return f'<div class="wide">{table}</div>'
        case Items(items, numbered):
            kind = "ol" if numbered else "ul"
            written = "".join(f"<li>{'<br>'.join(map(_text, item))}</li>" for item in items)
            return f"<{kind}>{written}</{kind}>"
        case Verbatim(text):
            return f"<pre>{escape(text)}</pre>"
        case Figure(name):
            return _figure(name, report, WORDS[language], draw)


def _text(text: Text) -> str:
    written = (f"<code>{escape(p.text)}</code>" if isinstance(p, Quoted) else escape(p) for p in pieces(text))
    return "".join(written)


def _figure(name: str, report: Fields, words: dict[str, str], draw) -> str:
    figure = DRAWN[name](report, words)
    if figure is None:
        memory = report["series"]["memory"]["of"]
        what = words["figure memory " + memory] if name == "memory" else words[f"figure {name}"]
        return f"<p>{escape(words['figure none'].format(figure=what))}</p>"
    every = report["series"]["every"]
    thinned = words["figure thinned"].format(every=every) if every > 1 and name in ("loss", "router") else ""
    return f"<figure>{draw(figure)}<figcaption>{escape(thinned)}</figcaption></figure>"


def _loss(report: Fields, words: dict[str, str]) -> go.Figure | None:
    series = report["series"]
    return figures.loss_terms(series["step"], series["raw"], series["smooth"], words) if series["raw"] else None


def _memory(report: Fields, words: dict[str, str]) -> go.Figure | None:
    series, peak = report["series"]["memory"], report["run"]["peak_memory"]
    if peak is None:
        return None
    share = next(c["limit"] for c in report["criteria"] if c["name"] == "memory")
    limit = (share, peak["total"]) if peak["total"] else None
    baseline = (report["forecast"] or {}).get("baseline")
    return figures.memory(series["seconds"], series["bytes"], series["of"], words, limit, baseline)


def _router(report: Fields, words: dict[str, str]) -> go.Figure | None:
    teachers = report["config"].get("teachers")
    names = list(map(str, teachers)) if isinstance(teachers, list | tuple) else []
    return figures.router(report["series"]["step"], report["series"]["router"], names, words)


def _held_out(report: Fields, words: dict[str, str]) -> go.Figure:
    runs = [(words["this run"], report["before"], report["after"])]
    for other in report["controls"]:
        label = words["figure control"].format(control=other["control"]) if other["control"] != "none" else other["id"]
        runs.append((label, other["before"], other["after"]))
    return figures.held_out(runs, words)


DRAWN = {"loss": _loss, "memory": _memory, "router": _router, "held out": _held_out}
