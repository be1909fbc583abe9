"""The memory of an analysis at the shapes of Qwen2-7B and TinyLlama, counted, and the forecast against a measured peak.

The sums are built on torch's meta device, whose tensors have shapes and no numbers, so no large machine is needed.
"""

import torch

from kvlab.align.align_sums import AlignSums, side_by_side
from kvlab.align.fold_sums import FIT_AND_SCORE
from kvlab.align.layers import Choice
from kvlab.bench.memory import in_own_process
from kvlab.bench.pair import QWEN2_7B, TINY_LLAMA, configured
from kvlab.bench.row import MEMORY, Row, judged
from kvlab.bench.stream import BATCH, WIDTH_T, Drawn
from kvlab.models.geometry import geometry_of
from kvlab.shapes import KINDS, depth, nearest_layers

GIB = 2**30
FOLDS, CLASSES = 5, 2
ON_DEVICE, ON_HOST = 4 * GIB, 12 * GIB  # bars, for eight teacher layers a student layer
LEAST = 0.8  # of the measured peak that a forecast may say


def sums(device: torch.device, quick: bool, layers_per_student: int = 8) -> Row:
    """One fold's sums on the device, and those of all folds on the host, as they are put away."""
    teacher, student = (geometry_of(configured(shape), "") for shape in (QWEN2_7B, TINY_LLAMA))
    layers_t, layers_s = len(teacher.kv_layers), len(student.kv_layers)
    unions = [tuple(sorted(nearest_layers(layers_t, at)[:layers_per_student])) for at in depth(layers_t, layers_s)]
    choices = [Choice.of(union, [union] * FOLDS, lambda layer: WIDTH_T) for union in unions]
    held = AlignSums(dict.fromkeys(KINDS, choices), FOLDS, side_by_side(student, weighted=False))
    meta = torch.device("meta")
    rows = Drawn.empty(meta)
    for row_class in range(CLASSES):
        held.add(0, FIT_AND_SCORE.of(row_class), rows, 0)
    on_device = on_host = 0
    for fold_sums in held.all().values():
        for part in fold_sums.parts.values():
            for name in part.names():
                value = getattr(part, name)
                if torch.is_tensor(value):
                    on_device += value.nbytes
                    on_host += FOLDS * value.numel() * part.type_on(torch.device("cpu"), name).itemsize
    return judged(
        "sums of one fold on the device, true shapes",
        "4 GiB",
        [on_device / ON_DEVICE],
        MEMORY,
        1.0,
        equal=on_host <= ON_HOST,
        teacher_layers_a_student_layer=layers_per_student,
        device_gib=on_device / GIB,
        host_gib=on_host / GIB,
        host_bar_gib=ON_HOST / GIB,
        rows_a_batch=BATCH,
    )


def forecast(device: torch.device, quick: bool) -> Row:
    """The forecast of an analysis against the most memory that a process of its own took for it."""
    cases = (100,) if quick else (100, 400)
    measured = [in_own_process(count, device) for count in cases]
    ratios = [case["forecast"] / (case["peak"] - case["before"]) for case in measured]
    return judged(
        "forecast of an analysis' memory",
        "its measured peak",
        ratios,
        MEMORY,
        1.2,
        equal=min(ratios) >= LEAST,
        least=LEAST,
        measured=measured,
    )
