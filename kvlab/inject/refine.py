"""Refine maps through the frozen student: a linear correction trained on KL(own || replaced).

A ridge map minimises squared error; what counts is what the student makes of the rows. The correction is linear in the
``COMPONENTS`` largest whitened principal components of what a source reads, one matrix for each class of row, and zero
at the start. It is trained on most of the fitted documents and stopped by the others; no judged document takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from kvlab.align.items import Item
from kvlab.align.rows import LAST_CLASS
from kvlab.align.shapes import target_shape
from kvlab.inject.continuation import Variant, prefix_cache
from kvlab.inject.fit import Fit, Source
from kvlab.inject.own import Own, Problem
from kvlab.inject.prefix import Inputs, Models, cut_at, inputs_of, read_document
from kvlab.models import cache_names
from kvlab.shapes import Progress

REFINED = {"projected": "refined", "with-own-token": "with-own-token-refined", "own-tokens": "own-tokens-refined"}
STAGE = "refining the map"
COMPONENTS = 192
EPOCHS, PATIENCE = 6, 2
RATE = 1e-3  # of Adam, in standard deviations of a target for each standard deviation of a component
STOPPING = 8  # one document of so many stops the training
MOST_DOCUMENTS = 256


@dataclass(frozen=True, eq=False)
class _Case:
    """One fitted document, cut in two."""

    own: Own
    inputs: Inputs
    logits: torch.Tensor  # [T - cut, V] of the own cache


class Correction(nn.Module):
    """A correction [N, Q] of every kind and layer from the features of a source, zero at the start."""

    def __init__(self, features: dict[Problem, torch.Tensor], targets: dict[Problem, torch.Tensor]):
        """``features`` [N, P] and ``targets`` [N, Q] of the documents that it is trained on."""
        super().__init__()
        self.weights = nn.ParameterDict()
        self._whitening: dict[Problem, tuple[torch.Tensor, torch.Tensor]] = {}
        self._scale = {problem: float(y.std()) for problem, y in targets.items()}
        known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for problem, x in features.items():
            if id(x) not in known:  # layers that read the same features share them
                known[id(x)] = _whitening(x)
            self._whitening[problem] = known[id(x)]
            shape = LAST_CLASS + 1, known[id(x)][1].shape[1], targets[problem].shape[1]
            self.weights[_name(problem)] = nn.Parameter(torch.zeros(shape, device=x.device))

    def forward(self, problem: Problem, x: torch.Tensor, row_classes: torch.Tensor) -> torch.Tensor:
        mean, basis = self._whitening[problem]
        z, weights = (x.float() - mean) @ basis, self.weights[_name(problem)]
        by_class = torch.stack([z @ weight for weight in weights])  # [C, N, Q]
        return self._scale[problem] * by_class[row_classes, torch.arange(len(x), device=x.device)]


def _whitening(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean [P], and the principal directions over their standard deviations [P, at most COMPONENTS]."""
    x = x.double()
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    kept = values[-COMPONENTS:].clamp(min=1e-6 * float(values[-1]))
    return mean.float(), (vectors[:, -COMPONENTS:] / kept.sqrt()).float()


def _name(problem: Problem) -> str:
    return f"{problem[0]}_{problem[1]}"


def refine(models: Models, fit: Fit, fitted: Sequence[Item], share: float, progress: Progress) -> dict[str, Source]:
    """Return a refined source for each of ``REFINED`` that was fitted. Cancelled comes from ``progress``.

    ``share``: of a document that is replaced, as in the test itself.
    """
    items = [item for item in fitted if cut_at(share, item)][:MOST_DOCUMENTS]
    cases = [case for item in items if (case := _case(models, fit, item, share)) is not None]
    names = [name for name in REFINED if name in fit.sources]
    if len(cases) < STOPPING:
        return {}
    sources = {}
    for number, name in enumerate(names):

        def step(done: int, total: int, number: int = number) -> None:
            progress(STAGE, number * total + done, len(names) * total)

        correction = _trained(models, fit.sources[name], name, cases, step)
        sources[REFINED[name]] = replace(fit.sources[name], correction=correction)
    return sources


@torch.inference_mode()
def _case(models: Models, fit: Fit, item: Item, share: float) -> _Case | None:
    reading = read_document(models, item)
    inputs = inputs_of(models, fit, reading, cut_at(share, item))
    return None if inputs is None else _Case(reading.own, inputs, reading.own.logits[inputs.cut :])


def _trained(models: Models, source: Source, name: str, cases: Sequence[_Case], step) -> Correction:
    student, problems = models.student, list(source.maps)
    order = np.random.default_rng(models.settings.seed).permutation(len(cases))
    count = len(cases) // STOPPING
    stopping, training = ([_normal(cases[at]) for at in places] for places in (order[:count], order[count:]))

    def side_by_side(case: _Case, problem: Problem) -> torch.Tensor:
        return torch.cat(case.inputs.features[source.features][problem], dim=1).float()

    features: dict[Problem, torch.Tensor] = {}
    known: dict[tuple[int, ...], torch.Tensor] = {}
    for problem in problems:
        key = tuple(id(x) for x in training[0].inputs.features[source.features][problem])
        if key not in known:
            known[key] = torch.cat([side_by_side(case, problem) for case in training])
        features[problem] = known[key]
    base = {id(case): _base(source, case) for case in (*training, *stopping)}
    targets = {p: torch.cat([base[id(case)][p] for case in training]) for p in problems}
    correction = Correction(features, targets)
    optimizer = torch.optim.Adam(correction.parameters(), lr=RATE)

    def kl(case: _Case) -> torch.Tensor:
        classes = case.inputs.row_classes[0]
        rows = {p: base[id(case)][p] + correction(p, side_by_side(case, p), classes) for p in problems}
        return _kl(student, case, rows)

    def stopped_by() -> float:
        with torch.no_grad():
            return sum(float(kl(case)) for case in stopping)

    best, best_state, since = stopped_by(), {n: p.detach().clone() for n, p in correction.state_dict().items()}, 0
    total = EPOCHS * len(training)
    for epoch in range(EPOCHS):
        for number, at in enumerate(torch.randperm(len(training), generator=_generator(models, epoch)).tolist()):
            step(epoch * len(training) + number, total)
            optimizer.zero_grad()
            kl(training[at]).backward()
            optimizer.step()
        reached = stopped_by()
        since += 1
        if reached < best:
            best, since = reached, 0
            best_state = {n: p.detach().clone() for n, p in correction.state_dict().items()}
        if since >= PATIENCE:
            break
    correction.load_state_dict(best_state)
    step(total, total)
    return correction.requires_grad_(False)


def _generator(models: Models, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(models.settings.seed * 1009 + epoch)


def _base(source: Source, case: _Case) -> dict[Problem, torch.Tensor]:
    """The rows [N, Q] of the source itself."""
    features = case.inputs.features[source.features]
    return {p: source.predict(p, features[p], case.inputs.row_classes).detach() for p in source.maps}


def _kl(student, case: _Case, rows: dict[Problem, torch.Tensor]) -> torch.Tensor:
    """KL(own || replaced) per token of the continuation, in nats, special tokens left out."""
    own, cut = case.own, case.inputs.cut
    steps = case.inputs.picked[0].student[1]
    cached = {
        p: own.as_cached(p, x.unflatten(1, target_shape(student.geometry, *p)).transpose(0, 1), steps)
        for p, x in rows.items()
    }
    cache = prefix_cache(student, own, cut, steps, [Variant("refined", cached)])
    with student.lock:
        logits = student.model(input_ids=own.ids[:, cut:], **cache_names.passing(student.model, cache)).logits[0]
    predicted = ~torch.from_numpy(own.tokens.special[cut + 1 :]).to(logits.device)
    p, q = (x[:-1][predicted].float().log_softmax(-1) for x in (case.logits, logits))
    return (p.exp() * (p - q)).sum(-1).mean()


def _normal(case: _Case) -> _Case:
    """The same in tensors that autograd may save, which those made in inference mode may not be."""
    own = case.own
    rotations = {p: replace(turn, cos=turn.cos.clone(), sin=turn.sin.clone()) for p, turn in own.rotations.items()}
    stored = {p: x.clone() for p, x in own.stored.items()}
    normal = replace(own, ids=own.ids.clone(), stored=stored, rotations=rotations)
    inputs, known = case.inputs, {}

    def clone(x: torch.Tensor) -> torch.Tensor:
        return known.setdefault(id(x), x.clone())  # layers that read the same features still share them

    features = {
        name: {problem: [clone(x) for x in of_teachers] for problem, of_teachers in by_problem.items()}
        for name, by_problem in inputs.features.items()
    }
    normal_inputs = replace(inputs, row_classes=[x.clone() for x in inputs.row_classes], features=features)
    return _Case(normal, normal_inputs, case.logits.clone())
