"""Teacher timeline -> student timeline: every rule is a sparse matrix [Ts, Tt] whose rows sum to 1 or are empty.

For student token i ending at byte e_i both models should have read the same bytes. ``exact``, ``floor`` and
``ceil`` compare byte ends; ``linear`` and ``nearest`` only compare lengths, u = i * (Tt - 1) / (Ts - 1).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from kvlab.errors import AlignError
from kvlab.types import TimeMap, Tokens

NO_STEP = -1


# --- resampling without tokens: the seed's functions -------------------------------------------------------


def linear_indices(t_in: int, t_out: int) -> torch.Tensor:
    """[T_out] int64: the rounded index of u = i * (T_in - 1) / (T_out - 1), always in [0, T_in).

    Monotone, reaches both ends when T_out >= 2. An empty input has no step to point at: all are -1.
    Integer arithmetic, so no rounding can leave the range.
    """
    _check_lengths(t_in, t_out)
    if t_in == 0:
        return torch.full((t_out,), NO_STEP, dtype=torch.int64)
    steps = torch.arange(t_out, dtype=torch.int64)
    intervals = max(t_out - 1, 1)
    return (2 * steps * (t_in - 1) + intervals) // (2 * intervals)


def safe_time_resample(x: torch.Tensor, t_out: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest-step resampling [..., T_in, D] -> [..., T_out, D], and signal [T_out] bool.

    An empty timeline gives zeros with signal False everywhere: no teacher signal, to be masked in a loss.
    """
    indices = linear_indices(x.shape[-2], t_out).to(x.device)
    signal = indices >= 0
    if x.shape[-2] == 0:
        return x.new_zeros(*x.shape[:-2], t_out, x.shape[-1]), signal
    return x.index_select(-2, indices), signal


def resample_kv_with_interpolation(
    keys: torch.Tensor, values: torch.Tensor, t_out: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Linear interpolation of keys and values [..., T_in, D] -> [..., T_out, D], and signal [T_out] bool.

    Equal to ``numpy.interp`` per channel. Works on keys before or after RoPE; before is what makes sense.
    """
    t_in = keys.shape[-2]
    if values.shape[-2] != t_in:
        raise AlignError(
            "time-length-mismatch",
            expected="keys and values of one length",
            found=f"keys with T={t_in} and values with T={values.shape[-2]}",
            remedy="pass the keys and values of the same cache layer",
        )
    _check_lengths(t_in, t_out)
    signal = torch.full((t_out,), t_in > 0, device=keys.device)
    lower, upper, fraction = (part.to(keys.device) for part in _interpolation(t_in, t_out))

    def interpolate(x: torch.Tensor) -> torch.Tensor:
        if t_in == 0:
            return x.new_zeros(*x.shape[:-2], t_out, x.shape[-1])
        weight = fraction.to(x.dtype).unsqueeze(-1)
        return torch.lerp(x.index_select(-2, lower), x.index_select(-2, upper), weight)

    return interpolate(keys), interpolate(values), signal


def _interpolation(t_in: int, t_out: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lower index, upper index and weight of the upper, each [T_out], from exact integer division."""
    intervals = max(t_out - 1, 1)
    numerator = torch.arange(t_out, dtype=torch.int64) * max(t_in - 1, 0)
    lower = numerator // intervals
    fraction = (numerator % intervals).double() / intervals
    upper = torch.clamp(lower + 1, max=max(t_in - 1, 0))
    return lower, upper, fraction


def _check_lengths(t_in: int, t_out: int) -> None:
    if t_in < 0 or t_out < 0:
        raise AlignError(
            "time-negative-length",
            expected="lengths of 0 or more steps",
            found=f"T_in={t_in}, T_out={t_out}",
            remedy="pass the lengths of the two timelines",
        )


# --- rules on tokens ----------------------------------------------------------------------------------------


def exact(teacher: Tokens, student: Tokens) -> TimeMap:
    """The teacher token that ends exactly where the student token ends; other rows are empty."""
    floor_map = floor(teacher, student)
    kept = floor_map.exact[floor_map.rows]
    return _time_map("exact", teacher, student, floor_map.rows[kept], floor_map.columns[kept], floor_map.weights[kept])


def floor(teacher: Tokens, student: Tokens) -> TimeMap:
    """The last teacher token that ends at or before the student token: causal, never sees ahead."""
    return _by_byte_end("floor", teacher, student)


def ceil(teacher: Tokens, student: Tokens) -> TimeMap:
    """The first teacher token that ends at or after the student token: looks ahead."""
    return _by_byte_end("ceil", teacher, student)


def linear(teacher: Tokens, student: Tokens) -> TimeMap:
    """Interpolation between the two teacher steps around u; blind to the text."""
    t_in, t_out = len(teacher), len(student)
    if t_in == 0 or t_out == 0:
        return _time_map("linear", teacher, student, *_no_entries())
    lower, upper, fraction = (part.numpy() for part in _interpolation(t_in, t_out))
    between = fraction > 0
    steps = np.arange(t_out)
    rows = np.concatenate([steps, steps[between]])
    columns = np.concatenate([lower, upper[between]])
    weights = np.concatenate([1 - fraction, fraction[between]])
    order = np.argsort(rows, kind="stable")
    return _time_map("linear", teacher, student, rows[order], columns[order], weights[order])


def nearest(teacher: Tokens, student: Tokens) -> TimeMap:
    """The rounded, clamped index of u (the seed's safe resampling); blind to the text."""
    indices = linear_indices(len(teacher), len(student)).numpy()
    rows = np.flatnonzero(indices >= 0)
    return _time_map("nearest", teacher, student, rows, indices[rows], np.ones(len(rows)))


RULES: dict[str, Callable[[Tokens, Tokens], TimeMap]] = {
    "exact": exact,
    "floor": floor,
    "ceil": ceil,
    "linear": linear,
    "nearest": nearest,
}
BYTE_RULES = frozenset({"exact", "floor", "ceil"})


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


def _no_entries() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)


def _time_map(
    rule: str,
    teacher: Tokens,
    student: Tokens,
    rows: np.ndarray,
    columns: np.ndarray,
    weights: np.ndarray,
) -> TimeMap:
    ends_t, ends_s = teacher.spans[:, 1], student.spans[:, 1]
    read_by_teacher = np.zeros(len(student))
    np.add.at(read_by_teacher, rows, weights * ends_t[columns])
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
            expected=f"a teacher timeline of {time_map.teacher_length} steps",
            found=f"a tensor of shape {tuple(x.shape)}",
            remedy="build the map from the tokens of the same document",
        )
    rows = torch.from_numpy(time_map.rows).to(x.device)
    columns = torch.from_numpy(time_map.columns).to(x.device)
    weights = torch.from_numpy(time_map.weights).to(x.device, x.dtype).unsqueeze(-1)
    out = x.new_zeros(*x.shape[:-2], time_map.student_length, x.shape[-1])
    return out.index_add_(-2, rows, x.index_select(-2, columns) * weights)
