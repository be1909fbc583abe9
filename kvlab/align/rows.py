"""Choose the student tokens to fit and score a map on, and find the teacher steps that stand for them in a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kvlab.align.fold_sums import FIT_AND_SCORE, FIT_ONLY, FITTED, SCORE_ONLY, SCORED, SINK, SPECIAL, Part
from kvlab.align.shared_text import repeated_steps
from kvlab.request.align import AlignSettings
from kvlab.request.time_rules import RULES
from kvlab.shapes import TimeMap, Tokens

EXACT, LAST_CLASS = 0, 1
NO_STEPS = np.zeros(0, dtype=np.int64)


def classes_of(time_map: TimeMap, rule: str) -> np.ndarray:
    """[Ts] the class of each row: how many student tokens ago both models had read the same bytes, ``LAST_CLASS`` and
    more in one.

    ``EXACT`` rows end where a teacher token ends; the others end inside one, where the student has read more (or, of a
    rule that looks ahead, less) than the teacher. A rule that is blind to the text knows no such rows: all are of
    class 0.
    """
    if not RULES[rule].reads_bytes:
        return np.zeros(time_map.student_length, dtype=np.int64)
    steps = np.arange(time_map.student_length)
    last_exact = np.maximum.accumulate(np.where(time_map.exact, steps, -1))
    return np.minimum(steps - last_exact, LAST_CLASS)


def row_parts(
    teacher: Tokens, student: Tokens, time_map: TimeMap, scored: bool, settings: AlignSettings, repeated: int = 0
) -> dict[Part, np.ndarray]:
    """Student steps by use and class. Special tokens and attention sinks, of either model, are scored apart.

    Steps within the first ``repeated`` bytes, with which another document begins too, are neither fitted nor scored.
    """
    of_sinks = time_map.covered & ~student.special & first_content(student, settings.sinks)
    of_sinks[time_map.rows[first_content(teacher, settings.sinks)[time_map.columns]]] = True
    of_special = student.special.copy()
    of_special[time_map.rows[teacher.special[time_map.columns]]] = True
    usable = time_map.covered & ~of_sinks & ~of_special & ~repeated_steps(student, repeated)
    classes = classes_of(time_map, settings.time)
    parts: dict[Part, np.ndarray] = {}
    for row_class in range(LAST_CLASS + 1):
        of_class = np.flatnonzero(usable & (classes == row_class))
        if row_class == EXACT or settings.rows == "by-class":
            parts[(FIT_AND_SCORE if scored else FIT_ONLY).of(row_class)] = of_class
        elif scored:
            parts[SCORE_ONLY.of(row_class)] = of_class
    if scored:
        of_sinks &= ~of_special
        for row_class in range(LAST_CLASS + 1):
            parts[SINK.of(row_class)] = np.flatnonzero(of_sinks & (classes == row_class))
        parts[SPECIAL] = np.flatnonzero(_both_begin_with_special(teacher, student))
    return parts


def rows_of(parts: Mapping[Part, np.ndarray], uses: Sequence[str] = SCORED) -> tuple[np.ndarray, np.ndarray]:
    """The steps of these uses [N], ascending, and the class of each [N] (or of each teacher [N, A])."""
    chosen = [(part, steps) for part, steps in parts.items() if part.use in uses and len(steps)]
    if not chosen:
        return NO_STEPS, NO_STEPS
    steps = np.concatenate([steps for _, steps in chosen])
    classes = np.concatenate(
        [np.broadcast_to(part.row_class, (len(of), *np.shape(part.row_class))) for part, of in chosen]
    )
    order = np.argsort(steps, kind="stable")
    return steps[order], classes[order]


def common_parts(of_teachers: Sequence[Mapping[Part, np.ndarray]]) -> dict[Part, np.ndarray]:
    """Steps that every teacher covers, by use and by the class that each teacher's row has; fitted where all are."""
    fitted, scored = [
        [dict(zip(*map(np.ndarray.tolist, rows_of(parts, uses)))) for parts in of_teachers] for uses in (FITTED, SCORED)
    ]
    uses = ((FIT_ONLY, fitted),)
    if not any(part.use == FIT_ONLY.use for part in of_teachers[0]):
        uses = ((FIT_AND_SCORE, fitted), (SCORE_ONLY, scored))
    steps_of: dict[Part, list[int]] = {}
    done: set[int] = set()
    for use, classes in uses:
        for step in sorted(set.intersection(*map(set, classes)) - done):
            steps_of.setdefault(use.of(tuple(of_teacher[step] for of_teacher in classes)), []).append(step)
            done.add(step)
    return {part: np.array(steps, dtype=np.int64) for part, steps in steps_of.items()}


def with_special_start(
    teacher: Tokens, student: Tokens, time_map: TimeMap
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the map's entries (rows, columns, weights), and add first special token on first special token."""
    if not _both_begin_with_special(teacher, student).any() or time_map.covered[0]:
        return time_map.rows, time_map.columns, time_map.weights
    return np.append(time_map.rows, 0), np.append(time_map.columns, 0), np.append(time_map.weights, 1.0)


def rank_map(teacher: Tokens, student: Tokens, sinks: int) -> TimeMap:
    """Map the student's k-th step after its sinks <- the k-th kept teacher step, whichever each head keeps (R-KV).

    The columns are only ranks: the kept steps are known once a cache has been read.
    """
    rows = np.flatnonzero(~student.special & ~first_content(student, sinks))
    columns = selectable(teacher, sinks)
    count = min(len(rows), len(columns))
    nothing = np.zeros(len(student), dtype=np.int64)
    return TimeMap(
        rule="rkv",
        student_length=len(student),
        teacher_length=len(teacher),
        rows=rows[:count],
        columns=columns[:count],
        weights=np.ones(count),
        exact=nothing.astype(bool),
        lag=nothing,
    )


def selectable(teacher: Tokens, sinks: int) -> np.ndarray:
    """Return the teacher steps that a head may keep: content tokens after the sinks."""
    return np.flatnonzero(~teacher.special & ~first_content(teacher, sinks))


def first_content(tokens: Tokens, count: int) -> np.ndarray:
    """Return [T] bool: the first ``count`` content tokens, on which attention rests."""
    first = np.zeros(len(tokens), dtype=bool)
    first[np.flatnonzero(~tokens.special)[:count]] = True
    return first


def _both_begin_with_special(teacher: Tokens, student: Tokens) -> np.ndarray:
    """Return [Ts] bool: the first student step, if both models begin with a special token."""
    steps = np.zeros(len(student), dtype=bool)
    if len(teacher) and len(student):
        steps[0] = teacher.special[0] and student.special[0]
    return steps


@dataclass(frozen=True)
class Picked:
    """Student steps (document b, step s) of a batch, and the weighted teacher steps (b, t) that stand for them."""

    student: tuple[torch.Tensor, torch.Tensor]  # b [N], s [N]
    teacher: tuple[torch.Tensor, torch.Tensor]  # b [M], t [M]
    row: torch.Tensor  # [M] in 0..N
    weight: torch.Tensor  # [M]
    one_to_one: bool

    def __len__(self) -> int:
        return len(self.student[0])

    def targets(self, x: torch.Tensor) -> torch.Tensor:
        """[B, H, Ts, D] -> [N, H * D], head-major."""
        return _steps(x, self.student)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """[B, H, Tt, D] -> [N, H * D] on the student's steps."""
        entries = _steps(x, self.teacher)
        if self.one_to_one:
            return entries
        out = entries.new_zeros(len(self), entries.shape[1])
        return out.index_add_(0, self.row, entries * self.weight.to(entries.dtype)[:, None])

    def features_by_head(self, x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """[B, H, Tt, D] with a teacher step per head, ``steps`` [B, H, Ts] (-1: none) -> [N, H * D]."""
        b, s = self.student
        chosen = steps[b, :, s]  # [N, H]
        heads = torch.arange(x.shape[1], device=x.device)
        taken = x[b[:, None], heads, chosen.clamp(min=0)] * (chosen >= 0).unsqueeze(-1).to(x.dtype)
        return taken.flatten(1)


def _steps(x: torch.Tensor, at: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return x.transpose(1, 2)[at].flatten(1)


def pick(maps: Sequence[tuple[Tokens, Tokens, TimeMap]], chosen: Sequence[np.ndarray], device: torch.device) -> Picked:
    """Pick the chosen student steps of each document (teacher tokens, student tokens, map) of a batch, in order."""
    student_b, student_s, teacher_b, teacher_t, row, weight = [], [], [], [], [], []
    offset = 0
    for b, ((teacher, student, time_map), steps) in enumerate(zip(maps, chosen, strict=True)):
        rows, columns, weights = with_special_start(teacher, student, time_map)
        number = np.full(len(student), -1)
        number[steps] = np.arange(len(steps)) + offset
        used = number[rows] >= 0
        student_b.append(np.full(len(steps), b))
        student_s.append(steps)
        teacher_b.append(np.full(int(used.sum()), b))
        teacher_t.append(columns[used])
        row.append(number[rows[used]])
        weight.append(weights[used])
        offset += len(steps)
    rows = np.concatenate(row)
    order = np.argsort(rows, kind="stable")
    entries = [np.concatenate(part)[order] for part in (teacher_b, teacher_t, row, weight)]
    one_to_one = np.array_equal(entries[2], np.arange(offset)) and bool((entries[3] == 1).all())

    def on_device(part: np.ndarray) -> torch.Tensor:
        # Do not wait for the work queued on the device.
        return torch.from_numpy(part).to(device, non_blocking=True)

    teacher_b, teacher_t, row, weight = map(on_device, entries)
    student = on_device(np.concatenate(student_b)), on_device(np.concatenate(student_s))
    return Picked(student, (teacher_b, teacher_t), row, weight, one_to_one)
