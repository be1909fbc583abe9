"""Tokenize documents for every model, map the timelines, and choose the fold that holds each document out.

The reader works in windows, so that memory does not grow with the number of documents.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kvlab.align.rows import first_content, rank_map
from kvlab.align.shared_text import repeated_beginnings, repeated_steps, shared_shares
from kvlab.errors import AlignError, ModelError
from kvlab.language import Message, phrase
from kvlab.models import chat
from kvlab.models.loading import LoadedModel
from kvlab.models.tokens import written_special
from kvlab.request.align import AlignSettings
from kvlab.request.time_rules import MAPS
from kvlab.shapes import Document, TimeMap, Tokens

WINDOW = 1024  # documents
MANY_REPEATED = 0.05  # share of repeated tokens, from which on a note says that they count once
MOSTLY = 0.5  # share of a text in other folds, from which on a note says that it is hardly held out


@dataclass
class Item:
    """A document with its tokens for every model."""

    document: Document
    teachers: tuple[Tokens, ...]
    student: Tokens
    maps: tuple[TimeMap, ...]  # of each teacher
    fold: int
    scored: bool  # False: a calibration document, fitted on only
    repeated: int = 0  # bytes of its beginning that an earlier document shares, whose rows stand for both

    @property
    def longest(self) -> int:
        return max(len(self.student), *map(len, self.teachers))


@dataclass
class Named:
    """The number of affected documents, and the names of the first ones."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.first) < 5:
            self.first.append(name)

    def note(self, words: str, **values: Any) -> list[Message]:
        """Return ``words`` with the number and names of these documents; an empty list where there are none."""
        names = [*self.first, "…"] if self.count > len(self.first) else self.first
        return [Message(words, n=self.count, names=names, **values)] if self.count else []


class Reader:
    """The documents of one analysis; ``notes`` lists cut and skipped ones among those read so far.

    ``known``: texts of another analysis, whose beginnings do not count again.
    Raises AlignError ``no-documents`` and ``one-document``.
    """

    def __init__(
        self,
        teachers: Sequence[LoadedModel],
        student: LoadedModel,
        documents: Sequence[Document],
        calibration: Sequence[Document],
        settings: AlignSettings,
        known: Sequence[str] = (),
    ):
        if not documents:
            raise AlignError(
                "no-documents",
                expected=Message("at least one prompt"),
                found=Message("none"),
                remedy=Message("paste or upload prompts, or take the bundled samples"),
            )
        self._models = (*teachers, student)
        self._settings = settings
        self._limits = [min(m.geometry.max_positions or settings.max_tokens, settings.max_tokens) for m in self._models]
        self._prompts = len(documents)
        self._documents = _with_unique_ids([*documents, *calibration])
        distinct = len({document.text for document in self._documents})
        self.folds = min(settings.folds, distinct)
        if self.folds < 2:
            raise AlignError(
                "one-document",
                expected=Message("at least two documents of different text, so that one can be held out"),
                found=Message("a single document and no calibration documents")
                if len(self._documents) == 1
                else Message("{n} documents of the same text", n=len(self._documents)),
                remedy=Message("add prompts, or also fit on the bundled samples (--calibration samples)"),
            )
        self._fold_of = _folds([d.text for d in documents], self.folds, settings.seed)
        others = [d.text for d in calibration if d.text not in self._fold_of]
        self._fold_of |= _folds(others, self.folds, settings.seed + 1, first=len(self._fold_of))
        self._repeated = repeated_beginnings((d.text for d in self._documents), known)
        self.student_tokens, self.repeated_tokens = 0, 0  # content of all documents read so far
        self._known, self._written = known, {}
        self._empty, self._cut, self._lossy, self._refused, self._alike, self._control = (Named() for _ in range(6))
        self._refusal: ModelError | None = None  # the first one of a chat template

    def __len__(self) -> int:
        return len(self._documents)

    def windows(self) -> Iterator[list[Item]]:
        """Yield every document once, in order.

        Raises AlignError ``no-tokens`` once no prompt has any, or the ModelError of the template that refuses them all.
        """
        any_scored = False
        for start in range(0, len(self._documents), WINDOW):
            numbers = range(start, min(start + WINDOW, len(self._documents)))
            items = [item for item in map(self._item, numbers) if item is not None]
            any_scored = any_scored or any(item.scored for item in items)
            if not any_scored and numbers.stop >= self._prompts:
                raise self._refusal or self._no_tokens()
            yield items

    def _no_tokens(self) -> AlignError:
        return AlignError(
            "no-tokens",
            expected=Message("a prompt with at least one token for every model"),
            found=Message("none in {n} prompts, with at most {limit} tokens", n=self._prompts, limit=self._limit()),
            remedy=Message("use longer prompts, or a larger --max-tokens"),
        )

    def notes(self) -> list[Message]:
        """Return notes on documents cut, left out or counted once so far."""
        total, repeated = len(self._documents), Named()
        repeated.count = self._prompts - len({d.text for d in self._documents[: self._prompts]})
        alike = self._alike if self.repeated_tokens > MANY_REPEATED * self.student_tokens else Named()
        return [
            *self._empty.note(
                phrase("{n} of {total} documents have no tokens and were left out: {names}"), total=total
            ),
            *self._cut.note(
                phrase("{n} of {total} documents were longer than {limit} tokens and were cut: {names}"),
                total=total,
                limit=self._limit(),
            ),
            *self._lossy.note(
                phrase(
                    "In {n} of {total} documents a tokenizer changes the text (normalisation): byte borders follow "
                    "what it makes of each letter with its marks, or its character offsets where that is not known: "
                    "{names}"
                ),
                total=total,
            ),
            *self._refused.note(
                phrase(
                    "{n} of {total} documents were left out, because a chat template does not take them as they are "
                    "({reason}): {names}"
                ),
                total=total,
                reason=self._refusal.found if self._refusal else "",
            ),
            *repeated.note(
                phrase("{n} of {total} documents repeat the text of another; those of one text are held out together."),
                total=self._prompts,
            ),
            *alike.note(
                phrase(
                    "{n} of {total} documents begin as an earlier one does. There a causal model's keys and values are "
                    "the same, so {tokens} student tokens count once, in the first document that has them: {names}"
                ),
                total=total,
                tokens=self.repeated_tokens,
            ),
            *self._control.note(
                phrase(
                    "In {n} of {total} documents a tokenizer reads pieces of the text as special tokens ({pieces}), "
                    "which count as text here: {names}"
                ),
                total=total,
                pieces=" ".join(self._written),
            ),
        ]

    def shared_notes(self) -> list[Message]:
        """Return a note on documents whose text other folds, or the ``known`` texts, have been fitted on.

        A beginning shared with an earlier document does not matter here, because its rows count once.
        """
        folds = {d.text: 0 if self._known else self._fold_of[d.text] for d in self._documents}
        written = [text.encode()[self._repeated[text] :] for text in folds] + [text.encode() for text in self._known]
        shares = dict(zip(folds, shared_shares(written, [*folds.values(), *[1] * len(self._known)])))
        shared = Named()
        for document in self._documents[: self._prompts]:
            if shares[document.text] > MOSTLY:
                shared.add(document.id)
        return shared.note(
            phrase("{n} of {total} held-out documents are mostly text of training documents: {names}")
            if self._known
            else phrase(
                "{n} of {total} documents are mostly text that documents of other folds have as well: what is held out "
                "there has been fitted on, and standard errors are too small: {names}"
            ),
            total=self._prompts,
        )

    def _item(self, number: int) -> Item | None:
        document, settings = self._documents[number], self._settings
        try:
            timelines = [chat.read(m.tokenizer, document, settings.chat) for m in self._models]
        except ModelError as error:
            if error.kind not in ("chat-template-rewrites", "chat-template-broken"):
                raise
            self._refused.add(document.id)
            self._refusal = self._refusal or error
            return None
        for loaded, tokens in zip(self._models, timelines):
            check_ids(loaded, tokens)
        if any(len(tokens) > limit for tokens, limit in zip(timelines, self._limits)):
            timelines = _cut_at_common_border(timelines, self._limits)
            self._cut.add(document.id)
        if not all(map(len, timelines)):
            self._empty.add(document.id)
            return None
        if not all(tokens.lossless for tokens in timelines):
            self._lossy.add(document.id)
        pieces = [piece for m, t in zip(self._models, timelines) for piece in written_special(m.tokenizer, t)]
        if pieces:
            self._control.add(document.id)
            self._written |= dict.fromkeys(pieces[:5])
        *teachers, student = timelines
        maps = tuple(time_map(teacher, student, document, settings) for teacher in teachers)
        repeated = self._repeated[document.text]
        again = repeated_steps(student, repeated) & ~student.special & ~first_content(student, settings.sinks)
        if again.any():
            self._alike.add(document.id)
        self.repeated_tokens += int(again.sum())
        self.student_tokens += int((~student.special).sum())
        fold = self._fold_of[document.text]
        return Item(document, tuple(teachers), student, maps, fold, number < self._prompts, repeated)

    def _limit(self) -> Message:
        *teachers, student = self._limits
        numbers: Message | int = teachers[0]
        for limit in list(dict.fromkeys(teachers))[1:]:
            numbers = Message("{one} or {other}", one=numbers, other=limit)
        return Message("{teacher} teacher or {student} student", teacher=numbers, student=student)


def check_ids(loaded: LoadedModel, tokens: Tokens) -> None:
    """Refuse tokens that the model has no embedding for. Raises ModelError ``tokenizer-beyond-embedding``.

    An index beyond the embedding ends a GPU process. Many tokenizers hold such ids that no text of theirs needs.
    """
    rows = loaded.geometry.vocabulary
    beyond = tokens.ids[tokens.ids >= rows]
    if len(beyond):
        model = {"name": loaded.name, "last": rows - 1}
        raise ModelError(
            "tokenizer-beyond-embedding",
            expected=Message("tokens of {name} from 0 to {last}, the rows of its embedding", **model),
            found=Message(
                "token {id} ({piece}) in the prompts: its tokenizer holds more tokens than the model",
                id=int(beyond[0]),
                piece=repr(loaded.tokenizer.convert_ids_to_tokens(int(beyond[0]))),
            ),
            remedy=Message(
                "give the tokenizer files that the model was trained with, or let the model grow once: "
                "model.resize_token_embeddings(len(tokenizer)), then save both"
            ),
        )


def time_map(teacher: Tokens, student: Tokens, document: Document, settings: AlignSettings) -> TimeMap:
    if settings.time in MAPS:
        return MAPS[settings.time](teacher, student, document.segments)
    return rank_map(teacher, student, settings.sinks)


def _with_unique_ids(documents: list[Document]) -> list[Document]:
    """Number repeated ids, because results find a document by its id."""
    seen: dict[str, int] = {}
    named = []
    for document in documents:
        seen[document.id] = seen.get(document.id, 0) + 1
        again = f" ({seen[document.id]})" if seen[document.id] > 1 else ""
        named.append(replace(document, id=document.id + again))
    return named


def _folds(texts: list[str], folds: int, seed: int, first: int = 0) -> dict[str, int]:
    """Assign folds of equal size in random order, so that neither language nor topic order becomes a fold.

    The split is by text: a repeated text must not be held out in one fold and fitted on in another.
    """
    distinct = list(dict.fromkeys(texts))
    order = np.random.default_rng(seed).permutation(len(distinct))
    return {distinct[place]: int(first + rank) % folds for rank, place in enumerate(order)}


def _cut_at_common_border(timelines: list[Tokens], limits: list[int]) -> list[Tokens]:
    """Return the longest prefixes within all limits that end at the same byte (or nearest below)."""
    last = min(t.spans[min(limit, len(t)) - 1, 1] for t, limit in zip(timelines, limits) if len(t))
    return [
        t.first(min(limit, int(np.searchsorted(t.spans[:, 1], last, side="right"))))
        for t, limit in zip(timelines, limits)
    ]
