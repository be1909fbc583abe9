"""A few documents token by token: every rule's map, and the error of each token under maps that have not seen it."""

from __future__ import annotations

import numpy as np
import torch

from kvlab.align import metrics
from kvlab.align import time as time_rules
from kvlab.align.accumulate import Sums
from kvlab.align.crossfit import FIT_AND_SCORE, SCORE_ONLY, CrossFit
from kvlab.align.reading import Item
from kvlab.align.rows import row_parts
from kvlab.request import AlignSettings
from kvlab.results import Inspected, TokenView
from kvlab.types import KINDS, TimeMap, Tokens

RULE_TABLE_DOCUMENTS = 200  # documents over which every time rule is summarised


def inspect(
    items: list[Item], sums: Sums, fits: dict[tuple[str, int], CrossFit], settings: AlignSettings
) -> tuple[list[Inspected], dict[str, np.ndarray]]:
    """Views of the kept documents, and their arrays ``document.N....`` as named in kvlab.results."""
    views: list[Inspected] = []
    arrays: dict[str, np.ndarray] = {}
    layers = sorted({layer for _, layer in fits})
    for item in items:
        if not item.scored or item.document.id not in sums.inspected:
            continue
        prefix = f"document.{len(views)}"
        for kind in KINDS:
            errors = [_token_errors(fits[kind, layer], item, sums, kind, layer) for layer in layers]
            arrays[f"{prefix}.error.{kind}"] = np.stack(errors)
        for rule, make in time_rules.RULES.items():
            time_map = make(item.teacher, item.student)
            arrays[f"{prefix}.index.{rule}"] = _mean_index(time_map)
            arrays[f"{prefix}.lag.{rule}"] = np.where(time_map.covered, time_map.lag, np.nan)
        views.append(
            Inspected(
                id=item.document.id,
                text=item.document.text,
                segments=[[s.name, s.start, s.end] for s in item.document.segments],
                fold=item.fold,
                teacher_tokens=_token_views(item.teacher, item.document.text),
                student_tokens=_token_views(item.student, item.document.text),
                scored=_scored_rows(item, settings).tolist(),
            )
        )
    return views, arrays


def _scored_rows(item: Item, settings: AlignSettings) -> np.ndarray:
    parts = row_parts(item, settings)
    scored = np.zeros(len(item.student), dtype=bool)
    scored[parts[FIT_AND_SCORE]] = scored[parts[SCORE_ONLY]] = True
    return scored


def _token_errors(fit: CrossFit, item: Item, sums: Sums, kind: str, layer: int) -> np.ndarray:
    """[Hs, Ts]: squared error of a token over the head's mean variance per token; NaN without a teacher step."""
    x, y = sums.inspected[item.document.id][kind, layer]
    predicted = fit.predict(item.fold, x.to(fit.mean_x[0].device)).cpu()[:, : y.shape[1]]
    heads = y.shape[1] * fit.tss.shape[1] // len(fit.mean_y[0])
    variance = fit.tss[:, :heads].sum(0).cpu() / fit.n.sum()
    error = metrics.per_head((y.double() - predicted) ** 2, heads) / variance
    error[~torch.from_numpy(item.map.covered)] = float("nan")
    return error.T.numpy()


def _mean_index(time_map: TimeMap) -> np.ndarray:
    """[Ts]: the (weighted mean) teacher step of each student step; NaN where empty."""
    index = np.zeros(time_map.student_length)
    np.add.at(index, time_map.rows, time_map.weights * time_map.columns)
    return np.where(time_map.covered, index, np.nan)


def _token_views(tokens: Tokens, text: str) -> list[TokenView]:
    written = text.encode()
    return [
        TokenView(
            text=_legible(written[start:end]) if not special else "",
            start=int(start),
            end=int(end),
            special=bool(special),
        )
        for (start, end), special in zip(tokens.spans, tokens.special)
    ]


def _legible(piece: bytes) -> str:
    """The token's own text; bytes of a split character in hexadecimal."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "".join(f"<{byte:02X}>" for byte in piece)


def timeline_summary(items: list[Item]) -> dict:
    """Rates over the content tokens of the scored documents, for every rule."""
    scored = [i for i in items if i.scored][:RULE_TABLE_DOCUMENTS]
    rules = {}
    for name, make in time_rules.RULES.items():
        maps = [make(i.teacher, i.student) for i in scored]
        content = np.concatenate([~i.student.special for i in scored])
        covered = np.concatenate([m.covered for m in maps])[content]
        exact = np.concatenate([m.exact for m in maps])[content]
        lag = np.concatenate([m.lag for m in maps])[content][covered]
        rules[name] = {
            "exact_rate": _mean(exact),
            "coverage": _mean(covered),
            "mean_absolute_lag_bytes": _mean(np.abs(lag)),
            "largest_lag_bytes": int(np.abs(lag).max(initial=0)),
            "looks_ahead_rate": _mean(lag < 0),
        }
    return {
        "documents": len(scored),
        "student_tokens": int(sum((~i.student.special).sum() for i in scored)),
        "teacher_tokens": int(sum((~i.teacher.special).sum() for i in scored)),
        "rules": rules,
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
