"""Hand a text over that is still being written: each part is read by the teacher once, behind what it has read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from kvlab.align.items import Item
from kvlab.inject.handoff import Handover
from kvlab.inject.map_file import MapFile
from kvlab.inject.own import PLAIN
from kvlab.models.capture import CapturedBatch, captured
from kvlab.models.forward import empty_cache, read_on
from kvlab.models.loading import LoadedModel
from kvlab.shapes import Tokens


class Stream:
    """A text that grows, and the student's cache of it. ``options``: those of ``Handover``."""

    def __init__(
        self, found: MapFile, teacher: LoadedModel | Sequence[LoadedModel], student: LoadedModel, **options: Any
    ):
        self.hand = Handover(found, teacher, student, **options)
        self.text = ""
        self.cache = empty_cache(student)
        self._caches = [empty_cache(loaded) for loaded in self.hand.teachers]
        self._before: Item | None = None

    def extend(self, text: str) -> DynamicCache:
        """Add a text behind what is there, and return the student's cache, as ``handoff`` does of the whole.

        The same cache is returned every time: the tokens that the new text leaves as they were stay in it. Where the
        student has generated behind it, what it wrote is taken out again.
        Raises as ``handoff``; what was handed over before then remains.
        """
        item = self.hand.item(self.text + text)
        keep = min(self._kept(item), self.cache.get_seq_length())  # less where an earlier part failed
        _shorten(self.cache, keep)
        self.hand.filled(self.cache, item, keep, self._read)
        self.text, self._before = self.text + text, item
        self.cache.certificate_id = None
        return self.cache

    def _kept(self, item: Item) -> int:
        """Count the student's tokens whose rows stay: the same tokens, of bytes where every teacher's are the same."""
        before = self._before
        if before is None:
            return 0
        kept = [_common(before.student, item.student)]
        for old, new in zip(before.teachers, item.teachers, strict=True):
            same = _common(old, new)
            end = int(new.spans[same - 1, 1]) if same else 0
            kept.append(int(np.searchsorted(item.student.spans[:, 1], end, side="right")))
        read_by_student = len(before.student) - 1 - self.hand.read_last
        return max(0, min(*kept, read_by_student, len(item.student) - 1))

    @torch.inference_mode()
    def _read(self, first: Item) -> list[CapturedBatch]:
        """Read with every teacher what it has not read yet."""
        pre_rope = self.hand.settings.keys == "pre-rope"
        found = []
        for number, (loaded, tokens) in enumerate(zip(self.hand.teachers, first.teachers, strict=True)):
            cache = self._caches[number]
            held = cache.get_seq_length()
            same = min(held, 0 if self._before is None else _common(self._before.teachers[number], tokens))
            if held and any(type(layer) not in PLAIN for layer in cache.layers):
                # A state cannot be taken back, and most models go on from one by single tokens only.
                cache, same = empty_cache(loaded), 0
                self._caches[number] = cache
            _shorten(cache, same)
            ids = torch.from_numpy(tokens.ids[same:])[None].to(loaded.device)
            if ids.shape[1]:
                read_on(loaded, cache, ids)
            found.append(captured(loaded, tokens, cache, pre_rope))
        return found


def _common(a: Tokens, b: Tokens) -> int:
    """Count the tokens that two timelines begin with alike."""
    least = min(len(a), len(b))
    differs = np.flatnonzero((a.ids[:least] != b.ids[:least]) | (a.spans[:least] != b.spans[:least]).any(1))
    return int(differs[0]) if len(differs) else least


def _shorten(cache: DynamicCache, length: int) -> None:
    """Leave the first ``length`` tokens in a cache."""
    held = cache.get_seq_length()
    if held > length:
        cache.crop(length - held)
