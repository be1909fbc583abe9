"""Show a few documents token by token: every rule's map, and each token's error under maps that have not seen it."""

from collections.abc import Sequence

import numpy as np
import torch

from kvlab.align import metrics
from kvlab.align.align_sums import AlignSums
from kvlab.align.batches import ALL, Rows, read, whole_document
from kvlab.align.crossfit import ByClass
from kvlab.align.items import Item
from kvlab.align.resampled import NAMES, Places, signals
from kvlab.align.rows import EXACT, classes_of, row_parts, rows_of
from kvlab.align.scoring import Scored
from kvlab.align.shapes import padded
from kvlab.models.loading import LoadedModel
from kvlab.request.align import AlignSettings
from kvlab.request.time_rules import MAPS, RULES
from kvlab.request.time_rules.rule import looks_ahead
from kvlab.results.alignment.data import Inspected, TokenView
from kvlab.shapes import KINDS, Geometry, HeadSteps, Progress, TimeMap, Tokens

RULE_TABLE_DOCUMENTS = 200  # documents over which every time rule is summarised
MOST_BYTES = 256 * 2**20  # of the arrays of all documents, which every reader of the result holds in memory

Views = tuple[list[Inspected], dict[str, np.ndarray]]


def that_fit(items: Sequence[Item], student: Geometry, teachers: Sequence[Geometry], time: str) -> list[Item]:
    """Return items whose arrays together fit into MOST_BYTES for each teacher; skip documents that are too long."""
    per_student = sum(heads for heads, _, _ in student.layer_shapes) * len(KINDS) * (4 + 2 * len(NAMES))
    per_teacher = [4 * 4 * sum(heads for heads, _, _ in g.layer_shapes) * RULES[time].per_head for g in teachers]
    fitting, room = [], MOST_BYTES
    for item in items:
        needed = per_student * len(item.student) + max(
            per * max(len(tokens), len(item.student)) for per, tokens in zip(per_teacher, item.teachers)
        )
        if needed <= room:
            fitting.append(item)
            room -= needed
    return fitting


def inspect(
    teachers: Sequence[LoadedModel],
    student: LoadedModel,
    items: Sequence[Item],
    sums: Sequence[AlignSums],
    scored: Sequence[Scored],
    settings: AlignSettings,
    progress: Progress,
) -> list[Views]:
    """Return, for each teacher, views of these documents and their arrays ``document.N....`` (results.alignment.data).

    Read each document again: keeping its rows until now would take memory that grows with its length.
    """
    by_teacher: list[Views] = [([], {}) for _ in teachers]
    unweighted = settings.model_copy(update={"row_weights": "equal"})  # nothing is fitted here
    for number, item in enumerate(items):
        progress("reading documents token by token", number, len(items))
        batch_read = read(teachers, student, [item], unweighted)
        for t, (views, arrays) in enumerate(by_teacher):
            rows = whole_document(batch_read, 0, t)
            views.append(_view(item, t, settings))
            prefix = f"document.{number}"
            arrays[f"{prefix}.row_class"] = _row_classes(item, t, settings).astype(np.float32)
            at = Places(item.maps[t].covered, torch.from_numpy(_row_classes(item, t, settings)))
            for kind in KINDS:
                errors, lines = [], []
                for layer, choice in enumerate(sums[t].choices[kind]):
                    x, y = sums[t].x(kind, choice.union, rows, ALL), rows.y(kind, layer, ALL)
                    own_steps = _own_steps(rows, kind, choice.union, x.shape[1], item.maps[t].teacher_length)
                    fit, spectrum = scored[t].fits[kind, layer], scored[t].spectra[kind, layer]
                    errors.append(_token_errors(fit, x, y, item.fold, at))
                    lines.append(signals(fit, spectrum, x, own_steps, y, item.fold, at))
                arrays[f"{prefix}.error.{kind}"] = padded(errors)
                for name in NAMES:
                    layer_lines = padded([by_name[name] for by_name in lines])
                    arrays[f"{prefix}.signal.{kind}.{name}"] = layer_lines.astype(np.float16)
            if batch_read.head_steps:
                arrays |= _head_steps(batch_read.head_steps[t][0], f"{prefix}.rkv")
            for rule, make in MAPS.items():
                time_map = make(item.teachers[t], item.student, item.document.segments)
                arrays[f"{prefix}.index.{rule}"] = _mean_index(time_map)
                arrays[f"{prefix}.lag.{rule}"] = np.where(time_map.covered, time_map.lag, np.nan)
    progress("reading documents token by token", len(items), len(items))
    return by_teacher


def _row_classes(item: Item, t: int, settings: AlignSettings) -> np.ndarray:
    """[Ts]"""
    if settings.rows == "exact":
        return np.full(len(item.student), EXACT)
    return classes_of(item.maps[t], settings.time)


def _view(item: Item, t: int, settings: AlignSettings) -> Inspected:
    parts = row_parts(item.teachers[t], item.student, item.maps[t], item.scored, settings, item.repeated)
    scored = np.zeros(len(item.student), dtype=bool)
    scored[rows_of(parts)[0]] = True
    return Inspected(
        id=item.document.id,
        text=item.document.text,
        segments=[[s.name, s.start, s.end] for s in item.document.segments],
        fold=item.fold,
        teacher_tokens=_token_views(item.teachers[t], item.document.text),
        student_tokens=_token_views(item.student, item.document.text),
        scored=scored.tolist(),
    )


def _token_errors(fit: ByClass, x: torch.Tensor, y: torch.Tensor, fold: int, at: Places) -> np.ndarray:
    """[Hs, Ts]: squared error of a token over the head's mean variance per token; NaN without a teacher step."""
    variance = fit.tss.sum(0) / fit.n.sum()
    error = metrics.per_head((y.double() - fit.predict(fold, x, at.row_classes)) ** 2, fit.heads) / variance
    error[~torch.from_numpy(at.covered)] = float("nan")
    return error.T.cpu().numpy()


def _own_steps(rows: Rows, kind: str, union: Sequence[int], width: int, length: int) -> torch.Tensor:
    """[Tt, P]: the teacher's features on its own steps; the student's tokens, of which its map makes nothing, are 0."""
    features = rows.teacher.features(kind)
    x = torch.cat([features[at][0].transpose(0, 1).flatten(1) for at in union], dim=1)[:length]
    return torch.nn.functional.pad(x, (0, width - x.shape[1]))


def _head_steps(head_steps: HeadSteps, prefix: str) -> dict[str, np.ndarray]:
    """Return steps [Lt, Ht, Ts] and the parts of their scores [Lt, Ht, Tt]; NaN where there is none."""
    arrays = {}
    for name in ("steps", "importance", "redundancy", "score"):
        arrays[f"{prefix}.{name}"] = padded([layer.float().cpu().numpy() for layer in getattr(head_steps, name)])
    steps = arrays[f"{prefix}.steps"]
    steps[steps < 0] = np.nan
    return arrays


def _mean_index(time_map: TimeMap) -> np.ndarray:
    """Return [Ts] the (weighted mean) teacher step of each student step; NaN where empty."""
    index = np.zeros(time_map.student_length)
    np.add.at(index, time_map.rows, time_map.weights * time_map.columns)
    return np.where(time_map.covered, index, np.nan)


def _token_views(tokens: Tokens, text: str) -> list[TokenView]:
    written = text.encode()
    return [
        TokenView("" if special else _legible(written[start:end]), int(start), int(end), bool(special))
        for (start, end), special in zip(tokens.spans, tokens.special)
    ]


def _legible(piece: bytes) -> str:
    """Return the token's text; bytes of a split character in hexadecimal."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "".join(f"<{byte:02X}>" for byte in piece)


def timeline_summary(scored: Sequence[Item], t: int) -> dict:
    """Compute the rates of every rule over the content tokens of these documents, from teacher number ``t``."""
    rules = {}
    for name, make in MAPS.items():
        maps = [make(i.teachers[t], i.student, i.document.segments) for i in scored]
        content = np.concatenate([~i.student.special for i in scored])
        covered = np.concatenate([m.covered for m in maps])[content]
        exact = np.concatenate([m.exact for m in maps])[content]
        ahead = np.concatenate([looks_ahead(i.teachers[t], i.student, m) for i, m in zip(scored, maps)])[content]
        lag = np.concatenate([m.lag for m in maps])[content][covered]
        rules[name] = {
            "exact_rate": _mean(exact),
            "coverage": _mean(covered),
            "mean_absolute_lag_bytes": _mean(np.abs(lag)),
            "largest_lag_bytes": int(np.abs(lag).max(initial=0)),
            "looks_ahead_rate": _mean(ahead[covered]),
        }
    return {
        "documents": len(scored),
        "student_tokens": int(sum((~i.student.special).sum() for i in scored)),
        "teacher_tokens": int(sum((~i.teachers[t].special).sum() for i in scored)),
        "rules": rules,
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
