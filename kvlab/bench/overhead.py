"""Compare ``align`` with all statistics on with bare forwards of both base models over the same batches.

``align`` holds some documents' tokens (``sample_tokens``, 20,000 by default) as a sample, on which it chooses layers
and measures controls: work that does not grow with the number of documents. So the ratio falls with more documents, and
a run that is all sample costs several times its forwards. On a processor, batches and sample are smaller, so that the
sample is the same share of the tokens as 20,000 are of 10,000 prompts.

Random weights explain little with few teacher layers and with many, so the search may choose few, whose sums cost less.
Whatever it finds, after the time that it takes, the analysis goes on with as many as a trained pair takes: all that
may stand side by side (the demo pair takes all six for every head), or ``layers_per_student``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from kvlab.align import pipeline
from kvlab.align.batches import InOrder
from kvlab.align.items import Reader
from kvlab.align.layers import Choice
from kvlab.bench.pair import TINY, documents, random_pair, true_shapes
from kvlab.bench.row import TIME, Row, in_turn, spent, timed
from kvlab.models.forward import padded
from kvlab.models.loading import LoadedModel
from kvlab.models.proofs import self_test
from kvlab.request.align import MOST_FEATURES, AlignSettings
from kvlab.shapes import KINDS, Document, depth, nearest_layers

NAME = "align, all statistics on"
AGAINST = "bare forwards of both base models, same batches"
BARS = {"cuda": 1.30, "cpu": 1.25}
BAR_ALL_SAMPLE = 4.0

Batch = tuple[LoadedModel, torch.Tensor, torch.Tensor]  # model, ids [B, T], mask [B, T]


@dataclass(frozen=True)
class Size:
    documents: int
    few: int  # documents, of which the default sample of 20,000 tokens holds all
    characters: int  # of a document, at least
    batch_tokens: int
    sample_tokens: int
    rounds: int


ON_GPU = Size(documents=10_000, few=140, characters=100, batch_tokens=4096, sample_tokens=20_000, rounds=3)
ON_CPU = Size(documents=800, few=120, characters=150, batch_tokens=512, sample_tokens=2_500, rounds=3)
QUICK = Size(documents=12, few=12, characters=100, batch_tokens=128, sample_tokens=200, rounds=1)


def many_documents(device: torch.device, quick: bool, layers_per_student: int | None = None) -> Row:
    size = _size(device, quick)
    many = size.documents, size.sample_tokens, size.rounds, BARS[device.type]
    return _measure(NAME, device, quick, size, *many, layers_per_student)


def all_sample(device: torch.device, quick: bool, layers_per_student: int | None = None) -> Row:
    """Measure the same with few documents, where the sample holds all of them."""
    size = _size(device, quick)
    few = size.few, 1_000_000, 1, BAR_ALL_SAMPLE
    return _measure(f"{NAME}, the sample is everything", device, quick, size, *few, layers_per_student)


def _size(device: torch.device, quick: bool) -> Size:
    size = ON_GPU if device.type == "cuda" else ON_CPU
    return QUICK if quick else size


def _measure(
    name: str,
    device: torch.device,
    quick: bool,
    size: Size,
    count: int,
    sample: int,
    rounds: int,
    bar: float,
    layers_per_student: int | None,
) -> Row:
    texts = documents(count, size.characters)
    teacher, student = random_pair(device, TINY if quick else true_shapes(device))
    settings = AlignSettings(batch_tokens=size.batch_tokens, sample_tokens=sample)
    # It runs once per loaded model, so it is part of no round; the row shows it separately.
    proofs = spent(lambda: [self_test(model) for model in (teacher, student)], device)
    batches = _batches(teacher, student, texts, settings)
    _forwards(batches[:4])
    with so_many_layers(layers_per_student):
        measured = in_turn(
            lambda: pipeline.align(teacher, student, texts, settings)[0], lambda: _forwards(batches), device, rounds
        )
    result = measured[-1][0].result
    tokens = result.data["student_tokens"]
    return timed(
        name,
        AGAINST,
        measured,
        TIME,
        bar,
        self_tests_s=proofs.clock,
        documents=len(texts),
        student_tokens=tokens,
        share_in_sample=1.0 if result.controls["whole_sample"] else result.layer_map["rows"] / result.data["rows_fit"],
        batch_tokens=size.batch_tokens,
        models=[f"{m.geometry.parameters / 1e6:,.0f}M {m.dtype}" for m in (teacher, student)],
        teacher_layers_chosen={k: [len(c) for c in chosen] for k, chosen in result.layer_map["teacher_layers"].items()},
        random_teacher=str(result.controls["random_teacher"]),
        stages_s=result.timings,
    )


@contextmanager
def so_many_layers(count: int | None) -> Iterator[None]:
    """Let analyses take ``count`` teacher layers for each student layer, the nearest; None: all that may be taken."""
    search = pipeline.choose

    def choose(sample, settings, progress, together=None):
        found = search(sample, settings, progress, together)
        for kind in KINDS:
            width = partial(sample.width, kind)
            most = count or max(1, MOST_FEATURES // width(0))
            nearest = (nearest_layers(sample.layers_t, at)[:most] for at in depth(sample.layers_t, sample.layers_s))
            found.choices[kind] = [Choice.of(layers, [layers] * sample.folds, width) for layers in nearest]
        return found

    pipeline.choose = choose
    try:
        yield
    finally:
        pipeline.choose = search


def _batches(teacher: LoadedModel, student: LoadedModel, texts: Sequence[Document], settings) -> list[Batch]:
    """Return the batches that ``align`` reads, in its order, padded and on the device."""
    padded_batches = []
    for batch in InOrder(Reader([teacher], student, texts, [], settings).windows(), settings.batch_tokens):
        padded_batches.append((student, *padded([item.student for item in batch], student.device)))
        padded_batches.append((teacher, *padded([item.teachers[0] for item in batch], teacher.device)))
    return padded_batches


@torch.inference_mode()
def _forwards(batches: Sequence[Batch]) -> None:
    for loaded, ids, mask in batches:
        loaded.model.base_model(input_ids=ids, attention_mask=mask, use_cache=True)
