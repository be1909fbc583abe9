"""Documents -> tokens of both models, the time map between them, and the fold that holds each one out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kvlab.align import time as time_rules
from kvlab.errors import AlignError
from kvlab.models import LoadedModel
from kvlab.request import AlignSettings
from kvlab.tokens import tokenize
from kvlab.types import Document, Progress, TimeMap, Tokens


@dataclass
class Item:
    """One document as both models read it."""

    document: Document
    teacher: Tokens
    student: Tokens
    map: TimeMap
    fold: int
    scored: bool  # False: a calibration document, fitted on only


def read_documents(
    teacher: LoadedModel,
    student: LoadedModel,
    documents: Sequence[Document],
    calibration: Sequence[Document],
    settings: AlignSettings,
    progress: Progress,
) -> tuple[list[Item], list[str]]:
    """Items in the order given, and notes on what was cut or not read byte by byte."""
    if not documents:
        raise AlignError(
            "no-documents",
            expected="at least one prompt",
            found="none",
            remedy="paste or upload prompts, or take the bundled samples",
        )
    folds = min(settings.folds, len(documents) + len(calibration))
    if folds < 2:
        raise AlignError(
            "one-document",
            expected="at least two documents, so that one can be held out",
            found="a single document and no calibration documents",
            remedy="add prompts, or also fit on the bundled samples (--calibration samples)",
        )
    rule = time_rules.RULES[settings.time]
    limits = [m.geometry.max_positions or settings.max_tokens for m in (teacher, student)]
    limit_t, limit_s = (min(limit, settings.max_tokens) for limit in limits)
    of_fold = _folds(len(documents), folds, settings.seed)
    of_fold += _folds(len(calibration), folds, settings.seed + 1, first=len(documents))
    items, cut, lossy, empty = [], [], [], []
    everything = _with_own_ids([*documents, *calibration])
    for i, document in enumerate(everything):
        t, s = tokenize(teacher.tokenizer, document.text), tokenize(student.tokenizer, document.text)
        if len(t) > limit_t or len(s) > limit_s:
            t, s = _cut_at_common_border(t, s, limit_t, limit_s)
            cut.append(document.id)
        if not len(t) or not len(s):
            empty.append(document.id)
            continue
        if not (t.lossless and s.lossless):
            lossy.append(document.id)
        items.append(Item(document, t, s, rule(t, s), of_fold[i], scored=i < len(documents)))
        if i % 50 == 0:
            progress("reading prompts", i, len(everything))
    notes = []
    if empty:
        notes.append(f"{len(empty)} of {len(everything)} documents have no tokens and were left out: {_some(empty)}")
    if cut:
        notes.append(
            f"{len(cut)} of {len(everything)} documents were longer than {limit_t} teacher or {limit_s} student "
            f"tokens and were cut: {_some(cut)}"
        )
    if lossy:
        notes.append(
            f"In {len(lossy)} of {len(everything)} documents a tokenizer changes the text (normalisation), so byte "
            f"borders come from character offsets: {_some(lossy)}"
        )
    if not any(item.scored for item in items):
        raise AlignError(
            "no-tokens",
            expected="a prompt with at least one token for both models",
            found=f"none in {len(documents)} prompts, with at most {limit_t} teacher and {limit_s} student tokens",
            remedy="use longer prompts, or a larger --max-tokens",
        )
    return items, notes


def _with_own_ids(documents: list[Document]) -> list[Document]:
    """What is kept of a document is found by its id, so no two may share one."""
    seen: dict[str, int] = {}
    named = []
    for document in documents:
        seen[document.id] = seen.get(document.id, 0) + 1
        again = f" ({seen[document.id]})" if seen[document.id] > 1 else ""
        named.append(replace(document, id=document.id + again))
    return named


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _folds(count: int, folds: int, seed: int, first: int = 0) -> list[int]:
    """Folds of equal size in random order, so that neither language nor topic order becomes a fold."""
    order = np.random.default_rng(seed).permutation(count)
    of_fold = np.empty(count, dtype=int)
    of_fold[order] = (first + np.arange(count)) % folds
    return of_fold.tolist()


def _cut_at_common_border(t: Tokens, s: Tokens, limit_t: int, limit_s: int) -> tuple[Tokens, Tokens]:
    """The longest prefixes within both limits that end at the same byte (or nearest below)."""
    byte_t = t.spans[min(limit_t, len(t)) - 1, 1]
    byte_s = s.spans[min(limit_s, len(s)) - 1, 1]
    last = min(byte_t, byte_s)

    def prefix(tokens: Tokens, limit: int) -> Tokens:
        return tokens.first(min(limit, int(np.searchsorted(tokens.spans[:, 1], last, side="right"))))

    return prefix(t, limit_t), prefix(s, limit_s)
