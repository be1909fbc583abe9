"""Turn documents into the token batches of every step and the held-out documents; needs tokenizers, no weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from kvlab.align.items import Item, Reader
from kvlab.align.outcome import weighted_rows
from kvlab.align.shared_text import repeated_steps
from kvlab.demo.corpus import endless, parts_of
from kvlab.errors import TrainError
from kvlab.language import Message
from kvlab.models.loading import LoadedModel
from kvlab.request import prompts, refusals
from kvlab.request.align import AlignSettings
from kvlab.request.folders import read_path
from kvlab.request.formats import AS_TEXT, PARTS, Form
from kvlab.request.time_rules.rule import by_index
from kvlab.request.train import DEMO_DATA, OWN_PROMPTS, TrainConfig
from kvlab.shapes import Document, Segment

HELDOUT_SHARE = 0.2  # at most, of documents that are few


@dataclass(frozen=True)
class Data:
    """Training documents, held-out documents, and the order of the steps, for every model."""

    train: list[Item]
    heldout: list[Item]
    order: np.ndarray  # [steps, accumulation, batch] places in ``train``
    notes: list[Message]

    def step(self, number: int, process: int = 0, processes: int = 1) -> list[list[Item]]:
        """Return the micro-batches of step ``number`` (from 0), this process's share of each.

        The student learns every token that it reads; only fits and scores count a repeated beginning once.
        """
        share = self.order[number][:, process::processes]
        return [[replace(self.train[place], repeated=0) for place in places] for places in share]


def align_settings(config: TrainConfig) -> AlignSettings:
    """Return the alignment settings of the fit."""
    # Step i for step i does not read the text, so it is fitted on all its rows, as the rule "nearest" is.
    time = config.time if config.use_safe_resample else "nearest"
    return AlignSettings(
        time=time,
        row_weights=config.row_weights,
        layers=config.layers,
        sinks=config.sinks,
        max_tokens=config.max_tokens,
        chat=config.chat,
        seed=config.seed,
    )


def documents(config: TrainConfig, folder: Path) -> tuple[list[Document], list[Document], list[Message]]:
    """Return training and held-out documents, and notes on how they were read.

    Raises PromptError as ``prompts`` and ``folders``, TrainError ``data-too-little``.
    """
    if config.data == DEMO_DATA:
        train = islice(endless("train", config.seed), config.documents_read)
        heldout = islice(endless("heldout", config.seed), config.eval_documents)
        return list(map(_document, train)), list(map(_document, heldout)), []
    if config.data == OWN_PROMPTS:
        texts, notes = prompts.read_prompts(folder / prompts.RUN_PROMPTS), []
    else:
        texts, notes = _local(config)
    distinct = list({document.text: document for document in texts}.values())
    heldout = min(config.eval_documents, max(1, int(len(distinct) * HELDOUT_SHARE)))
    if len(distinct) - heldout < 2:
        raise TrainError(
            "data-too-little",
            expected=Message("at least three documents of different text: two to train on, one held out"),
            found=Message("{n} in {place}", n=len(distinct), place=config.data),
            remedy=Message("add documents, or use the bundled text: --data demo"),
        )
    order = np.random.default_rng(config.seed).permutation(len(distinct))
    train, held = sorted(order[heldout:]), sorted(order[:heldout])
    return [distinct[i] for i in train], [distinct[i] for i in held], notes


def read(
    config: TrainConfig, teachers: Sequence[LoadedModel], student: LoadedModel, train: list, heldout: list
) -> Data:
    """Tokenize for every model and build time maps; a held-out beginning that training documents share counts nowhere.

    Raises TrainError ``time-out-of-bounds`` and ``heldout-repeats``, AlignError as ``Reader``.
    """
    settings, notes, read_items = align_settings(config), [], []
    for texts, known in ((train, ()), (heldout, _known(config, train))):
        # Folds matter only to the fit; the reader refuses a single document, so add a training one.
        reader = Reader(teachers, student, texts, train[:1] if texts is heldout else (), settings, known)
        items = [item for window in reader.windows() for item in window if item.scored]
        notes += reader.notes() + (reader.shared_notes() if known else [])
        read_items.append(items if config.use_safe_resample else [_by_index(item, teachers) for item in items])
    _check_heldout(read_items[1])
    shape = config.max_steps, config.gradient_accumulation_steps, config.batch_size
    order = _order(len(read_items[0]), int(np.prod(shape)), config.seed).reshape(shape)
    return Data(*read_items, order, notes + weighted_rows(settings))


def _known(config: TrainConfig, train: Sequence[Document]) -> list[str]:
    """Return the texts whose beginnings do not count in held-out ones: of training, and of ``apart_from``."""
    texts = [document.text for document in train]
    if config.data == DEMO_DATA and config.apart_from > len(texts):
        more = islice(endless("train", config.seed), len(texts), config.apart_from)
        texts += [_document(problem).text for problem in more]
    return texts


def _check_heldout(items: Sequence[Item]) -> None:
    if all(repeated_steps(item.student, item.repeated)[1:].all() for item in items):
        raise TrainError(
            "heldout-repeats",
            expected=Message("held-out documents that go on where no training document does"),
            found=Message("{n} whose every token stands in the beginning of a training document", n=len(items)),
            remedy=Message("give documents of different text, or use the bundled text: --data demo"),
        )


def _order(count: int, needed: int, seed: int) -> np.ndarray:
    """Return every document once per epoch, each epoch in its own order."""
    rng = np.random.default_rng(seed)
    epochs = [rng.permutation(count) for _ in range(-(-needed // count))]
    return np.concatenate(epochs)[:needed]


def _by_index(item: Item, teachers: Sequence[LoadedModel]) -> Item:
    for teacher, tokens in zip(teachers, item.teachers):
        refusals.check_index(item.document.id, teacher.geometry, len(tokens), len(item.student))
    maps = tuple(by_index(tokens, item.student) for tokens in item.teachers)
    return replace(item, maps=maps)


def _document(problem: dict[str, str]) -> Document:
    segments, start = [], 0
    parts = parts_of(problem)
    for name, part in zip(PARTS, parts, strict=True):
        end = start + len(part.encode()) + (name != PARTS[-1])  # the newline between parts belongs to the earlier part
        segments.append(Segment(name, start, end))
        start = end
    return Document(problem["id"], "\n".join(parts), tuple(segments))


def _local(config: TrainConfig) -> tuple[list[Document], list[Message]]:
    """Read the file or folder of the settings; also say what was recognised, and what could not be read."""
    reading = read_path(config.data, Form(config.data_format, config.data_column, config.data_answer))
    name = Path(config.data).name
    notes = [Message("{file} was read as: {words}", file=name, words=reading.recognised())]
    if reading.turns and not config.chat:
        notes.append(Message(AS_TEXT))
    if reading.problems:
        first = reading.problems[0]
        found = {"file": name, "where": first.where, "problem": first.message}
        note = Message.plural(
            len(reading.problems),
            "{n} place of {file} was not read as given; {where}: {problem}",
            "{n} places of {file} were not read as given; {where}: {problem}",
            **found,
        )
        notes.append(note)
    return reading.documents, notes
