"""A finished alignment -> one HTML file that needs no network: findings, controls, figures, numbers, settings."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import pandas as pd

from kvlab import plots
from kvlab.plots import KIND_NAME
from kvlab.report import layers, sentences, tables
from kvlab.report.frame import drawing, whole_page
from kvlab.results import Alignment


def html(alignment: Alignment) -> str:
    """The whole report. Everything that came from a user is escaped."""
    title = f"KV alignment: {alignment.teacher['name']} → {alignment.student['name']}"
    draw = drawing()
    sections = [
        f"<h1>{escape(title)}</h1>",
        _said(sentences.sentence(alignment)),
        *(f'<p class="note">{escape(note)}</p>' for note in alignment.notes),
        "<h2>Projection error by head</h2>",
        _said(sentences.ERROR_MEANING),
        *(draw(plots.error_heatmap(alignment, kind)) for kind in KIND_NAME),
        *(_fusion(alignment, draw) if alignment.fusion else ()),
        *_layers(alignment, draw),
        "<h2>Timeline</h2>",
        *(_timeline(alignment, draw) if alignment.inspected else ()),
        _table(_rules(alignment)),
        "<h2>Scores and controls</h2>",
        _said(sentences.control_sentence(alignment, alignment.heads[0])),
        _table(tables.heads_table(alignment).round(4)),
        "<h2>Self-test of the captured keys</h2>",
        *_capture(alignment),
        "<h2>Settings and versions</h2>",
        _table(_pairs(alignment)),
    ]
    return whole_page(title, sections)


def _layers(alignment: Alignment, draw: Callable) -> list[str]:
    matrices = [name for name in plots.MATRICES if f"similarity.key.{name}" in alignment.arrays]
    return [
        "<h2>Layers</h2>",
        _said(layers.layers_sentence(alignment)),
        *(_said(layers.layer_sentence(alignment, layer)) for layer in alignment.student["kv_layers"][:1]),
        *(draw(plots.similarity(alignment, kind, name)) for name in matrices for kind in KIND_NAME),
        *(_said(layers.ceiling_sentence(alignment, kind)) for kind in KIND_NAME),
        _table(layers.chosen_table(alignment).round(4)),
    ]


def _fusion(alignment: Alignment, draw: Callable) -> list[str]:
    return [
        "<h2>Fusion of the teachers</h2>",
        _said(sentences.fusion_sentence(alignment)),
        _said(sentences.fusion_rows_sentence(alignment)),
        *(draw(plots.gain_heatmap(alignment, kind)) for kind in KIND_NAME),
        _table(tables.fusion_table(alignment).round(4)),
    ]


def _timeline(alignment: Alignment, draw: Callable) -> list[str]:
    return [draw(plots.timeline(alignment, 0, plots.rule_shown(alignment))), draw(plots.index_maps(alignment, 0))]


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
    pairs = {
        "prompts": alignment.prompts,
        "teachers": ", ".join(alignment.teachers),
        **alignment.settings,
        **{k: v for k, v in alignment.data.items() if not isinstance(v, dict)},
        **{f"control: {k}": v for k, v in alignment.controls.items()},
        **alignment.versions,
        **{k: f"{v:.2f}" for k, v in alignment.timings.items()},
    }
    return pd.DataFrame({"setting": list(pairs), "value": [str(v) for v in pairs.values()]})


def _said(words: str) -> str:
    return f"<p>{escape(words)}</p>"


def _table(frame: pd.DataFrame, form: str | None = None) -> str:
    written = frame.to_html(index=False, escape=True, border=0, na_rep="–", float_format=form.format if form else None)
    return f'<div class="wide">{written}</div>'
