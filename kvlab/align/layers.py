"""Which teacher layer explains which student layer (positions among the layers that keep a cache)."""

from __future__ import annotations

from kvlab.types import LayerMap


def depth(teacher_layers: int, student_layers: int) -> LayerMap:
    """Proportional depth: first to first, last to last, ties to the deeper teacher layer."""
    if student_layers == 1:
        return LayerMap("depth", ((teacher_layers - 1,),))
    span = student_layers - 1
    chosen = tuple(((2 * layer * (teacher_layers - 1) + span) // (2 * span),) for layer in range(student_layers))
    return LayerMap("depth", chosen)


RULES = {"depth": depth}
