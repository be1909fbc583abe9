"""A finished alignment -> one HTML file that needs no network: findings, controls, figures, numbers, settings."""

from __future__ import annotations

from html import escape
from math import isfinite

import pandas as pd
from plotly.io import to_html

from kvlab import plots
from kvlab.results import Alignment

COLUMNS = {
    "kind": "K/V",
    "layer": "layer",
    "head": "head",
    "r2": "R²",
    "se": "s.e.",
    "error": "error 1 − R²",
    "cosine": "cosine",
    "r2_identity": "R² token identity",
    "r2_shuffled": "R² shuffled",
    "gain": "gain",
    "n": "n tokens",
}

STYLE = """
body { font: 15px/1.5 system-ui, "Noto Sans CJK SC", sans-serif;
  max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th { background: #f4f6f8; } td:first-child, th:first-child { text-align: left; }
.note { border-left: 4px solid #E69F00; padding: .3rem .8rem; background: #fff8e6; }
"""


def sentence(alignment: Alignment) -> str:
    """The finding in one sentence, with n, split and control."""
    summary, data = alignment.summary(), alignment.data
    parts = [
        f"{whole(summary[kind]['r2'])} of {plots.KIND_NAME[kind]} "
        f"({_points(summary[kind]['gain'])} over the token alone, shuffled rows {whole(summary[kind]['r2_shuffled'])})"
        for kind in ("key", "value")
    ]
    documents = f"{data['documents']} document{'s' * (data['documents'] != 1)}"
    calibration = data["calibration_documents"]
    also = f", fitted also on {calibration} bundled samples" if calibration else ""
    return (
        f"On {documents} held out by document ({data['rows_scored']:,} student tokens, "
        f"{data['folds']} folds{also}), {alignment.teacher['name']} explains {parts[0]} and {parts[1]} of "
        f"{alignment.student['name']}'s variance, averaged over heads."
    )


def fusion_sentence(alignment: Alignment) -> str:
    """What all teachers together explain beyond the best single one."""
    parts = []
    for kind, name in plots.KIND_NAME.items():
        scores = [s for s in alignment.fusion if s.kind == kind and isfinite(s.r2)]
        if scores:
            r2, gain = (sum(getattr(s, field) for s in scores) / len(scores) for field in ("r2", "gain"))
            parts.append(f"{whole(r2)} of {name} ({_points(gain)} over the best single teacher)")
    return (
        f"Fused in the student's space, {len(alignment.teachers)} teachers explain {' and '.join(parts)}, averaged "
        f"over heads, on the {alignment.fusion[0].n:,} tokens that all of them cover."
    )


def whole(share: float) -> str:
    """A share in whole percent, without a negative zero; a dash when there is none."""
    return f"{round(share * 100) + 0}%" if isfinite(share) else "–"


def _points(gain: float) -> str:
    return f"{round(gain * 100) + 0:+d} points" if isfinite(gain) else "–"


def html(alignment: Alignment) -> str:
    """The whole report. Everything that came from a user is escaped."""
    title = f"KV alignment: {alignment.teacher['name']} → {alignment.student['name']}"
    figures = [plots.error_heatmap(alignment, "key"), plots.error_heatmap(alignment, "value")]
    if alignment.inspected:
        figures += [plots.timeline(alignment, 0, plots.rule_shown(alignment)), plots.index_maps(alignment, 0)]
    drawn = [to_html(figure, full_html=False, include_plotlyjs=number == 0) for number, figure in enumerate(figures)]
    numbers = alignment.table()[list(COLUMNS)].rename(columns=COLUMNS)
    sections = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(sentence(alignment))}</p>",
        *(f'<p class="note">{escape(note)}</p>' for note in alignment.notes),
        "<h2>Projection error by head</h2><p>Error = RSS/TSS = 1 − R² on documents the map was not fitted on: "
        "0 is perfect, 1 no better than the training mean. “=” marks heads no better than their controls.</p>",
        *drawn[:2],
        "<h2>Timeline</h2>" if drawn[2:] else "",
        *drawn[2:],
        _table(_rules(alignment)),
        "<h2>Numbers</h2>",
        _table(numbers.round(4)),
        "<h2>Settings and versions</h2>",
        _table(_pairs(alignment)),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )


def _rules(alignment: Alignment) -> pd.DataFrame:
    rows = [{"rule": rule, **values} for rule, values in alignment.timeline["rules"].items()]
    return pd.DataFrame(rows).round(3)


def _pairs(alignment: Alignment) -> pd.DataFrame:
    pairs = {
        "prompts": alignment.prompts,
        **alignment.settings,
        **{k: v for k, v in alignment.data.items() if not isinstance(v, dict)},
        **alignment.versions,
        **{k: f"{v:.2f}" for k, v in alignment.timings.items()},
    }
    return pd.DataFrame({"setting": list(pairs), "value": [str(v) for v in pairs.values()]})


def _table(frame: pd.DataFrame) -> str:
    return frame.to_html(index=False, escape=True, border=0, na_rep="–")
