"""A finished alignment -> one HTML file that needs no network: findings, controls, figures, numbers, settings."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import pandas as pd
import plotly.graph_objects as go

from kvlab.language import current, phrase, say, speaking
from kvlab.request.align import prompt_source
from kvlab.results.alignment import layers, one_head, sentences, tables
from kvlab.results.alignment.data import Alignment, worst_head
from kvlab.results.alignment.fusion import gain_heatmap
from kvlab.results.alignment.heads import error_heatmap
from kvlab.results.alignment.layers import MATRICES, similarity
from kvlab.results.alignment.rules import rules_table, time_rules
from kvlab.results.alignment.spectrum import error_spectrum, spectrum_table
from kvlab.results.alignment.timeline import index_maps, rule_shown, timeline
from kvlab.results.html_page import drawing, whole_page
from kvlab.results.style import KIND_NAME

Section = Callable[[Callable[[go.Figure], str]], list[str]]
STYLE = ".text { white-space: pre-wrap; overflow-wrap: anywhere; } .differs { background: #ffe3b3; color: #000; }"
LANGUAGES = {"en": "en", "zh": "zh-Hans"}  # as HTML names them
SETTING, VALUE = phrase("setting"), phrase("value")
RULES = (  # columns of the table of time rules
    phrase("rule"),
    phrase("exact_rate"),
    phrase("coverage"),
    phrase("mean_absolute_lag_bytes"),
    phrase("largest_lag_bytes"),
    phrase("looks_ahead_rate"),
)

PAIRS = (  # what a value in the table of settings is, where it is no setting: of the data, the controls, the seconds
    phrase("prompts"),
    phrase("teachers"),
    phrase("documents"),
    phrase("documents_sha256"),
    phrase("calibration_documents"),
    phrase("student_tokens"),
    phrase("teacher_tokens"),
    phrase("repeated_tokens"),
    phrase("split"),
    phrase("rows_fit"),
    phrase("rows_scored"),
    phrase("rows_per_feature"),
    phrase("rows"),
    phrase("whole_sample"),
    phrase("random_teacher"),
    phrase("read_sample_s"),
    phrase("choose_layers_s"),
    phrase("controls_s"),
    phrase("compare_rules_s"),
    phrase("sum_s"),
    phrase("read_rest_s"),
    phrase("fit_and_score_s"),
    phrase("token_by_token_s"),
)


def html(alignment: Alignment, language: str | None = None, function: Section | None = None) -> str:
    """The whole report in ``language``, else the current one. Everything that came from a user is escaped.

    ``function``: what draws the section of a functional test of the same request.
    """
    with speaking(language or current()):
        title = say("KV alignment: {teacher} → {student}", **_models(alignment))
        sections = [f"<h1>{escape(title)}</h1>", *_sections(alignment, function)]
        return whole_page(title, sections, LANGUAGES[current()], STYLE)


def _models(alignment: Alignment) -> dict[str, str]:
    return {"teacher": alignment.teacher["name"], "student": alignment.student["name"]}


def _sections(alignment: Alignment, function: Section | None) -> list[str]:
    draw = drawing()
    return [
        _said(sentences.sentence(alignment)),
        *(f'<p class="note">{escape(str(note))}</p>' for note in alignment.notes),
        _heading(say("Projection error by head")),
        _said(say(sentences.ERROR_MEANING)),
        *(draw(error_heatmap(alignment, kind)) for kind in KIND_NAME),
        *(_fusion(alignment, draw) if alignment.fusion else ()),
        *_layers(alignment, draw),
        *_head(alignment, draw),
        *([_heading(say("Can the student use the projected cache?")), *function(draw)] if function else []),
        _heading(say("Timeline")),
        *(_timeline(alignment, draw) if alignment.inspected else ()),
        _table(_rules(alignment)),
        _heading(say("Scores and controls")),
        _said(sentences.control_sentence(alignment, alignment.heads[0])),
        _table(tables.heads_table(alignment).round(4)),
        _heading(say("Self-test of the captured keys")),
        *_capture(alignment),
        _heading(say("Settings and versions")),
        _table(_pairs(alignment)),
    ]


def _layers(alignment: Alignment, draw: Callable) -> list[str]:
    matrices = [name for name in MATRICES if f"similarity.key.{name}" in alignment.arrays]
    return [
        _heading(say("Layers")),
        _said(layers.layers_sentence(alignment)),
        *(_said(layers.layer_sentence(alignment, layer)) for layer in alignment.student["kv_layers"][:1]),
        *(draw(similarity(alignment, kind, name)) for name in matrices for kind in KIND_NAME),
        *(_said(layers.ceiling_sentence(alignment, kind)) for kind in KIND_NAME),
        _table(layers.chosen_table(alignment).round(4)),
    ]


def _fusion(alignment: Alignment, draw: Callable) -> list[str]:
    return [
        _heading(say("Fusion of the teachers")),
        _said(sentences.fusion_sentence(alignment)),
        _said(sentences.fusion_rows_sentence(alignment)),
        *(draw(gain_heatmap(alignment, kind)) for kind in KIND_NAME),
        _table(tables.fusion_table(alignment).round(4)),
    ]


def _timeline(alignment: Alignment, draw: Callable) -> list[str]:
    return [
        _said(one_head.groups_sentence(alignment, 0)),
        draw(timeline(alignment, 0, rule_shown(alignment))),
        draw(index_maps(alignment, 0)),
    ]


def _head(alignment: Alignment, draw: Callable) -> list[str]:
    """What the views of one head show, of the worst K head; nothing of an analysis that does not hold it."""
    cell = worst_head(alignment)
    found = []
    if spectrum_table(alignment, *cell) is not None and not spectrum_table(alignment, *cell).empty:
        found += [draw(error_spectrum(alignment, *cell)), _said(one_head.spectrum_sentence(alignment, *cell))]
    if rules_table(alignment, *cell) is not None:
        found += [draw(time_rules(alignment, *cell)), _said(one_head.rules_sentence(alignment, *cell))]
    _, layer, head = cell
    named = say("The worst K head: layer {layer}, head {head}", layer=layer, head=head)
    return [_heading(named), *found] if found else []


def _capture(alignment: Alignment) -> list[str]:
    parts = []
    for role in ("teacher", "student"):
        parts += [
            _said(sentences.capture_sentence(alignment, role)),
            _table(tables.capture_table(alignment, role), "{:.3g}"),
        ]
    return parts


def _rules(alignment: Alignment) -> pd.DataFrame:
    rows = [{"rule": rule, **values} for rule, values in alignment.timeline["rules"].items()]
    return pd.DataFrame(rows).round(3)


def _pairs(alignment: Alignment) -> pd.DataFrame:
    controls = {k: v for k, v in alignment.controls.items() if not isinstance(v, dict)}
    pairs = {
        "prompts": prompt_source(alignment.prompts),
        "teachers": ", ".join(alignment.teachers),
        **alignment.settings,
        **{k: say(v) if k == "split" else str(v) for k, v in alignment.data.items() if not isinstance(v, dict)},
        **{say("control: {name}", name=say(k)): str(v) for k, v in controls.items()},
        **alignment.versions,
        **{k: f"{v:.2f}" for k, v in alignment.timings.items()},
    }
    names = [name if name in alignment.settings else say(name) for name in pairs]
    return pd.DataFrame({SETTING: names, VALUE: [str(v) for v in pairs.values()]})


def _heading(words: str) -> str:
    return f"<h2>{escape(words)}</h2>"


def _said(words: str) -> str:
    return f"<p>{escape(words)}</p>"


def _table(frame: pd.DataFrame, form: str | None = None) -> str:
    frame = frame.rename(columns=tables.heading)
    written = frame.to_html(index=False, escape=True, border=0, na_rep="–", float_format=form.format if form else None)
    return f'<div class="wide">{written}</div>'
