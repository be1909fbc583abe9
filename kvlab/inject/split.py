"""Split documents into those a map is fitted on and those it is judged on; no text is in both."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kvlab.align.items import Item, Reader
from kvlab.errors import AlignError
from kvlab.language import Message
from kvlab.models.loading import LoadedModel
from kvlab.request.align import AlignSettings
from kvlab.shapes import Document

JUDGED_FOLD = 0


@dataclass
class Split:
    """Invariant: no text is in both, and every text of ``fitted`` is in one fold."""

    fitted: list[Item]  # folds 0 .. folds - 1
    judged: list[Item]
    folds: int
    notes: list[Message] = field(default_factory=list)


def split(
    teachers: Sequence[LoadedModel],
    student: LoadedModel,
    documents: Sequence[Document],
    calibration: Sequence[Document],
    settings: AlignSettings,
    most: int,
    judged_fold: int = JUDGED_FOLD,
) -> Split:
    """Choose one fold of the documents to judge, at most ``most``; fit on the others and on ``calibration``.

    Judged documents are in random order: if a budget ends early, those before it are still a fair sample.
    Raises AlignError ``nothing-to-fit`` and as ``Reader``.
    """
    reader = Reader(teachers, student, documents, calibration, settings)
    items = [item for window in reader.windows() for item in window]
    judged = [item for item in items if item.scored and item.fold == judged_fold]
    judged = [judged[place] for place in np.random.default_rng(settings.seed).permutation(len(judged))]
    rest = [item for item in items if item.fold != judged_fold]
    texts = {text: number for number, text in enumerate(dict.fromkeys(item.document.text for item in rest))}
    folds = min(settings.folds, len(texts))
    if folds < 2:
        raise AlignError(
            "nothing-to-fit",
            expected=Message("at least two documents to fit the map on, besides those it is judged on"),
            found=Message("{n} of {total}", n=len(rest), total=len(items)),
            remedy=Message("add prompts, or also fit on the bundled samples (--calibration samples)"),
        )
    fitted = [replace(item, fold=texts[item.document.text] % folds) for item in rest]
    return Split(fitted, judged[:most], folds, reader.notes() + reader.shared_notes())
