"""Compare the time to the first token behind a cache that is handed over with that after the student's own prefill.

The teacher's cache is there already, as in a router. The cost of a map does not depend on its numbers: they are random,
and every student layer reads as many teacher layers as that of a trained pair.
"""

from itertools import product
from math import sqrt

import torch

from kvlab.align.class_maps import ClassMaps
from kvlab.bench.pair import TINY, documents, random_pair, true_shapes
from kvlab.bench.row import FASTER, Row, judged
from kvlab.inject.fit import LAYERS, Fit, Source
from kvlab.inject.handoff import Handover, map_file
from kvlab.inject.latency import latency
from kvlab.inject.map_file import MapFile
from kvlab.models.loading import LoadedModel
from kvlab.request.align import MOST_FEATURES, AlignSettings
from kvlab.shapes import KINDS, depth, nearest_layers

NAME, AGAINST = "first token behind a cache handed over", "the student's own prefill"
LENGTHS = {"cuda": (128, 512, 2048, 8192), "cpu": (128, 512, 2048)}
ROUNDS, POSITIONS = 3, {"max_position_embeddings": 16_384}


def against_prefill(device: torch.device, quick: bool, layers_per_student: int | None = None) -> Row:
    shapes = TINY if quick else true_shapes(device)
    teacher, student = random_pair(device, tuple({**shape, **POSITIONS} for shape in shapes))
    found = random_map(teacher, student, layers_per_student)
    hand = Handover(found, [teacher], student)
    lengths, rounds = ((64,), 1) if quick else (LENGTHS[device.type], ROUNDS)
    costs, _ = latency(hand, [document.text for document in documents(40, 400)], lengths, rounds)
    longest = costs[-1]
    return judged(
        f"{NAME}, {longest.length:,} tokens",
        AGAINST,
        [longest.cold_s / longest.handed_s],
        FASTER,
        None,
        costs=[cost.model_dump() for cost in costs],
        medians_of=rounds,
        teacher_layers=len(next(iter(hand.fit.layers[0].values()))),
    )


def random_map(teacher: LoadedModel, student: LoadedModel, layers_per_student: int | None = None) -> MapFile:
    """Make a map of random numbers that reads the nearest teacher layers, as many as may stand side by side."""
    made = torch.Generator().manual_seed(0)
    layers, maps, shares, means = {}, {}, {}, {}
    of_teacher, of_student = teacher.geometry.layer_shapes, student.geometry.layer_shapes
    for kind, (position, at) in product(KINDS, enumerate(depth(len(of_teacher), len(of_student)))):
        widths = [shape[0] * shape[1 + KINDS.index(kind)] for shape in of_teacher]
        most = layers_per_student or max(1, MOST_FEATURES // widths[0])
        chosen = tuple(nearest_layers(len(of_teacher), at)[:most])
        wide = sum(widths[layer] for layer in chosen)
        heads, *channels = of_student[position]
        narrow = heads * channels[KINDS.index(kind)]
        problem = kind, position
        weight = torch.randn(wide, narrow, generator=made) / sqrt(wide)
        layers[problem], shares[problem], means[problem] = chosen, torch.ones(1, narrow), torch.zeros(narrow)
        maps[problem] = [ClassMaps([None], [weight], [torch.zeros(narrow)], [torch.zeros(narrow)])]
    fit = Fit([layers], {"projected": Source(LAYERS, maps, shares, means)}, 0)
    return map_file(fit, [teacher], student, AlignSettings())
