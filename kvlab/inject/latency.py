"""Time a hand-over against the student's own prefill: the teacher's reading, the map, the first token; count bytes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from time import perf_counter

import torch
from transformers import DynamicCache

from kvlab.align.items import Item
from kvlab.inject.handoff import Handover
from kvlab.language import Message, phrase
from kvlab.models import cache_names
from kvlab.models.forward import empty_cache, read
from kvlab.models.loading import LoadedModel, wait
from kvlab.results.certificate.data import Cost
from kvlab.shapes import KINDS, Progress, no_progress

STAGE = "timing the hand-over"
ROUNDS = 3
PARTS = ("teacher_prefill_s", "mapping_s", "student_prefill_s", "first_token_s")


def latency(
    hand: Handover, texts: Sequence[str], lengths: Sequence[int], rounds: int = ROUNDS, progress: Progress = no_progress
) -> tuple[list[Cost], list[Message]]:
    """Time every length (student tokens) on text joined from ``texts``, the medians of so many rounds.

    Both sides are timed in every round, so that other work on the machine affects both. Lengths that a model's
    positions do not admit are left out and said; so is what the texts are too short for: they are repeated.
    """
    costs, notes = [], []
    for number, length in enumerate(sorted(lengths)):
        progress(STAGE, number, len(lengths))
        item = hand.item(_cut(hand.student, texts, length))
        most = _fewest_positions(hand, item)
        if most is not None:
            words = phrase("{n:,} tokens were not timed: {name} has {most:,} positions.")
            notes.append(Message(words, n=length, name=most.name, most=most.geometry.max_positions))
            break
        costs.append(_cost(hand, item, rounds))
    return costs, notes


def _cut(student: LoadedModel, texts: Sequence[str], length: int) -> str:
    """Join texts, again from the first one where they end, and cut behind a token of the student."""
    joined = "\n".join(texts)

    def encoded(text: str):
        return student.tokenizer(text, return_offsets_mapping=True, verbose=False)

    own = max(1, len(encoded(joined)["input_ids"]))
    whole = "\n".join([joined] * (length // own + 2))
    offsets = encoded(whole)["offset_mapping"]
    return whole[: offsets[min(length, len(offsets)) - 1][1]]


def _fewest_positions(hand: Handover, item: Item) -> LoadedModel | None:
    """Return a model that has no positions for the whole text."""
    read = zip((*hand.teachers, hand.student), (*item.teachers, item.student))
    return next((m for m, tokens in read if len(tokens) > (m.geometry.max_positions or len(tokens))), None)


class _Round:
    """The seconds of one round of both sides."""

    def __init__(self, hand: Handover, item: Item):
        self.hand, self.item, self.student = hand, item, hand.student
        self.ids = torch.from_numpy(item.student.ids)[None].to(self.student.device)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        wait(self.student.device)
        begun = perf_counter()
        yield
        wait(self.student.device)
        self.seconds[part] = perf_counter() - begun

    def hand_over(self) -> DynamicCache:
        pairs = list(zip(self.hand.teachers, self.item.teachers, strict=True))
        with self.clock("teacher_prefill_s"):
            ids = [torch.from_numpy(tokens.ids)[None].to(loaded.device) for loaded, tokens in pairs]
            caches = [read(loaded, of_teacher, None) for (loaded, _), of_teacher in zip(pairs, ids)]
        with self.clock("mapping_s"):
            return self.hand.filled(empty_cache(self.student), self.item, 0, self.hand.reading(caches))

    def prefill(self) -> None:
        with self.clock("student_prefill_s"):
            read(self.student, self.ids[:, :-1], None)

    def first_token(self, cache: DynamicCache) -> None:
        with self.clock("first_token_s"), self.student.lock:
            passed = cache_names.passing(self.student.model, cache)
            self.student.model(input_ids=self.ids[:, -1:], **passed)


@torch.inference_mode()
def _cost(hand: Handover, item: Item, rounds: int) -> Cost:
    measured = []
    for number in range(rounds + 1):
        this = _Round(hand, item)
        if number % 2:
            this.prefill()
        handed = this.hand_over()
        if not number % 2:
            this.prefill()
        this.first_token(handed)
        measured.append(this.seconds)
    seconds = {part: median(of_round[part] for of_round in measured[1:]) for part in PARTS}  # the first one warms up
    return Cost(
        length=len(item.student),
        teacher_tokens=sum(map(len, item.teachers)),
        own_tokens=int((~handed.replaced).sum()),
        bytes_moved=moved_bytes(hand, item),
        bytes_cached=_bytes(hand.student, handed),
        rounds=rounds,
        **seconds,
    )


def _bytes(loaded: LoadedModel, cache: DynamicCache) -> int:
    layers = [cache.layers[layer] for layer in loaded.geometry.kv_layers]
    return sum(x.nbytes for layer in layers for x in (layer.keys, layer.values))


def moved_bytes(hand: Handover, item: Item) -> int:
    """Count the bytes of the teachers' caches that the map reads: of each kind the layers that any student layer uses.

    A latent cache is read whole by both kinds.
    """
    total = 0
    for loaded, tokens, layers in zip(hand.teachers, item.teachers, hand.fit.layers):
        shapes, latent = loaded.geometry.layer_shapes, loaded.geometry.latent
        used = {(None if latent else kind, layer) for (kind, _), chosen in layers.items() for layer in chosen}
        for kind, layer in used:
            heads, *widths = shapes[layer]
            width = sum(widths) if kind is None else widths[KINDS.index(kind)]
            total += heads * width * len(tokens) * loaded.dtype.itemsize
    return total
