"""Define the shapes that all rooms share.

Axes, used literally in every signature:
    B batch   L layers   H KV heads   T tokens   D head width
    suffix t = teacher, s = student; so K_t is [Lt, Ht, Tt, Dt] and a projected key [Ls, Hs, Ts, Ds].
Spans are half-open UTF-8 byte ranges [start, end) of the document's text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from kvlab.language import Message, phrase, plural, say

if TYPE_CHECKING:
    import torch

KINDS = ("key", "value")

# stage name, units done, units in all; raises errors.Cancelled to stop the work
Progress = Callable[[str, int, int], None]


# The phases of a run, as its status names them.
PHASES = {
    phrase("waiting"),
    phrase("starting"),
    phrase("loading"),
    phrase("reading caches"),
    phrase("comparing layers"),
    phrase("comparing time rules"),
    phrase("measuring controls"),
    phrase("reading with random weights"),
    phrase("fitting on random weights"),
    phrase("fusing teachers"),
    phrase("fusing with random weights"),
    phrase("fitting and scoring heads"),
    phrase("reading documents token by token"),
    phrase("writing results"),
    phrase("continuing from replaced caches"),
    phrase("replacing single heads"),
    phrase("greedy continuations"),
    phrase("fitting the map"),
    phrase("refining the map"),
    phrase("evaluating before"),
    phrase("training"),
    phrase("evaluating after"),
    phrase("saving"),
    phrase("reporting"),
    phrase("reading the checkpoint"),
    phrase("writing the model"),
    phrase("handing over longer texts"),
    phrase("timing the hand-over"),
    phrase("scoring tasks"),
}
LOADING = "loading "  # the name of a model follows
REFINING = "refining the map, at most "  # the forecast of its cost follows


def phase_message(phase: str) -> Message:
    """Return the phase of a status as a message; pass an unknown phase on unchanged."""
    if phase.startswith(LOADING):
        return Message("loading {name}", name=phase.removeprefix(LOADING))
    if phase.startswith(REFINING):
        return Message("refining the map, at most {cost}", cost=phase.removeprefix(REFINING))
    return Message(phase) if phase in PHASES else Message.read(phase)


def phase_words(phase: str) -> str:
    """Return the phase of a status in the current language."""
    return str(phase_message(phase))


def no_progress(stage: str, done: int, total: int) -> None:
    """A progress callback that does nothing."""


@dataclass(frozen=True)
class Positions:
    """How a model encodes positions."""

    kind: str  # "rope" | "learned" | "sinusoidal" | "alibi" | "none"
    theta: float | None = None
    scaling: str | None = None  # "yarn", "linear", ... or None
    rotary_width: int | None = None  # rotated share of a head, None when whole or not rope


@dataclass(frozen=True)
class Quantised:
    """Weights in fewer bits: ``bytes`` that stay as they are, and ``numbers`` of the usual type beside them."""

    method: str  # "bitsandbytes nf4", "gptq, 4 bits"
    bytes: int
    numbers: int


@dataclass(frozen=True)
class Geometry:
    """A model's KV cache, from its configuration alone.

    Invariant: ``layer_shapes`` has one entry per cached layer, and the first is (kv_heads, key_width, value_width).
    Without ``layer_shapes``, every layer is like the first.
    """

    name: str
    architecture: str  # transformers' model_type
    layers: int
    kv_layers: tuple[int, ...]  # the layers that keep a KV cache, numbered as in the model
    kv_heads: int  # of the first cached layer, as the two widths
    query_heads: int
    key_width: int
    value_width: int
    hidden: int
    vocabulary: int
    positions: Positions
    max_positions: int | None
    parameters: int
    layer_shapes: tuple[tuple[int, int, int], ...] = ()  # (KV heads, key width, value width) of each cached layer
    latent: bool = False  # multi-head latent attention: "keys" are a latent and "values" its rotary key part
    linear: int = 0  # parameters in the linear layers, without the output embedding
    quantised: Quantised | None = None

    def __post_init__(self) -> None:
        first = (self.kv_heads, self.key_width, self.value_width)
        if not self.layer_shapes:
            object.__setattr__(self, "layer_shapes", (first,) * len(self.kv_layers))
        if len(self.layer_shapes) != len(self.kv_layers) or self.layer_shapes[0] != first:
            raise ValueError(f"{len(self.kv_layers)} cached layers like {first}, but layer_shapes {self.layer_shapes}")

    @property
    def kv_values_per_token(self) -> int:
        """Count the numbers cached for one token over all layers; times bytes per number = KV bytes per token."""
        return sum(heads * (key_width + value_width) for heads, key_width, value_width in self.layer_shapes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Geometry:
        layers, positions = tuple(fields["kv_layers"]), Positions(**fields["positions"])
        shapes = tuple(tuple(shape) for shape in fields.get("layer_shapes", ()))
        quantised = Quantised(**fields["quantised"]) if fields.get("quantised") else None
        inner = {"layer_shapes": shapes, "positions": positions, "quantised": quantised}
        return cls(**fields | {"kv_layers": layers} | inner)


@dataclass(frozen=True)
class LayerTest:
    """The result for one layer's keys of reading the same tokens at two positions."""

    layer: int  # numbered as in the model
    positions: str  # "rope" | "none" (RoPE-free, ALiBi) | "absolute": keys and values both depend on the position
    rotary_width: int | None  # channels of a key that are rotated
    layout: str | None  # which channels turn together: "half" | "interleaved" | "mixed"
    scale: float  # attention factor on cos and sin (YaRN, LongRoPE), 1.0 without
    error: float  # largest relative difference of un-rotated keys between the two positions


@dataclass(frozen=True)
class SelfTest:
    """The proof that the rotation of a model's keys is undone, layer by layer."""

    model: str
    latent: bool
    layers: tuple[LayerTest, ...]

    def sentence(self) -> str:
        """Return one line for a user, in the current language."""
        rotated = [test for test in self.layers if test.positions == "rope"]
        absolute = sum(test.positions == "absolute" for test in self.layers)
        without = len(self.layers) - len(rotated) - absolute
        parts = []
        if rotated:
            layouts = sorted({(test.layout, str(test.rotary_width)) for test in rotated})
            how = [say("{layout} layout, {n} channels", layout=layout, n=width) for layout, width in layouts]
            scales = sorted({test.scale for test in rotated if test.scale != 1.0})
            undone = say(
                "RoPE undone in {n} of {total} layers ({how}), largest difference between two positions {error:.0e}",
                n=len(rotated),
                total=len(self.layers),
                how=say(" and ").join(how) + "".join(say(", scaled by {scale:.4g}", scale=s) for s in scales),
                error=max(test.error for test in rotated),
            )
            parts.append(undone)
        if without:
            parts.append(plural(without, "{n} layer without RoPE", "{n} layers without RoPE"))
        if absolute:
            part = plural(
                absolute,
                "positions are part of keys and values in {n} layer",
                "positions are part of keys and values in {n} layers",
            )
            parts.append(part)
        if self.latent:
            parts.append(say("latent attention: the cache holds a latent and a rotary key part"))
        return say("; ").join(parts)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> SelfTest:
        return cls(fields["model"], fields["latent"], tuple(LayerTest(**test) for test in fields["layers"]))


@dataclass(frozen=True)
class Segment:
    """A named part of a document: "prompt", "reasoning", "answer", or the role of a turn of a chat."""

    name: str
    start: int  # byte
    end: int  # byte, exclusive


@dataclass(frozen=True)
class Document:
    """One prompt with the text after it; the unit that is held out."""

    id: str
    text: str
    segments: tuple[Segment, ...] = ()
    # Labels, not a part of what is read; hence neither in ``==`` nor in ``repr``, which digests are made of.
    language: str = field(default="", repr=False, compare=False)
    domain: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True)
class Tokens:
    """The tokens of a document for one model. Invariant: spans are non-decreasing and tile the text."""

    ids: np.ndarray  # [T] int64
    spans: np.ndarray  # [T, 2] int64, UTF-8 bytes; an added token (BOS) has an empty span
    special: np.ndarray  # [T] bool: added by the tokenizer, not read from the text
    lossless: bool  # the bytes of the tokens, put together, are the text

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, count: int) -> Tokens:
        """Return the first ``count`` tokens; their spans tile a prefix of the text."""
        return Tokens(self.ids[:count], self.spans[:count], self.special[:count], self.lossless)


def segment_of(tokens: Tokens, segments: Sequence[Segment]) -> np.ndarray:
    """Return [T] int64: the place in ``segments`` of a token's last byte; -1 outside, and for a special token.

    A token of the text without bytes (a dummy prefix) stands where the bytes before it end, or at the start.
    Without segments the whole text is segment 0.
    """
    last_byte = np.maximum(tokens.spans[:, 1] - 1, 0)
    inside = ~tokens.special
    if not segments:
        return np.where(inside, 0, -1)
    place = np.searchsorted([part.start for part in segments], last_byte, side="right") - 1
    inside &= (place >= 0) & (last_byte < np.array([part.end for part in segments])[place])
    return np.where(inside, place, -1)


@dataclass(frozen=True)
class KV:
    """One document's cache. ``keys[l]`` is [H, T, Dk] and ``values[l]`` [H, T, Dv] of cached layer l."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    tokens: Tokens
    pre_rope: bool  # True: the rotation of the keys is undone


@dataclass(frozen=True)
class TimeMap:
    """The teacher steps that stand for each student step: a sparse matrix [Ts, Tt] as (row, column, weight).

    Invariant: the weights of a row sum to 1, or the row is empty (no teacher signal).
    """

    rule: str
    student_length: int
    teacher_length: int
    rows: np.ndarray  # [N] int64, ascending
    columns: np.ndarray  # [N] int64
    weights: np.ndarray  # [N] float64
    exact: np.ndarray  # [Ts] bool: both models have read exactly the same bytes
    lag: np.ndarray  # [Ts] int64, bytes the teacher is behind (> 0) or ahead (< 0); 0 in empty rows

    @property
    def covered(self) -> np.ndarray:
        """Return [Ts] bool: student steps that have a teacher signal."""
        covered = np.zeros(self.student_length, dtype=bool)
        covered[self.rows] = True
        return covered


@dataclass(frozen=True)
class HeadSteps:
    """The teacher steps that each KV head keeps of one document (rule ``rkv``): one tensor per cached teacher layer.

    Invariant: a head's steps are distinct and ascending; -1, at the end, where it has no more steps to keep.
    """

    steps: list[torch.Tensor]  # [H, Ts] int64
    importance: list[torch.Tensor]  # [H, Tt], NaN at special tokens, which are never kept
    redundancy: list[torch.Tensor]  # likewise
    score: list[torch.Tensor]  # likewise; the highest are kept


@dataclass(frozen=True)
class HeadMap:
    """Affine maps [Ht * Dt] -> [Hs * Ds] of every student layer and class of rows, for keys or for values."""

    projector: str
    kind: str  # "key" | "value"
    layers: list[Any]  # kvlab.align.class_maps.ClassMaps of each student layer


def depth(teacher_layers: int, student_layers: int) -> list[int]:
    """Return layers at proportional depth: first to first, last to last, ties to the deeper teacher layer."""
    if student_layers == 1:
        return [teacher_layers - 1]
    span = student_layers - 1
    return [(2 * layer * (teacher_layers - 1) + span) // (2 * span) for layer in range(student_layers)]


def nearest_layers(layers: int, at: int) -> list[int]:
    """Return all layers, the nearest to one first; of two as near, the deeper one."""
    return sorted(range(layers), key=lambda layer: (abs(layer - at), -layer))
