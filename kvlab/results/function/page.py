"""A functional test -> one HTML file that needs no network, a section of an analysis' report, and a ZIP of CSV."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import escape

import pandas as pd
import plotly.graph_objects as go

from kvlab.language import current, phrase, say, speaking
from kvlab.request.align import prompt_source
from kvlab.results.alignment.archive import zipped
from kvlab.results.alignment.data import Alignment, plain
from kvlab.results.alignment.page import LANGUAGES, SETTING, STYLE, VALUE, html
from kvlab.results.function import data as results
from kvlab.results.function import sentences as words
from kvlab.results.function import tables
from kvlab.results.function.data import NAMES, Continued, Injection
from kvlab.results.function.figures import (
    accuracy,
    curve,
    error_against_damage,
    function_map,
    layer_damage,
    measured,
    variants,
)
from kvlab.results.html_page import drawing, whole_page
from kvlab.results.safe_csv import safe_csv

TEXTS_SHOWN = 4
SHOWN_BESIDE = ("own", "projected", "none")
DATA = {
    "documents_judged": phrase("documents judged"),
    "documents_fitted": phrase("documents fitted on"),
    "calibration_documents": phrase("calibration documents"),
    "rows_fitted": phrase("rows fitted"),
    "split": phrase("split"),
    "random_teacher": phrase("random_teacher"),
    "offline": phrase("offline diagnostic"),
    "share_replaced": phrase("share of the prefix replaced"),
    "forwards_of_swaps": phrase("forwards of swaps"),
    "fit_s": phrase("fitting, s"),
    "layer_swaps_s": phrase("swaps of layers, s"),
    "inject_s": phrase("injecting, s"),
    "head_swaps_forecast_s": phrase("swaps of heads, forecast, s"),
    "head_swaps_s": phrase("swaps of heads, s"),
    "texts_s": phrase("texts, s"),
}


def function_html(injection: Injection, language: str | None = None) -> str:
    """The whole report in ``language``, else the current one. Everything that came from a user is escaped."""
    with speaking(language or current()):
        teachers = " + ".join(teacher["name"] for teacher in injection.teachers)
        title = say("Functional test: {teachers} → {student}", teachers=teachers, student=injection.student["name"])
        sections = [f"<h1>{escape(title)}</h1>", *function_section(injection, drawing()), *_settings(injection)]
        return whole_page(title, sections, LANGUAGES[current()], STYLE)


def html_with_function(alignment: Alignment, language: str | None, injection: Injection | None) -> str:
    """The report of an analysis, with the functional test of the same request where there is one."""
    if injection is None:
        return html(alignment, language)
    return html(alignment, language, lambda draw: function_section(injection, draw))


def function_section(injection: Injection, draw: Callable[[go.Figure], str]) -> list[str]:
    """The findings with their figures and numbers; of a test whose own cache does not reproduce, that alone."""
    found = [_said(results.sentence(injection))]
    found += [f'<p class="note">{escape(str(note))}</p>' for note in injection.notes]
    if not injection.reproduces:
        return found
    share = injection.injection["prefix"]
    rows = [row for row in injection.injected if row.prefix == share]
    found += [
        _said(words.verdict_sentence(injection, share)),
        _said(say(words.MEANING)),
        *(draw(variants(rows, column)) for column in words.DAMAGES),
        _table(tables.variants_table(injection)),
        draw(curve(injection, "kl")),
        _said(words.curve_sentence(injection)),
        *_heads(injection, draw),
    ]
    return found + _texts(injection, draw)


def _heads(injection: Injection, draw: Callable) -> list[str]:
    found = [_heading(say("What single heads cost")), _said(say(words.DAMAGE_MEANING))]
    if sentence := words.layers_sentence(injection):
        found += [draw(layer_damage(injection, "kl")), _said(sentence)]
    for measure in ("attention", "kl"):
        parts = [part for part in ("key", "value") if measured(injection, measure, part)]
        found += [draw(function_map(injection, measure, part)) for part in parts]
    for error in words.ERRORS:
        if any(c.error == error for c in injection.correlations):
            found += [draw(error_against_damage(injection, error, "kl"))]
            found += [_said(words.correlation_sentence(injection, error, "kl"))]
    if injection.projection:
        found += [_table(tables.cells_table(injection))]
    return found


def _texts(injection: Injection, draw: Callable) -> list[str]:
    if not injection.texts:
        return []
    found = [_heading(say("Texts"))]
    if sentence := words.accuracy_sentence(injection):
        found += [draw(accuracy(injection.accuracy)), _said(sentence)]
        found += [_table(tables.accuracy_table(injection))]
    for text in injection.texts[:TEXTS_SHOWN]:
        shown = [c for c in text.continuations if c.variant in SHOWN_BESIDE]
        found += [f'<p class="text"><b>{escape(text.prompt)}</b></p>']
        found += [f"<p>{escape(say(NAMES[c.variant]))}:</p><p class='text'>{marked_html(c)}</p>" for c in shown]
    return found


def marked_html(continued: Continued) -> str:
    """Text of a model as HTML: what differs is underlined and on another ground."""
    parts = []
    for piece, differs in words.pieces(continued):
        text = escape(piece)
        parts.append(f'<u class="differs">{text}</u>' if differs else text)
    return "".join(parts)


def settings_table(injection: Injection) -> pd.DataFrame:
    """Settings, data, versions and seconds in two columns."""
    pairs = {
        say("prompts"): prompt_source(injection.prompts),
        **injection.settings,
        **injection.injection,
        **{say(DATA.get(k, k)): say(v) if k == "split" else str(v) for k, v in injection.data.items()},
        **injection.versions,
        **{say(DATA.get(k, k)): f"{v:.2f}" for k, v in injection.timings.items()},
    }
    return pd.DataFrame({SETTING: list(pairs), VALUE: [str(v) for v in pairs.values()]})


def function_archive(injection: Injection) -> bytes:
    """A ZIP of injection.json and of every table as CSV; the same result gives the same bytes."""
    texts = {results.JSON_NAME: as_json(injection)}
    texts |= {name: safe_csv(frame) for name, frame in tables.tables(injection).items()}
    return zipped(texts)


def as_json(injection: Injection) -> str:
    return json.dumps(plain(injection.to_dict()), ensure_ascii=False, indent=1, allow_nan=False)


def _settings(injection: Injection) -> list[str]:
    frame = settings_table(injection).rename(columns=say)
    return [_heading(say("Settings and versions")), _html(frame)]


def _heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def _said(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _table(frame: pd.DataFrame) -> str:
    return _html(frame.round(4).rename(columns=tables.function_heading))


def _html(frame: pd.DataFrame) -> str:
    return f'<div class="wide">{frame.to_html(index=False, escape=True, border=0, na_rep="–")}</div>'
