"""Compute errors per layer and KV head from sums of single documents, with standard errors and controls."""

from collections.abc import Sequence

import torch

from kvlab.align import metrics
from kvlab.align.crossfit import CONSTANT
from kvlab.align.shapes import target_shape
from kvlab.inject.attention import Heard
from kvlab.inject.own import Problem
from kvlab.inject.prefix import Prefix, Reading
from kvlab.results.function.data import COMPARED, AttentionError, Projected
from kvlab.shapes import KINDS, Geometry

PARTS = (*KINDS, "both")  # the replaced part of the cache


def attention_errors(documents: Sequence[Heard], student: Geometry) -> list[AttentionError]:
    """Return RSS / TSS of the heads' outputs over all judged queries; TSS about their mean own output."""
    n = sum(d.n for d in documents)
    names = list(documents[0].variants)
    unknown = (float("nan"), float("nan"))
    errors = []
    for position, layer in enumerate(student.kv_layers):
        mean = sum(d.total[position] for d in documents) / n  # [Hq, D]
        tss = torch.stack(
            [
                d.squares[position] - 2 * (mean * d.total[position]).sum(1) + d.n * mean.square().sum(1)
                for d in documents
            ]
        )  # [documents, Hq]
        tss = _varying(tss, sum(d.squares[position] for d in documents))
        heads = student.layer_shapes[position][0]
        for kind in PARTS:
            at = kind, position
            by_variant = {name: torch.stack([d.variants[name].rss[at] for d in documents]) for name in names}
            with_kl = names if kind != "value" else ()
            divergence = {name: torch.stack([d.variants[name].kl[at] for d in documents]) for name in with_kl}
            counts = torch.tensor([d.n for d in documents], dtype=torch.float64, device=tss.device)[:, None]
            for head in range(heads):
                group = slice(head * tss.shape[1] // heads, (head + 1) * tss.shape[1] // heads)
                errors_of = {name: _ratio(rss[:, group], tss[:, group]) for name, rss in by_variant.items()}
                size = group.stop - group.start
                kl = {name: _ratio(sums[:, group], counts.expand(-1, size)) for name, sums in divergence.items()}
                numbers = (*errors_of["projected"], *kl.get("projected", unknown))
                controls = {name: errors_of[name][0] for name in COMPARED if name in errors_of}
                controls_kl = {name: kl[name][0] for name in COMPARED if name in kl}
                query_heads = (by_variant["projected"].sum(0) / tss.sum(0))[group].tolist()
                cosines = {name: _mean_cosine(documents, name, at, group) for name in names}
                of_controls = controls, controls_kl, query_heads
                errors.append(AttentionError(kind, layer, head, *numbers, *of_controls, n, cosines))
    return errors


def _mean_cosine(documents: Sequence[Heard], variant: str, at: Problem, group: slice) -> float:
    """Return the mean cosine of own and injected output over all queries of the query heads of a group."""
    sums = sum(document.variants[variant].cosine[at][group] for document in documents)
    return float(sums.mean() / sum(document.n for document in documents))


def _varying(tss: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
    """Return TSS [documents, heads], NaN for a head that does not vary: its variance is only rounding of its energy."""
    return tss.masked_fill(tss.sum(0) <= CONSTANT * energy, float("nan"))


def _ratio(sums: torch.Tensor, counts: torch.Tensor) -> tuple[float, float]:
    """Return the ratio of the totals and its standard error; both arguments are [documents, several heads]."""
    sums, counts = sums.sum(1, keepdim=True), counts.sum(1, keepdim=True)
    return float(sums.sum() / counts.sum()), float(metrics.jackknife(sums, counts)[0])


class ProjectionSums:
    """RSS and TSS of every source on the replaced rows, per document and head.

    TSS is about the student's mean on the fitted rows of each row's class.
    """

    def __init__(self, student: Geometry):
        self.student, self.n = student, 0
        self.rss: dict[tuple[str, Problem], list[torch.Tensor]] = {}
        self.tss: dict[Problem, list[torch.Tensor]] = {}
        self.energy: dict[Problem, torch.Tensor] = {}

    def add(self, reading: Reading, prefix: Prefix) -> None:
        self.n += len(prefix.rows)
        for problem, x in reading.own.compared.items():
            own = x[:, prefix.rows].double()  # [H, N, D]
            by_row = prefix.mean[problem].double().unflatten(-1, target_shape(self.student, *problem)).transpose(0, 1)
            self.energy[problem] = self.energy.get(problem, 0.0) + own.square().sum((1, 2))
            self.tss.setdefault(problem, []).append((own - by_row).square().sum((1, 2)))
            for source, replacement in prefix.compared.items():
                rss = (own - replacement[problem].double()).square().sum((1, 2))
                self.rss.setdefault((source, problem), []).append(rss)

    def errors(self) -> list[Projected]:
        rows = []
        for (kind, position), tss in self.tss.items():
            total = _varying(torch.stack(tss), self.energy[kind, position])  # [documents, H]
            sums = {source: torch.stack(r) for (source, problem), r in self.rss.items() if problem == (kind, position)}
            se = metrics.jackknife(sums["projected"], total)
            errors = {source: rss.sum(0) / total.sum(0) for source, rss in sums.items()}
            for head in range(total.shape[1]):
                controls = {name: float(errors[name][head]) for name in COMPARED if name in errors}
                error = float(errors["projected"][head])
                layer = self.student.kv_layers[position]
                rows.append(Projected(kind, layer, head, error, float(se[head]), controls, self.n))
        return rows
