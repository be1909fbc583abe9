"""The correction of a map that the student itself teaches, and its loss: KL(own || replaced) of one document."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from kvlab.align.rows import LAST_CLASS
from kvlab.align.shapes import target_shape
from kvlab.inject.continuation import Variant, prefix_cache
from kvlab.inject.fit import Source
from kvlab.inject.own import Own, Problem
from kvlab.inject.prefix import Inputs
from kvlab.models import cache_names
from kvlab.request.inject import COMPONENTS


@dataclass(frozen=True, eq=False)
class Case:
    """One fitted document, cut in two."""

    own: Own
    inputs: Inputs
    steps: torch.Tensor  # [N] the replaced ones
    logits: torch.Tensor  # [T - cut, V] of the own cache


class Correction(nn.Module):
    """A correction [N, Q] of every kind and layer from the features of a source, zero at the start."""

    def __init__(self, features: dict[Problem, torch.Tensor], targets: dict[Problem, torch.Tensor]):
        """``features`` [N, P] and ``targets`` [N, Q] of the documents that it is trained on."""
        super().__init__()
        self.weights = nn.ParameterDict()
        self._number = {problem: number for number, problem in enumerate(targets)}
        self._set: dict[Problem, int] = {}  # of features
        self.register_buffer("scale", torch.stack([y.std() for y in targets.values()]))
        known: dict[int, int] = {}
        for problem, x in features.items():
            if id(x) not in known:  # layers that read the same features share them
                known[id(x)] = len(known)
                for name, part in zip(("mean", "basis"), _whitening(x)):
                    self.register_buffer(f"{name}_{known[id(x)]}", part)
            self._set[problem] = known[id(x)]
            shape = LAST_CLASS + 1, self.whitening(problem)[1].shape[1], targets[problem].shape[1]
            self.weights[name_of(problem)] = nn.Parameter(torch.zeros(shape, device=x.device))

    def whitening(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean [P] and the whitened directions [P, C] of what a problem reads."""
        return tuple(self.get_buffer(f"{name}_{self._set[problem]}") for name in ("mean", "basis"))

    def forward(self, problem: Problem, x: torch.Tensor, row_classes: torch.Tensor) -> torch.Tensor:
        mean, basis = self.whitening(problem)
        z, weights = (x.float() - mean) @ basis, self.weights[name_of(problem)]
        by_class = torch.stack([z @ weight for weight in weights])  # [C, N, Q]
        return self.scale[self._number[problem]] * by_class[row_classes, torch.arange(len(x), device=x.device)]


def _whitening(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean [P], and the principal directions over their standard deviations [P, at most COMPONENTS]."""
    mean = x.mean(0, dtype=torch.float64)
    x = x.to(torch.float64, copy=True).sub_(mean)
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    kept = values[-COMPONENTS:].clamp(min=1e-6 * float(values[-1]))
    return mean.float(), (vectors[:, -COMPONENTS:] / kept.sqrt()).float()


def name_of(problem: Problem) -> str:
    return f"{problem[0]}_{problem[1]}"


def base_of(source: Source, case: Case) -> dict[Problem, torch.Tensor]:
    """The rows [N, Q] of the source itself."""
    features = case.inputs.features[source.features]
    return {p: source.predict(p, features[p], case.inputs.row_classes).detach() for p in source.maps}


def replaced_kl(student, case: Case, rows: dict[Problem, torch.Tensor]) -> torch.Tensor:
    """KL(own || replaced) per token of the continuation, in nats, special tokens left out."""
    own, cut, steps = case.own, case.inputs.cut, case.steps
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


def normal(case: Case) -> Case:
    """The same in tensors that autograd may save, which those made in inference mode may not be.

    It leaves out what no pass needs: documents are held until the end, and the logits of all their tokens are large.
    """
    own = case.own
    rotations = {p: replace(turn, cos=turn.cos.clone(), sin=turn.sin.clone()) for p, turn in own.rotations.items()}
    stored = {p: x.clone() for p, x in own.stored.items()}
    made = {"ids": own.ids.clone(), "stored": stored, "rotations": rotations}
    kept = replace(own, **made, compared={}, logits=own.logits[:0].clone())
    inputs, known = case.inputs, {}

    def clone(x: torch.Tensor) -> torch.Tensor:
        return known.setdefault(id(x), x.clone())  # layers that read the same features still share them

    features = {
        name: {problem: [clone(x) for x in of_teachers] for problem, of_teachers in by_problem.items()}
        for name, by_problem in inputs.features.items()
    }
    normal_inputs = replace(inputs, row_classes=[x.clone() for x in inputs.row_classes], features=features)
    return Case(kept, normal_inputs, case.steps.clone(), case.logits.clone())
