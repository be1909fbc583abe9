"""Hand over texts longer than any that a map was fitted on: judged documents, joined."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch

from kvlab.align.items import Item
from kvlab.inject.continuation import Variant, continued
from kvlab.inject.fit import Fit
from kvlab.inject.handoff import item_of
from kvlab.inject.hybrid import kept_own
from kvlab.inject.prefix import Models, prefix_of, read_document
from kvlab.inject.scores import PerDocument, damage
from kvlab.language import Message, phrase
from kvlab.models.loading import LoadedModel
from kvlab.shapes import Document, Progress

CONTINUED = 64  # tokens behind the prefix, which are judged
MOST_TEXTS = 8  # of each length
BETWEEN = "\n"
STAGE = "handing over longer texts"


@dataclass
class Tried:
    """One length: the least tokens of the prefix, and the damage of the source and of what needs no teacher."""

    tokens: int
    times: float
    damaged: PerDocument = field(default_factory=PerDocument)
    own_tokens: PerDocument = field(default_factory=PerDocument)


def beyond(
    models: Models,
    fit: Fit,
    documents: Sequence[Document],
    longest: int,
    times: Sequence[float],
    source: str,
    own_layers: int,
    progress: Progress,
) -> tuple[list[Tried], list[Message]]:
    """Try prefixes of ``times`` the ``longest`` fitted text (student tokens), with so many own layers.

    Lengths for which the documents do not suffice, or that a model's positions do not admit, are left out and said.
    """
    found, notes = [], []
    for number, factor in enumerate(times):
        progress(STAGE, number, len(times))
        tried = Tried(round(factor * longest), factor)
        texts = list(islice(joined(models.student, documents, tried.tokens + CONTINUED), MOST_TEXTS))
        items = [item_of(models.teachers, models.student, text, models.settings) for text in texts]
        for item in items:
            if admitted(models, item):
                _try(models, fit, item, tried, source, own_layers)
        if len(tried.damaged):
            found.append(tried)
        elif items:
            notes.append(Message("{n:,} tokens were not tried: a model has fewer positions.", n=tried.tokens))
        else:
            words = phrase("{n:,} tokens were not tried: the judged documents together are shorter.")
            notes.append(Message(words, n=tried.tokens))
    return found, notes


def admitted(models: Models, item: Item) -> bool:
    """Return whether every model has positions for the whole text."""
    read = zip((*models.teachers, models.student), (*item.teachers, item.student))
    return all(len(tokens) <= (loaded.geometry.max_positions or len(tokens)) for loaded, tokens in read)


def joined(student: LoadedModel, documents: Sequence[Document], tokens: int) -> Iterator[Document]:
    """Join documents, in their order and each once, to texts of at least ``tokens`` student tokens."""
    parts: list[str] = []
    count = made = 0
    for document in documents:
        parts.append(document.text)
        count += len(student.tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"])
        if count >= tokens:
            made += 1
            yield Document(f"joined-{made}", BETWEEN.join(parts))
            parts, count = [], 0


@torch.inference_mode()
def _try(models: Models, fit: Fit, item: Item, tried: Tried, source: str, own_layers: int) -> None:
    reading, cut = read_document(models, item), tried.tokens
    prefix = prefix_of(models, fit, reading, cut)
    if prefix is None or len(item.student) <= cut + 1:
        return
    replaced = [kept_own(reading.own, prefix, name, "layers", own_layers) for name in (source, "own-tokens")]
    own, *others = continued(models.student, reading.own, cut, prefix.rows, [Variant("own"), *replaced])
    end = cut + CONTINUED
    for logits, damages in zip(others, (tried.damaged, tried.own_tokens), strict=True):
        damages.documents.append(damage(own[:CONTINUED], logits[:CONTINUED], item.student.first(end), cut))
