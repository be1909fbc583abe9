"""Sums -> held-out scores of every student head beside their controls, and the map fitted on everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from kvlab.align import heads as head_maps
from kvlab.align import metrics
from kvlab.align.accumulate import Pairing, Sums
from kvlab.align.crossfit import (
    CrossFit,
    FoldSums,
    crossfit_fixed,
    crossfit_ridge,
    teacher_head_contributions,
)
from kvlab.align.statistics import Centred, Outputs, about_own_mean
from kvlab.results import HeadScore
from kvlab.types import KINDS, Geometry, HeadMap, LayerMap, Progress

STRUCTURED_PENALTY = 1e-4  # relative to the mean variance of a feature; only keeps the solves well posed


@dataclass
class Scored:
    heads: list[HeadScore] = field(default_factory=list)
    maps: dict[str, HeadMap] = field(default_factory=dict)  # fitted on every document
    fits: dict[tuple[str, int], CrossFit] = field(default_factory=dict)  # by kind and student layer position
    contributions: dict[str, np.ndarray] = field(default_factory=dict)  # [Ls, Hs, Ht]


def score(
    sums: Sums, teacher: Geometry, student: Geometry, layer_map: LayerMap, projector: str, progress: Progress
) -> Scored:
    """The user's projector, with ridge on shuffled rows and on token identity as its controls."""
    heads_t, heads_s, layers = teacher.kv_heads, student.kv_heads, len(student.kv_layers)
    scored = Scored(maps={kind: HeadMap(projector, kind, [], []) for kind in KINDS})
    total = len(sums.pairings) + len(KINDS)
    identity = {}
    for done, kind in enumerate(KINDS):
        progress("fitting and scoring heads", done, total)
        identity[kind] = crossfit_ridge(sums.identity, sums.identity_targets[kind], layers * heads_s)
    for done, ((kind, layer), pairing) in enumerate(sorted(sums.pairings.items()), len(KINDS)):
        progress("fitting and scoring heads", done, total)
        blocks = heads_t * len(layer_map.teacher_layers[layer])
        real = _first_columns(pairing.targets, len(pairing.targets.make().pilot_y) // 2)
        ridge = crossfit_ridge(pairing.features, pairing.targets, 2 * heads_s)
        penalty = float(ridge.penalties[:, :heads_s].log().mean().exp())
        solve = _solver(projector, blocks, heads_s, penalty)
        chosen = ridge if projector == "ridge" else crossfit_fixed(pairing.features, real, heads_s, solve)

        scored.fits[kind, layer] = chosen
        scored.heads += _head_scores(
            kind, student.kv_layers[layer], chosen, ridge, identity[kind].heads(layer * heads_s, heads_s), heads_s
        )
        parts = teacher_head_contributions(pairing.features, real, heads_s, blocks, penalty)
        for name in ("without", "alone"):
            array = scored.contributions.setdefault(f"contribution.{kind}.{name}", np.zeros((layers, heads_s, heads_t)))
            # Several teacher layers side by side: a head's share is its best layer's.
            array[layer] = getattr(parts, name).cpu().reshape(heads_s, -1, heads_t).amax(1).numpy()
        _append_full_map(scored.maps[kind], pairing, real, solve)
    progress("fitting and scoring heads", total, total)
    return scored


def _solver(projector: str, heads_t: int, heads_s: int, penalty: float) -> Callable[[Centred], torch.Tensor]:
    """Training sums -> W [P, Q]."""

    def solve(train: Centred) -> torch.Tensor:
        if projector == "ridge":
            return head_maps.ridge(train, head_maps.absolute_penalty(train, penalty))
        if projector == "structured":
            return head_maps.structured(train, heads_t, heads_s, head_maps.absolute_penalty(train, STRUCTURED_PENALTY))
        width_t, width_s = train.xx.shape[0] // heads_t, train.xy.shape[1] // heads_s
        return head_maps.group_mean_matrix(heads_t, heads_s, width_t, width_s).to(train.xx)

    return solve


def _first_columns(outputs: FoldSums, columns: int) -> FoldSums:
    """The same sums for the first columns of Y only (the real targets, without the shuffled ones)."""

    def cut(o: Outputs) -> Outputs:
        return Outputs(
            o.pilot_x, o.pilot_y[:columns], o.n, o.total[:columns], o.cross[:, :columns], o.squares[:columns]
        )

    kept = FoldSums(lambda: cut(outputs.make()), outputs.folds)
    kept.parts = {part: [cut(o) for o in sums] for part, sums in outputs.parts.items()}
    return kept


def _head_scores(
    kind: str, layer: int, chosen: CrossFit, ridge: CrossFit, identity: CrossFit, heads_s: int
) -> list[HeadScore]:
    held = chosen.n > 0  # a fold may hold calibration documents only
    rss, tss = chosen.rss[held, :heads_s], chosen.tss[held, :heads_s]
    r2 = metrics.r_squared(rss.sum(0), tss.sum(0))
    se = metrics.jackknife(rss, tss)
    gain_se = metrics.jackknife(rss - identity.rss[held], tss)  # 1 - this ratio differs from the gain by a constant
    shuffled, by_identity = ridge.r2[heads_s:], identity.r2
    return [
        HeadScore(
            kind=kind,
            layer=layer,
            head=head,
            r2=float(r2[head]),
            error=float(1 - r2[head]),
            cosine=float(chosen.cosine[head]),
            r2_shuffled=float(shuffled[head]),
            r2_identity=float(by_identity[head]),
            n=int(chosen.n.sum()),
            se=float(se[head]),
            gain=float(r2[head] - by_identity[head]),
            gain_se=float(gain_se[head]),
        )
        for head in range(heads_s)
    ]


def _append_full_map(head_map: HeadMap, pairing: Pairing, real: FoldSums, solve: Callable) -> None:
    fit_x, fit_y = pairing.features.fit(), real.fit()
    train = about_own_mean(sum(fit_x[1:], fit_x[0]), sum(fit_y[1:], fit_y[0]))
    weights = solve(train)
    bias = train.mean_y + fit_y[0].pilot_y - weights.T @ (train.mean_x + fit_x[0].pilot)
    head_map.weights.append(weights.float().cpu())
    head_map.biases.append(bias.float().cpu())
