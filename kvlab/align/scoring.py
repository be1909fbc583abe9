"""Sums -> held-out scores of every student head beside their controls, and the map fitted on everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from kvlab.align import heads as head_maps
from kvlab.align import metrics
from kvlab.align.accumulate import AlignSums
from kvlab.align.controls import Controls
from kvlab.align.crossfit import (
    CrossFit,
    crossfit_fixed,
    crossfit_ridge,
    scored_apart,
    teacher_head_contributions,
)
from kvlab.align.layers import Choice
from kvlab.align.shapes import common_width, feature_shape, target_shape
from kvlab.align.statistics import Centred, about_own_mean
from kvlab.align.sums import SINK, SPECIAL, Pairing, total
from kvlab.results import HeadScore
from kvlab.types import KINDS, Geometry, HeadMap, Progress

STRUCTURED_PENALTY = 1e-4  # relative to the mean variance of a feature; only keeps the solves well posed


@dataclass
class Scored:
    heads: list[HeadScore] = field(default_factory=list)
    maps: dict[str, HeadMap] = field(default_factory=dict)  # fitted on every document
    fits: dict[tuple[str, int], CrossFit] = field(default_factory=dict)  # by kind and student layer position
    contributions: dict[str, np.ndarray] = field(default_factory=dict)  # [Ls, Hs, Ht]


def score(
    sums: AlignSums,
    controls: Controls,
    whole_sample: bool,
    teacher: Geometry,
    student: Geometry,
    projector: str,
    progress: Progress,
) -> Scored:
    """The user's projector, and ridge on token identity. ``whole_sample``: the controls' rows are all rows."""
    layers = len(student.kv_layers)
    scored = Scored(maps={kind: HeadMap(projector, kind, [], []) for kind in KINDS})
    most_s, most_t = (max(shape[0] for shape in g.layer_shapes) for g in (student, teacher))
    progress("fitting and scoring heads", 0, (layers + 1) * len(KINDS))
    identity = identity_fits(sums)
    for number, (kind, layer) in enumerate((kind, layer) for kind in KINDS for layer in range(layers)):
        progress("fitting and scoring heads", number + len(KINDS), (layers + 1) * len(KINDS))
        pairing, choice = sums.pairing(kind, layer), sums.choices[kind][layer]
        heads, _ = target_shape(student, kind, layer)
        ridge = controls.teacher[kind, layer] if whole_sample else crossfit_ridge(pairing, heads)
        penalty = float(ridge.penalties.log().mean().exp())
        width_t = 0 if projector == "ridge" else common_width(teacher, kind, choice.union)
        solve = _solver(projector, width_t, heads, penalty)
        chosen = ridge if projector == "ridge" else crossfit_fixed(pairing, heads, solve)
        grouped = _group_mean(pairing, choice, teacher, kind, heads)

        scored.fits[kind, layer] = chosen
        scored.heads += _head_scores(
            (kind, layer), student.kv_layers[layer], chosen, identity[kind, layer], grouped, controls, pairing
        )
        parts = teacher_head_contributions(pairing, heads, _head_blocks(teacher, kind, choice), penalty)
        for name in ("without", "alone"):
            array = scored.contributions.setdefault(
                f"contribution.{kind}.{name}", np.full((layers, most_s, most_t), np.nan)
            )
            values = getattr(parts, name).cpu().numpy()
            array[layer, : values.shape[0], : values.shape[1]] = values
        _append_full_map(scored.maps[kind], pairing, choice, solve)
    progress("fitting and scoring heads", (layers + 1) * len(KINDS), (layers + 1) * len(KINDS))
    return scored


def identity_fits(sums: AlignSums) -> dict[tuple[str, int], CrossFit]:
    """Ridge from the token embedding onto every student layer, those of one head width in one problem."""
    fits = {}
    for (kind, width), layers in sums.identity_layers.items():
        pairing = sums.identity(kind, width)
        heads = [len(sums.targets[kind, layer].pilots[1]) // width for layer in layers]
        together, first = crossfit_ridge(pairing, sum(heads)), 0
        for layer, count in zip(layers, heads):
            fits[kind, layer] = together.select(first, count)
            first += count
    return fits


def _solver(projector: str, width_t: int, heads_s: int, penalty: float) -> Callable[[Centred], torch.Tensor]:
    """Training sums -> W [P, Q]."""

    def solve(train: Centred) -> torch.Tensor:
        if projector == "ridge":
            return head_maps.ridge(train, head_maps.absolute_penalty(train, penalty))
        heads_t, width_s = train.xx.shape[0] // width_t, train.xy.shape[1] // heads_s
        if projector == "structured":
            return head_maps.structured(train, heads_t, heads_s, head_maps.absolute_penalty(train, STRUCTURED_PENALTY))
        return head_maps.group_mean_matrix(heads_t, heads_s, width_t, width_s).to(train.xx)

    return solve


def _group_mean(pairing: Pairing, choice: Choice, teacher: Geometry, kind: str, heads_s: int) -> CrossFit:
    """Nothing fitted: contiguous groups averaged, and the mean of that over the teacher layers of a fold."""
    shapes = [feature_shape(teacher, kind, layer) for layer in choice.union]

    def solve_all(train: Centred) -> torch.Tensor:
        width_s = train.xy.shape[1] // heads_s
        by_layer = [head_maps.group_mean_matrix(h, heads_s, d, width_s) for h, d in shapes]
        return torch.cat(by_layer).to(train.xx) / len(shapes)

    return crossfit_fixed(Pairing(pairing.features, pairing.targets), heads_s, solve_all)


def _head_blocks(teacher: Geometry, kind: str, choice: Choice) -> list[torch.Tensor]:
    """The features of each teacher head: its channels in every layer of the union."""
    blocks: dict[int, list[torch.Tensor]] = {}
    first = 0
    for layer in choice.union:
        heads, width = feature_shape(teacher, kind, layer)
        for head in range(heads):
            blocks.setdefault(head, []).append(torch.arange(first, first + width))
            first += width
    return [torch.cat(blocks[head]) for head in sorted(blocks)]


def _head_scores(
    problem: tuple[str, int],
    layer: int,
    chosen: CrossFit,
    identity: CrossFit,
    grouped: CrossFit,
    controls: Controls,
    pairing: Pairing,
) -> list[HeadScore]:
    r2, se = _with_error(chosen)
    on_sample, shuffled, random = (fits.get(problem) for fits in (controls.teacher, controls.shuffled, controls.random))
    by_identity, identity_se = _with_error(identity)
    gain, gain_se = _difference(chosen, identity)
    by_shuffled, shuffled_se = _with_error(shuffled)
    by_random, random_se = _with_error(random) if random else _unknown(r2)
    gain_random, gain_random_se = _difference(on_sample, random) if random else _unknown(r2)
    sink, n_sink = scored_apart(chosen, pairing, SINK)
    special, n_special = scored_apart(chosen, pairing, SPECIAL)
    standardised = metrics.per_head_mean(chosen.channel_rss.sum(0) / chosen.channel_tss.sum(0), chosen.heads)
    columns = {
        "r2": r2,
        "error": 1 - r2,
        "cosine": chosen.cosine,
        "r2_shuffled": by_shuffled,
        "r2_identity": by_identity,
        "se": se,
        "gain": gain,
        "gain_se": gain_se,
        "error_standardised": standardised,
        "shuffled_se": shuffled_se,
        "identity_se": identity_se,
        "r2_group_mean": grouped.r2,
        "r2_random": by_random,
        "random_se": random_se,
        "gain_random": gain_random,
        "gain_random_se": gain_random_se,
        "error_sink": sink,
        "error_special": special,
    }
    values = {name: column.tolist() for name, column in columns.items()}
    counts = {
        "n": int(chosen.n.sum()),
        "n_control": int(shuffled.n.sum()),
        "n_sink": n_sink,
        "n_special": n_special,
    }
    return [
        HeadScore(problem[0], layer, head, **{name: column[head] for name, column in values.items()}, **counts)
        for head in range(chosen.heads)
    ]


def _with_error(fit: CrossFit) -> tuple[torch.Tensor, torch.Tensor]:
    """R^2 [H] and its standard error, over the folds that are scored (others hold calibration documents only)."""
    held = fit.n > 0
    return fit.r2, metrics.jackknife(fit.rss[held], fit.tss[held])


def _difference(fit: CrossFit, control: CrossFit) -> tuple[torch.Tensor, torch.Tensor]:
    """R^2 of a fit less that of a control on the same rows [H], and its standard error."""
    held = fit.n > 0
    less_rss = fit.rss[held] - control.rss[held]  # 1 - its ratio to TSS differs from the gain by a constant
    return fit.r2 - control.r2, metrics.jackknife(less_rss, fit.tss[held])


def _unknown(like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full_like(like, float("nan")), torch.full_like(like, float("nan"))


def _append_full_map(head_map: HeadMap, pairing: Pairing, choice: Choice, solve: Callable) -> None:
    """The map of the layers chosen on all folds, fitted on every document."""
    fit_x, fit_y = pairing.features.fit(), pairing.targets.fit()
    everything = about_own_mean(total(fit_x), total(fit_y))
    columns = choice.columns(choice.overall)
    weights = solve(everything.features(columns))
    mean_x = (everything.mean_x + fit_x[0].pilot)[columns]
    bias = everything.mean_y + fit_y[0].pilot_y - weights.T @ mean_x
    head_map.weights.append(weights.float().cpu())
    head_map.biases.append(bias.float().cpu())
