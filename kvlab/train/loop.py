"""Run training steps of micro-batches on Accelerate, each a line of metrics, and evaluate on held-out documents."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from kvlab.align.items import Item
from kvlab.align.shared_text import repeated_steps
from kvlab.results.training.records import BY_DOCUMENT
from kvlab.runs.failures import NotFinite
from kvlab.train import collapse
from kvlab.train.collapse import MOMENTS, Moments
from kvlab.train.data import Data
from kvlab.train.learner import Learner
from kvlab.train.targets import Teachers, variances

Line = dict[str, float | int | list[float] | None]
Alike = dict[str, list[tuple[int, ...]]]  # by kind, the groups of layers computed together
ERRORS = ("kv_key", "kv_value", "kv_output")  # the last only where the loss is on head outputs
TERMS = ("loss", "ce", *ERRORS, "entropy")


@dataclass(frozen=True)
class Objective:
    """loss = ce + lambda_key * kv_key + lambda_value * kv_value + entropy_weight * entropy.

    On head outputs lambda_output * kv_output stands for the two terms of keys and values.
    """

    lambda_key: float
    lambda_value: float
    entropy: float  # negative: spread over the teachers
    with_ce: bool  # False where the student is frozen
    lambda_output: float = 0.0

    @property
    def learns_kv(self) -> bool:
        return max(self.lambda_key, self.lambda_value, self.lambda_output) > 0

    def terms(self, sums: dict[str, torch.Tensor], tokens: int, rows: int) -> dict[str, torch.Tensor]:
        """Return the mean of every term, and ``loss``. ``fit`` trains projector and router and is no part of it."""
        zero = sums["ce"].new_zeros(())
        terms = {"ce": sums["ce"] / tokens}
        for name in ERRORS:
            terms[name] = sums.get(name, zero) / rows
        terms["entropy"] = sums.get("entropy", zero) / rows
        lambdas = self.lambda_key, self.lambda_value, self.lambda_output
        weights = dict(zip(ERRORS, lambdas, strict=True)) | {"entropy": self.entropy}
        terms["loss"] = sum(weight * terms[name] for name, weight in weights.items())
        if self.with_ce:
            terms["loss"] = terms["loss"] + terms["ce"]
        fit = [weights[name] * sums.get(name.replace("kv", "fit"), zero) / rows for name in ERRORS]
        terms["fit"] = sum(f if f.requires_grad else f.detach() * 0 for f in fit)
        return terms


@dataclass
class Loop:
    """The steps of one run. ``learner`` and ``optimizer`` are as Accelerate prepared them."""

    accelerator: Accelerator
    learner: torch.nn.Module
    optimizer: torch.optim.Optimizer
    teachers: Teachers
    data: Data
    objective: Objective
    rates: Sequence[float]  # of the optimiser's groups, before the schedule (a checkpoint holds them after it)
    schedule: Callable[[int], float]  # step -> factor of the rates
    max_grad_norm: float

    def __post_init__(self) -> None:
        self._trained = [p for p in self.learner.parameters() if p.requires_grad]
        self._variances = variances(self.teachers.fitted)
        self._alike = self.accelerator.unwrap_model(self.learner).alike

    def step(self, number: int) -> Line:
        """Run optimiser step ``number`` (from 1) and return its line. Raises NotFinite before it changes any weight."""
        started = time.perf_counter()
        accelerator = self.accelerator
        everyone = [item for micro in self.data.step(number - 1) for item in micro]
        tokens, rows = predicted(everyone), sum(map(self.teachers.rows, everyone))
        # backward() divides by the accumulation steps and DDP by the processes, but our means are over all of them.
        share = accelerator.gradient_accumulation_steps * accelerator.num_processes
        for group, rate in zip(self.optimizer.param_groups, self.rates):
            group["lr"] = rate * self.schedule(number)
        self.learner.train()
        sums: dict[str, torch.Tensor] = {}
        micros = self.data.step(number - 1, accelerator.process_index, accelerator.num_processes)
        for micro in micros:
            batch = self.teachers.batch(micro, accelerator.device, self.objective.learns_kv, number)
            with accelerator.accumulate(self.learner):
                micro_sums = self.learner(batch)
                terms = self.objective.terms(micro_sums, max(tokens, 1), max(rows, 1))
                accelerator.backward((terms["loss"] + terms["fit"]) * share)
                _add(sums, micro_sums)
                norm = None
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self._trained, self.max_grad_norm)
                    line = self._line(number, accelerator.reduce(sums, "sum"), tokens, rows, norm)
                    self._check(line)
                self.optimizer.step()
                self.optimizer.zero_grad()
        seconds = time.perf_counter() - started
        tokens_read = sum(len(item.student) for item in everyone)
        line |= {"tokens": tokens_read, "seconds": round(seconds, 4), "tokens_per_s": round(tokens_read / seconds, 1)}
        if accelerator.scaler is not None and not math.isfinite(line["grad_norm"]):
            # The float16 scaler searches for its scale, so an overflow is no NaN of the run. Accelerate does not notice
            # it and still calls a fused optimiser, which skips the step by itself.
            line |= {"skipped": True, "grad_norm": None}
        return line

    def _line(self, number: int, sums: dict[str, torch.Tensor], tokens: int, rows: int, norm: torch.Tensor) -> Line:
        terms = self.objective.terms(sums, max(tokens, 1), max(rows, 1))
        wanted = {name: terms[name] for name in TERMS} | spread(sums, self._alike) | {"grad_norm": norm}
        if "weights" in sums:
            wanted["router"] = sums["weights"] / max(rows, 1)
        values = fetched(wanted)
        with_kv = "kv_key" in sums
        line: Line = {"step": number}
        for name in TERMS:
            line[name] = values[name][0] if with_kv or not name.startswith(("kv", "entropy")) else None
        if "kv_output" not in sums:
            del line["kv_output"]
        line |= {"lr": self.optimizer.param_groups[0]["lr"], "grad_norm": values["grad_norm"][0]}
        line |= lowest(values, self._alike, self._variances)
        return line | {"router": values["router"]} if "router" in values else line

    def _check(self, line: Line) -> None:
        names = ["loss", "ce", *(name for name in ERRORS if name in line)]
        if self.accelerator.scaler is None:  # the scaler skips a step whose gradients overflow
            names.append("grad_norm")
        wrong = [name for name in names if line[name] is not None and not math.isfinite(line[name])]
        if wrong:
            raise NotFinite(line["step"], wrong, line)


def predicted(items: Sequence[Item]) -> int:
    """Count the tokens that count and that an earlier token predicts."""
    return sum(int((~repeated_steps(item.student, item.repeated))[1:].sum()) for item in items)


def spread(sums: dict[str, torch.Tensor], alike: Alike) -> dict[str, torch.Tensor]:
    """Return ``variance_KIND`` and ``rank_KIND`` [L] of the student's K and V, in the order of ``alike``."""
    measures = {}
    for kind, groups in alike.items():
        covariances = []
        for group in groups:
            moments = Moments(*(sums[f"moments.{kind}.{group[0]}.{name}"] for name in MOMENTS))
            covariances.append(moments.covariance())
        measures[f"variance_{kind}"] = torch.cat([collapse.variance(covariance) for covariance in covariances])
        measures[f"rank_{kind}"] = torch.cat([collapse.effective_rank(covariance) for covariance in covariances])
    return measures


def lowest(measures: dict[str, list[float]], alike: Alike, before: dict[tuple[str, int], float]) -> Line:
    """Return variance over that before training, and effective rank, each of the layer nearest to collapse."""
    line: Line = {}
    for kind, groups in alike.items():
        layers = [layer for group in groups for layer in group]
        ratios = [now / before[kind, layer] for now, layer in zip(measures[f"variance_{kind}"], layers, strict=True)]
        # Unlike min, numpy's min returns NaN if there is one.
        line[f"variance_ratio_{kind}"] = float(np.min(ratios))
        line[f"effective_rank_{kind}"] = float(np.min(measures[f"rank_{kind}"]))
    return line


def fetched(wanted: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """Fetch all values in one transfer, because each transfer waits for the device."""
    flat = iter(torch.cat([x.detach().float().flatten() for x in wanted.values()]).tolist())
    return {name: [next(flat) for _ in range(x.numel())] for name, x in wanted.items()}


@torch.no_grad()
def evaluate(
    learner: Learner,
    teachers: Teachers,
    items: Sequence[Item],
    batch_size: int,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Measure held-out cross-entropy (nats per token) and KV errors over whole documents, as the loss does.

    ``ce_by_document`` holds the nats and the predicted tokens of each document, for differences between runs;
    ``accuracy`` is the share of right answers of the documents that have one, ``answers`` their number.
    """
    learner.eval()
    sums: dict[str, torch.Tensor] = {}
    each = []
    for done in range(0, len(items), batch_size):
        progress(done, len(items))
        batch_sums = learner(teachers.batch(items[done : done + batch_size], device))
        each.append(batch_sums.pop(BY_DOCUMENT))
        _add(sums, batch_sums)
    progress(len(items), len(items))
    tokens, rows = predicted(items), sum(map(teachers.rows, items))
    errors = [name for name in ERRORS if name in sums]
    answered = [name for name in ("answers", "right") if name in sums]
    measured = {name: sums[name] for name in ("ce", *errors, *answered)} | {BY_DOCUMENT: torch.cat(each)}
    values = fetched(measured | spread(sums, learner.alike))
    means = {"ce": values["ce"][0] / max(tokens, 1)}
    means |= {name: values[name][0] / max(rows, 1) for name in errors}
    counts = {"documents": len(items), "tokens": tokens, "rows": rows}
    counts[BY_DOCUMENT] = [[nats, predicted([item])] for nats, item in zip(values[BY_DOCUMENT], items, strict=True)]
    if answered and (answers := round(values["answers"][0])):
        means["accuracy"] = values["right"][0] / answers
        counts["answers"] = answers
    return means | lowest(values, learner.alike, variances(teachers.fitted)) | counts


def _add(sums: dict[str, torch.Tensor], more: dict[str, torch.Tensor]) -> None:
    for name, value in more.items():
        sums[name] = sums[name] + value.detach() if name in sums else value.detach()


def warm_then_fall(warmup: float, max_steps: int) -> Callable[[int], float]:
    """Return step (from 1) -> factor of the rate: linear up over the share ``warmup``, then a cosine down to 0.1."""
    rising = max(1, round(warmup * max_steps))

    def factor(step: int) -> float:
        if step <= rising:
            return step / rising
        share = (step - rising) / max(1, max_steps - rising)
        return 0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2

    return factor
