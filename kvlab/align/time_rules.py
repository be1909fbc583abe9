"""Teacher timeline -> student timeline: every rule is a sparse matrix [Ts, Tt] whose rows sum to 1 or are empty.

For student token i ending at byte e_i both models should have read the same bytes. ``exact``, ``floor`` and ``ceil``
compare byte ends, ``overlap`` compares spans; ``linear`` and ``nearest`` only compare lengths, ``segment`` the lengths
inside prompt, reasoning and answer. ``rkv`` chooses per head from keys and attention, so it is in ``rkv.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from kvlab.align.resampling import interpolation, linear_indices
from kvlab.errors import AlignError
from kvlab.language import Message
from kvlab.models.tokens import segment_of
from kvlab.shapes import Segment, TimeMap, Tokens


def exact(teacher: Tokens, student: Tokens, segments: Sequence[Segment] = ()) -> TimeMap:
    """The teacher token that ends exactly where the student token ends; other rows are empty."""
    floor_map = floor(teacher, student)
    kept = floor_map.exact[floor_map.rows]
    return _time_map("exact", teacher, student, floor_map.rows[kept], floor_map.columns[kept], floor_map.weights[kept])


def floor(teacher: Tokens, student: Tokens, segments: Sequence[Segment] = ()) -> TimeMap:
    """The last teacher token that ends at or before the student token: causal, never sees ahead."""
    return _by_byte_end("floor", teacher, student)


def ceil(teacher: Tokens, student: Tokens, segments: Sequence[Segment] = ()) -> TimeMap:
    """The first teacher token that ends at or after the student token: looks ahead."""
    return _by_byte_end("ceil", teacher, student)


def overlap(teacher: Tokens, student: Tokens, segments: Sequence[Segment] = ()) -> TimeMap:
    """The mean of the teacher tokens that share bytes with the student token, weighted by how many: not causal.

    A token without bytes (special, or a dummy prefix) shares none: its row is empty, its column unused. A row is
    exact where one teacher token has all the weight and ends where the student token ends.
    """
    columns_of, rows_of = np.flatnonzero(~teacher.special), np.flatnonzero(~student.special)
    ends_t, ends_s = teacher.spans[columns_of, 1], student.spans[rows_of, 1]
    # Spans tile the text, so between two borders lies one token of each: the first that ends at the later one or after.
    borders = np.union1d(ends_t, ends_s)
    t, s = np.searchsorted(ends_t, borders), np.searchsorted(ends_s, borders)
    between = np.diff(borders, prepend=0)
    shared = (t < len(ends_t)) & (s < len(ends_s)) & (between > 0)
    rows, columns, bytes_shared = rows_of[s[shared]], columns_of[t[shared]], between[shared]
    of_row = np.bincount(rows, weights=bytes_shared, minlength=len(student))
    return _time_map("overlap", teacher, student, rows, columns, bytes_shared / of_row[rows])


def linear(teacher: Tokens, student: Tokens, segments: Sequence[Segment] = ()) -> TimeMap:
    """Interpolation between the two teacher steps around u; blind to the text."""
    entries = _interpolated(np.arange(len(teacher)), np.arange(len(student)))
    return _time_map("linear", teacher, student, *entries)


def nearest(teacher: Tokens, student: Tokens, segments: Sequence[Segment] = ()) -> TimeMap:
    """The rounded, clamped index of u (the seed's safe resampling); blind to the text."""
    indices = linear_indices(len(teacher), len(student)).numpy()
    rows = np.flatnonzero(indices >= 0)
    return _time_map("nearest", teacher, student, rows, indices[rows], np.ones(len(rows)))


def segment(teacher: Tokens, student: Tokens, segments: Sequence[Segment] = ()) -> TimeMap:
    """``linear`` inside each segment, from its first token to its last; blind to the text between the borders.

    Segments are byte spans, so both models' tokens are cut at the same place of the text: a token belongs to the
    segment where its last byte lies (``tokens.segment_of``), and special tokens, being no part of the text, to none.
    Without segments the content is one. A segment in which the teacher has no token leaves its rows empty.
    """
    of_t, of_s = segment_of(teacher, segments), segment_of(student, segments)
    parts = [_interpolated(np.flatnonzero(of_t == k), np.flatnonzero(of_s == k)) for k in range(max(len(segments), 1))]
    rows, columns, weights = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(rows, kind="stable")
    return _time_map("segment", teacher, student, rows[order], columns[order], weights[order])


def by_index(teacher: Tokens, student: Tokens) -> TimeMap:
    """Step i for step i, as code that does not resample reads a timeline; not a rule to choose.

    The caller checks that the teacher's timeline is as long as the student's.
    """
    steps = np.arange(len(student))
    return _time_map("index", teacher, student, steps, steps, np.ones(len(steps)))


RULES: dict[str, Callable[..., TimeMap]] = {
    "exact": exact,
    "floor": floor,
    "ceil": ceil,
    "overlap": overlap,
    "linear": linear,
    "nearest": nearest,
    "segment": segment,
}
HEAD_RULES = frozenset({"rkv"})  # their steps differ from head to head
BYTE_RULES = frozenset({"exact", "floor", "ceil", "overlap"})  # fitted where both have read the same bytes


def _interpolated(columns_of: np.ndarray, rows_of: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entries (rows, columns, weights) of ``linear`` from teacher steps ``columns_of`` to student steps ``rows_of``."""
    if not len(columns_of) or not len(rows_of):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
    lower, upper, fraction = (part.numpy() for part in interpolation(len(columns_of), len(rows_of)))
    between = fraction > 0
    rows = np.concatenate([rows_of, rows_of[between]])
    columns = columns_of[np.concatenate([lower, upper[between]])]
    weights = np.concatenate([1 - fraction, fraction[between]])
    order = np.argsort(rows, kind="stable")
    return rows[order], columns[order], weights[order]


def _by_byte_end(rule: str, teacher: Tokens, student: Tokens) -> TimeMap:
    """Only tokens read from the text are matched: a BOS has no bytes that the other model could have read."""
    columns_of = np.flatnonzero(~teacher.special)
    rows = np.flatnonzero(~student.special)
    ends_t, ends_s = teacher.spans[columns_of, 1], student.spans[rows, 1]
    if rule == "floor":
        chosen = np.searchsorted(ends_t, ends_s, side="right") - 1
    else:
        chosen = np.searchsorted(ends_t, ends_s, side="left")
    found = (chosen >= 0) & (chosen < len(columns_of))
    rows, columns = rows[found], columns_of[chosen[found]]
    return _time_map(rule, teacher, student, rows, columns, np.ones(len(rows)))


def _time_map(
    rule: str,
    teacher: Tokens,
    student: Tokens,
    rows: np.ndarray,
    columns: np.ndarray,
    weights: np.ndarray,
) -> TimeMap:
    ends_t, ends_s = teacher.spans[:, 1], student.spans[:, 1]
    read_by_teacher = np.bincount(rows, weights * ends_t[columns], minlength=len(student))
    covered = np.zeros(len(student), dtype=bool)
    covered[rows] = True
    lag = np.where(covered, np.round(ends_s - read_by_teacher), 0).astype(np.int64)

    whole = weights == 1
    same_end = ends_s[rows] == ends_t[columns]
    of_text = ~student.special[rows] & ~teacher.special[columns]
    is_exact = np.zeros(len(student), dtype=bool)
    is_exact[rows[whole & same_end & of_text]] = True
    return TimeMap(
        rule=rule,
        student_length=len(student),
        teacher_length=len(teacher),
        rows=rows.astype(np.int64),
        columns=columns.astype(np.int64),
        weights=weights.astype(np.float64),
        exact=is_exact,
        lag=lag,
    )


def resample(time_map: TimeMap, x: torch.Tensor) -> torch.Tensor:
    """Apply a map to the time axis: [..., Tt, D] -> [..., Ts, D]; rows without signal are zero."""
    if x.shape[-2] != time_map.teacher_length:
        raise AlignError(
            "time-map-mismatch",
            expected=Message("a teacher timeline of {n} steps", n=time_map.teacher_length),
            found=Message("a tensor of shape {shape}", shape=tuple(x.shape)),
            remedy=Message("build the map from the tokens of the same document"),
        )
    rows = torch.from_numpy(time_map.rows).to(x.device)
    columns = torch.from_numpy(time_map.columns).to(x.device)
    weights = torch.from_numpy(time_map.weights).to(x.device, x.dtype).unsqueeze(-1)
    out = x.new_zeros(*x.shape[:-2], time_map.student_length, x.shape[-1])
    return out.index_add_(-2, rows, x.index_select(-2, columns) * weights)
