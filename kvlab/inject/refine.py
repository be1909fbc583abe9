"""Refine maps through the frozen student: a linear correction trained on KL(own || replaced).

A ridge map minimises squared error; what counts is what the student makes of the rows. The correction is linear in the
``COMPONENTS`` largest whitened principal components of what a source reads, one matrix for each class of row, and zero
at the start. It is trained on most of the fitted documents and stopped by the others; no judged document takes part.
"""

from __future__ import annotations

import json
import math
import time as clock
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch

from kvlab.align.items import Item
from kvlab.align.unfinished import Unfinished
from kvlab.host.memory import readable
from kvlab.inject.correction import Case, Correction, base_of, name_of, normal, replaced_kl
from kvlab.inject.fit import Fit, Source
from kvlab.inject.own import Problem
from kvlab.inject.prefix import Models, cut_at, inputs_of, read_document
from kvlab.language import Message
from kvlab.request.documents import digest
from kvlab.request.forecast import refining_memory
from kvlab.request.inject import EPOCHS, REFINED_DOCUMENTS, STOPPING
from kvlab.shapes import REFINING, Progress

REFINED = {"projected": "refined", "with-own-token": "with-own-token-refined", "own-tokens": "own-tokens-refined"}
STAGE = "refining the map"
PATIENCE = 2  # epochs without a lower KL of the documents that stop the training
RATE = 1e-3  # of Adam, in standard deviations of a target for each standard deviation of a component
SAME = 1e-3  # maps that differ less, in standard deviations of what they predict, differ by rounding


@dataclass
class Refined:
    """``sources``: by the names of ``REFINED``; empty where too few documents were fitted."""

    sources: dict[str, Source] = field(default_factory=dict)
    notes: list[Message] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)


def refine(
    models: Models,
    fit: Fit,
    fitted: Sequence[Item],
    share: float,
    progress: Progress,
    unfinished: Unfinished | None = None,
) -> Refined:
    """Return a refined source for each of ``REFINED`` that was fitted. Cancelled comes from ``progress``.

    ``share``: of a document that is replaced, as in the test itself. ``unfinished``: the file that holds the training
    after every epoch, from which the same work goes on after an interruption.
    """
    begun = clock.perf_counter()
    items = [item for item in fitted if cut_at(share, item)][:REFINED_DOCUMENTS]
    cases = _cases(models, fit, items, share, progress)
    names = [name for name in REFINED if name in fit.sources]
    if len(cases) < STOPPING:
        return Refined()
    kept = _Kept(unfinished, [share, digest(item.document for item in items), repr(fit.layers)])
    refined = Refined(notes=kept.read(fit, cases[0]))
    ahead = {name: kept.epochs_left(name) * len(cases) for name in names}
    passes, stage = sum(ahead.values()), ""
    for number, name in enumerate(names):
        training = _Training(models, fit.sources[name], cases)
        kept.restore(name, training)
        if not stage and not training.over:
            seconds = passes * training.seconds_of_a_pass()
            stage = REFINING + _cost(training, cases, seconds, len(names))
            refined.timings["refine_forecast_s"] = seconds
        before = passes - sum(ahead[later] for later in names[number:])
        keep = partial(kept.write, name, training, cases[0])
        training.train(partial(_announce, progress, stage, before, passes), keep)
        refined.sources[REFINED[name]] = replace(fit.sources[name], correction=training.correction)
        del training, keep  # before the next one takes memory
    if stage:
        progress(stage, passes, passes)
    refined.timings["refine_s"] = clock.perf_counter() - begun
    return refined


def _announce(progress: Progress, stage: str, before: int, passes: int, done: int) -> None:
    progress(stage, before + done, passes)


def _cases(models: Models, fit: Fit, items: Sequence[Item], share: float, progress: Progress) -> list[Case]:
    cases = []
    for number, item in enumerate(items):
        progress(STAGE, number, len(items))
        case = _case(models, fit, item, share)
        if case is not None:
            cases.append(normal(case))
    return cases


@torch.inference_mode()
def _case(models: Models, fit: Fit, item: Item, share: float) -> Case | None:
    reading = read_document(models, item)
    inputs = inputs_of(models, fit, reading.item, reading.own.ids, cut_at(share, item))
    if inputs is None:
        return None
    read = {fit.sources[name].features for name in REFINED if name in fit.sources}
    inputs = replace(inputs, features={name: x for name, x in inputs.features.items() if name in read})
    return Case(reading.own, inputs, inputs.picked[0].student[1], reading.own.logits[inputs.cut :])


def _cost(training: _Training, cases: Sequence[Case], seconds: float, sources: int) -> str:
    """Write time and memory for the progress line; numbers and units alone need no translation."""
    student, longest = training.student, max(len(case.own.tokens) for case in cases)
    rows = sum(x.nbytes for of_case in training.base.values() for x in of_case.values())
    whitening = sources * sum(x.nbytes for x in training.correction.buffers())
    held = sum(map(_bytes, cases)) + rows + whitening
    parts = refining_memory(student.geometry, sources, longest, str(student.dtype).removeprefix("torch."), held)
    return f"{seconds:.0f} s, {readable(sum(part.bytes for part in parts))}"


def _bytes(case: Case) -> int:
    """What a document holds until the end; layers that read the same features share them."""
    features = [x for of in case.inputs.features.values() for some in of.values() for x in some]
    tensors = [*features, *case.own.stored.values(), case.logits]
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())


class _Training:
    """The training of one source's correction. Between two epochs it can be kept and taken up again."""

    def __init__(self, models: Models, source: Source, cases: Sequence[Case]):
        self.student, self.source, self.seed = models.student, source, models.settings.seed
        order = np.random.default_rng(self.seed).permutation(len(cases))
        count = len(cases) // STOPPING
        self.stopping, self.training = ([cases[at] for at in places] for places in (order[:count], order[count:]))
        self.base = {id(case): base_of(source, case) for case in cases}
        targets = {p: torch.cat([self.base[id(case)][p] for case in self.training]) for p in source.maps}
        self.correction = Correction(self._features(), targets)
        self.optimizer = torch.optim.Adam(self.correction.parameters(), lr=RATE)
        self.epoch, self.since, self.best = 0, 0, math.inf  # epochs done, those since the best, its KL
        self.best_weights = self._weights()

    def _features(self) -> dict[Problem, torch.Tensor]:
        """[N, P] of all documents that it is trained on."""
        features: dict[Problem, torch.Tensor] = {}
        known: dict[tuple[int, ...], torch.Tensor] = {}
        for problem in self.source.maps:
            key = tuple(id(x) for x in self.training[0].inputs.features[self.source.features][problem])
            if key not in known:
                known[key] = torch.cat([self._side_by_side(case, problem) for case in self.training])
            features[problem] = known[key]
        return features

    def _side_by_side(self, case: Case, problem: Problem) -> torch.Tensor:
        return torch.cat(case.inputs.features[self.source.features][problem], dim=1).float()

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach().clone() for name, weight in self.correction.named_parameters()}

    def kl(self, case: Case) -> torch.Tensor:
        classes, base = case.inputs.row_classes[0], self.base[id(case)]
        rows = {p: x + self.correction(p, self._side_by_side(case, p), classes) for p, x in base.items()}
        return replaced_kl(self.student, case, rows)

    def seconds_of_a_pass(self) -> float:
        """Measure a forward and a backward of the document of mean length; the first of two is to warm up."""
        mean = sum(len(case.own.tokens) for case in self.training) / len(self.training)
        case = min(self.training, key=lambda case: abs(len(case.own.tokens) - mean))
        for _ in range(2):
            begun = clock.perf_counter()
            self.kl(case).backward()
            float(next(self.correction.parameters()).grad.sum())  # wait for the device
        self.optimizer.zero_grad()
        return clock.perf_counter() - begun

    @property
    def over(self) -> bool:
        return self.epoch >= EPOCHS or self.since >= PATIENCE

    def train(self, step: Callable[[int], None], keep: Callable[[], None]) -> None:
        """``step``: told the passes over single documents so far; ``keep``: called after every epoch."""
        done = 0

        def stopped_by(counted: bool = True) -> float:
            nonlocal done
            total = 0.0
            for case in self.stopping:
                step(done)
                with torch.no_grad():
                    total += float(self.kl(case))
                done += counted
            return total

        if self.epoch == 0:
            self.best = stopped_by(counted=False)
        while not self.over:
            generator = torch.Generator().manual_seed(self.seed * 1009 + self.epoch)
            for at in torch.randperm(len(self.training), generator=generator).tolist():
                step(done)
                self.optimizer.zero_grad()
                self.kl(self.training[at]).backward()
                self.optimizer.step()
                done += 1
            reached = stopped_by()
            self.epoch, self.since = self.epoch + 1, self.since + 1
            if reached < self.best:
                self.best, self.since, self.best_weights = reached, 0, self._weights()
            keep()
        self.correction.load_state_dict(self.best_weights, strict=False)
        self.correction.requires_grad_(False)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that later epochs depend on, by name, on the host."""
        tensors = {f"correction|{name}": x for name, x in self.correction.state_dict().items()}
        tensors |= {f"best|{name}": x for name, x in self.best_weights.items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam|{number}|{name}": x for name, x in moments.items()}
        return {name: x.detach().to("cpu", copy=True) for name, x in tensors.items()}

    def restore(self, tensors: dict[str, torch.Tensor], epoch: int, since: int, best: float) -> None:
        """Take up the training that ``tensors`` describe, after so many epochs."""
        self.epoch, self.since, self.best = epoch, since, best
        self.correction.load_state_dict(_under(tensors, "correction"))
        here = {name: x.device for name, x in self.best_weights.items()}
        self.best_weights = {name: x.to(here[name]) for name, x in _under(tensors, "best").items()}
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, x in _under(tensors, "adam").items():
            number, name = key.split("|")
            moments.setdefault(int(number), {})[name] = x
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})


def _under(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{name}|"): x for key, x in tensors.items() if key.startswith(f"{name}|")}


class _Kept:
    """The trainings of all sources as the file of an unfinished test holds them."""

    def __init__(self, unfinished: Unfinished | None, depends_on: list):
        self.file, self.tensors, self.reached = unfinished, {}, {}
        self.fingerprint = unfinished.fingerprint(*depends_on) if unfinished else ""

    def read(self, fit: Fit, case: Case) -> list[Message]:
        """Read what an interrupted test has kept, if it is of this work and these maps, and return notes on it."""
        if self.file is None or not self.file.path.exists():
            return []
        tensors, metadata = self.file.read(self.fingerprint) or ({}, {})
        reached = json.loads(metadata.get("reached", "{}"))
        if not reached or not all(_same_maps(_under(tensors, name), fit.sources[name], case) for name in reached):
            return [
                Message(
                    "What an interrupted test had refined was left: it is of another request, of other documents, maps "
                    "or versions, or damaged."
                )
            ]
        self.tensors, self.reached = {name: _under(tensors, name) for name in reached}, reached
        epochs = sum(epoch for epoch, _, _ in reached.values())
        return [
            Message.plural(
                epochs,
                "Continued: {n} epoch of refining had been done before an interruption.",
                "Continued: {n} epochs of refining had been done before an interruption.",
            )
        ]

    def epochs_left(self, name: str) -> int:
        epoch, since, _ = self.reached.get(name, (0, 0, 0.0))
        return EPOCHS - epoch if since < PATIENCE else 0

    def restore(self, name: str, training: _Training) -> None:
        if name in self.reached:
            training.restore(self.tensors[name], *self.reached[name])

    def write(self, name: str, training: _Training, case: Case) -> None:
        """Keep a training after an epoch; ``case``: the document whose rows tell its maps from others."""
        if self.file is None:
            return
        rows = {f"rows|{name_of(p)}": x.to("cpu", copy=True) for p, x in training.base[id(case)].items()}
        self.tensors[name] = training.tensors() | rows
        self.reached[name] = training.epoch, training.since, training.best
        tensors = {f"{one}|{key}": x for one, some in self.tensors.items() for key, x in some.items()}
        self.file.write(tensors, self.fingerprint, reached=json.dumps(self.reached))


def _same_maps(tensors: dict[str, torch.Tensor], source: Source, case: Case) -> bool:
    """Whether the maps predict for one document what those of the kept training did, but for rounding."""
    for problem, rows in base_of(source, case).items():
        kept = tensors[f"rows|{name_of(problem)}"].to(rows)
        if kept.shape != rows.shape or not (rows - kept).norm() <= SAME * (kept - kept.mean(0)).norm():
            return False
    return True
