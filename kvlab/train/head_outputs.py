"""Compare what the student's heads read from its own cache and from the projected one: the KV loss on head outputs.

The queries are the student's own and carry no gradient: they ask, and keys and values learn to answer alike. Were they
trained too, a student could make both answers equal by looking at tokens that have no target.
"""

from collections.abc import Callable, Sequence

import torch

from kvlab.align.items import Item
from kvlab.models.loading import LoadedModel
from kvlab.models.rotation import rotate
from kvlab.train.student import ReadStudent, read_student
from kvlab.train.targets import Teachers


def outputs(
    student: ReadStudent, layer: int, keys: torch.Tensor, values: torch.Tensor, place: torch.Tensor
) -> torch.Tensor:
    """Return the outputs [N, Hq * Dv] of the queries of the rows ``place`` [N] of B * T over a layer's cache.

    ``keys`` [B, H, T, Dk] before RoPE, ``values`` [B, H, T, Dv], float32.
    """
    turned = [x if turn is None else rotate(x, turn) for x, turn in zip((keys, values), student.rotations[layer])]
    return student.attention[layer](*turned).flatten(2).flatten(0, 1).index_select(0, place)


def replaced(own: torch.Tensor, target: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Return keys or values [B, H, T, D] with the rows ``place`` [N] replaced by ``target`` [N, H * D]; the others are
    constants.
    """
    heads, width = own.shape[1], own.shape[3]
    rows = own.detach().transpose(1, 2).flatten(2)  # [B, T, H * D]
    filled = rows.flatten(0, 1).index_copy(0, place, target)
    return filled.view(rows.shape).unflatten(2, (heads, width)).transpose(1, 2)


@torch.no_grad()
def deviations(
    loaded: LoadedModel,
    teachers: Teachers,
    items: Sequence[Item],
    batch_size: int,
    progress: Callable[[int, int], None],
) -> list[float]:
    """Measure the unit of the loss in each cached layer: the standard deviation of the heads' own outputs.

    Over the rows of the loss, mean over channels, as the student is now.
    """
    n, sums, squares = 0, {}, {}
    for first in range(0, len(items), batch_size):
        progress(first, len(items))
        batch = teachers.batch(items[first : first + batch_size], loaded.device, with_features=False)
        student = read_student(loaded, batch.ids, batch.mask, attending=True)
        place = batch.places
        for layer, (keys, values) in enumerate(zip(student.keys, student.values, strict=True)):
            own = outputs(student, layer, keys, values, place).double()
            sums[layer] = sums.get(layer, 0.0) + own.sum(0)
            squares[layer] = squares.get(layer, 0.0) + own.square().sum(0)
        n += len(place)
    least = torch.finfo(torch.float32).tiny
    return [max(float((squares[at] / n - (sums[at] / n).square()).mean().sqrt()), least) for at in sums]
