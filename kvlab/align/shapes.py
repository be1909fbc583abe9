"""Return KV heads and head width of each cached layer, of the targets and of the features of a map."""

from collections.abc import Sequence

import numpy as np

from kvlab.errors import AlignError
from kvlab.language import Message
from kvlab.shapes import KINDS, Geometry


def target_shape(geometry: Geometry, kind: str, layer: int) -> tuple[int, int]:
    """Return heads and width of a cached layer (by position) of the student."""
    heads, key_width, value_width = geometry.layer_shapes[layer]
    return heads, key_width if kind == KINDS[0] else value_width


def feature_shape(geometry: Geometry, kind: str, layer: int) -> tuple[int, int]:
    """Return heads and width of a teacher layer; a latent cache is one head, latent and rotary parts side by side."""
    heads, key_width, value_width = geometry.layer_shapes[layer]
    if geometry.latent:
        return 1, heads * (key_width + value_width)
    return target_shape(geometry, kind, layer)


def check_one_width(geometry: Geometry, kind: str, layers: tuple[int, ...]) -> None:
    """Raise AlignError ``widths-differ`` for teacher layers that no single width projection fits."""
    widths = {feature_shape(geometry, kind, layer)[1] for layer in layers}
    if len(widths) > 1:
        raise AlignError(
            "widths-differ",
            expected=Message(
                "teacher layers {layers} of one head width, which this projector projects as one", layers=layers
            ),
            found=Message("widths {widths} in {name}", widths=sorted(widths), name=geometry.name),
            remedy=Message("choose the ridge projector, or --layers depth"),
        )


def padded(layers: Sequence[np.ndarray]) -> np.ndarray:
    """Stack [Ls][Hs, N] -> [Ls, most heads, most N], padded with NaN."""
    whole = np.full((len(layers), *np.max([a.shape for a in layers], axis=0)), np.nan)
    for layer, values in enumerate(layers):
        whole[layer, : values.shape[0], : values.shape[1]] = values
    return whole
