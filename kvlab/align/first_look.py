"""Score the heads on the first documents, from one teacher layer each, while the analysis goes on."""

from collections.abc import Sequence

from kvlab.align.crossfit import ridge_by_class
from kvlab.align.fold_sums import LEAST_ROWS, Pairing
from kvlab.align.layers import nearest
from kvlab.align.sample import Sample
from kvlab.results.alignment.so_far import SoFar
from kvlab.shapes import KINDS, Geometry


def first_look(
    sample: Sample, heads: Sequence[int], teacher: str, student: Geometry, documents: int, of: int
) -> SoFar | None:
    """Ridge from the layer nearest in depth, scored as the analysis itself scores; None with too few rows.

    ``heads`` of each student layer; ``documents``: of which the sample holds the rows, ``of`` all.
    """
    choices, problems = nearest(sample), [(kind, layer) for kind in KINDS for layer in range(sample.layers_s)]
    pairings = {(kind, n): sample.pairing(kind, choices[kind][n].union, [n]) for kind, n in problems}
    if not all(map(_enough, pairings.values())):
        return None
    fits = ridge_by_class(pairings, {problem: heads[problem[1]] for problem in problems})
    r2 = {kind: [fits[kind, layer].r2.tolist() for layer in range(sample.layers_s)] for kind in KINDS}
    scored = int(fits[KINDS[0], 0].n.sum())
    return SoFar(teacher, {"kv_layers": list(student.kv_layers)}, documents, of, scored, r2)


def _enough(pairing: Pairing) -> bool:
    fitted, scored = ([fold.n for fold in folds] for folds in (pairing.features.fit(), pairing.features.score()))
    without = [sum(fitted) - of_fold for of_fold, n in zip(fitted, scored) if n]
    return min(without, default=0) >= LEAST_ROWS
