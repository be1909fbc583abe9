"""How many numbers the sums of an analysis, or of the maps of a training run, hold at most. No torch here."""

from collections.abc import Sequence
from itertools import combinations_with_replacement

from kvlab.request.align import MOST_FEATURES
from kvlab.shapes import KINDS, Geometry, depth, nearest_layers

# What the engine (kvlab.align) holds at most, and the forecast counts.
MOST_OF_A_TOKEN = 512  # features of a token
TOKENS_BEFORE = 2  # tokens before the row's own, in the features of the student's own tokens
ROWS_IN_DOUBLE = 2**24  # numbers of the rows that are held in float64 at a time
GATHERED_BYTES = 2**30  # of matrices of the features, gathered for several problems
LARGE_BYTES = 2**26  # of a matrix of the features, above which few are held at a time


def layer_widths(geometry: Geometry, kind: str) -> list[int]:
    """The features of each layer. A latent holds the keys and the values of all heads."""
    if geometry.latent:
        return [heads * (key + value) for heads, key, value in geometry.layer_shapes]
    return [heads * (key if kind == KINDS[0] else value) for heads, key, value in geometry.layer_shapes]


def unions_of(teacher: Geometry, student: Geometry, kind: str, rule: str) -> list[tuple[int, ...]]:
    """The teacher layers that each student layer may take by a layer rule, at most."""
    widths, layers_s = layer_widths(teacher, kind), len(student.kv_layers)
    by_depth = depth(len(widths), layers_s)
    if rule != "heldout":
        return [(at,) for at in by_depth]
    if sum(widths) <= MOST_FEATURES:
        return [tuple(range(len(widths)))] * layers_s
    most = max(1, MOST_FEATURES // max(widths))
    return [tuple(sorted(nearest_layers(len(widths), at)[:most])) for at in by_depth]


def target_widths(student: Geometry, kind: str) -> list[int]:
    return [heads * (key if kind == KINDS[0] else value) for heads, key, value in student.layer_shapes]


def blocks(widths: Sequence[int], unions: Sequence[Sequence[int]]) -> int:
    """Count the numbers of X'X of layers of these ``widths``: a block for two that some student layer takes."""
    pairs = {pair for union in unions for pair in combinations_with_replacement(sorted(union), 2)}
    return sum(widths[a] * widths[b] for a, b in pairs)
