"""Score every student head, held out, beside its controls, and fit the final map on everything; all from sums."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import product

import numpy as np
import torch

from kvlab.align import metrics
from kvlab.align.align_sums import AlignSums
from kvlab.align.controls import Controls, Fits
from kvlab.align.crossfit import CrossFit, crossfit_fixed, crossfit_ridge, scored_apart, teacher_head_contributions
from kvlab.align.fold_sums import SINK, SPECIAL, Pairing, total
from kvlab.align.layers import Choice
from kvlab.align.moments import Centred, about_own_mean
from kvlab.align.sample import Sample
from kvlab.align.shapes import check_one_width, feature_shape, padded, target_shape
from kvlab.align.spectrum import Spectrum, spectrum
from kvlab.request.declared import PROJECTORS
from kvlab.results.alignment.data import HeadScore
from kvlab.shapes import KINDS, Geometry, HeadMap, Progress

Solve = Callable[[Centred, Sequence[int]], torch.Tensor]


@dataclass
class Scored:
    heads: list[HeadScore] = field(default_factory=list)
    maps: dict[str, HeadMap] = field(default_factory=dict)  # fitted on every document
    fits: dict[tuple[str, int], CrossFit] = field(default_factory=dict)  # by kind and student layer position
    ridges: dict[tuple[str, int], CrossFit] = field(default_factory=dict)  # the same where the projector is ridge
    contributions: dict[str, np.ndarray] = field(default_factory=dict)  # [Ls, Hs, Ht]
    spectra: dict[tuple[str, int], Spectrum] = field(default_factory=dict)

    def spectrum_arrays(self) -> dict[str, np.ndarray]:
        """Return ``spectrum.KIND.NAME`` [Ls, Hs, D], NaN where a layer has fewer heads or channels."""
        by_name: dict[str, list[np.ndarray]] = {}
        for kind, layer in sorted(self.spectra):
            for name, values in self.spectra[kind, layer].arrays().items():
                by_name.setdefault(f"spectrum.{kind}.{name}", []).append(values)
        return {name: padded(layers) for name, layers in by_name.items()}


def score(
    sums: AlignSums,
    controls: Controls,
    whole_sample: bool,
    teacher: Geometry,
    student: Geometry,
    projector: str,
    progress: Progress,
) -> Scored:
    """Score the user's projector, and ridge on token identity. ``whole_sample``: the controls' rows are all rows."""
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
        solve = solver(projector, teacher, kind, choice.union, heads, penalty)
        chosen = ridge if projector == "ridge" else crossfit_fixed(pairing, choice.of_fold, heads, solve)
        averaged = solver("group-mean", teacher, kind, choice.union, heads, penalty)
        grouped = crossfit_fixed(pairing, choice.of_fold, heads, averaged)

        scored.fits[kind, layer], scored.ridges[kind, layer] = chosen, ridge
        spread = sums.spread(kind, layer)
        scored.spectra[kind, layer] = spectrum(chosen, identity[kind, layer], spread)
        on_sample = chosen if whole_sample else controls.chosen.get((kind, layer), controls.teacher[kind, layer])
        scored.heads += _head_scores(
            (kind, layer), student.kv_layers[layer], chosen, identity[kind, layer], grouped, on_sample, controls
        )
        parts = teacher_head_contributions(pairing, heads, _head_blocks(teacher, kind, choice), penalty)
        for name in ("without", "alone"):
            array = scored.contributions.setdefault(
                f"contribution.{kind}.{name}", np.full((layers, most_s, most_t), np.nan)
            )
            values = getattr(parts, name).cpu().numpy()
            array[layer, : values.shape[0], : values.shape[1]] = values
        weights, bias = whole_map(pairing, choice, solve)
        scored.maps[kind].weights.append(weights.float().cpu())
        scored.maps[kind].biases.append(bias.float().cpu())
    progress("fitting and scoring heads", (layers + 1) * len(KINDS), (layers + 1) * len(KINDS))
    return scored


def projected_on_sample(
    sample: Sample, choices: dict[str, list[Choice]], teacher: Geometry, student: Geometry, projector: str
) -> Fits:
    """Fit and score a projector that chooses no penalty on the sample alone, as controls are."""
    fits = {}
    for kind, layer in product(KINDS, range(sample.layers_s)):
        choice = choices[kind][layer]
        heads, _ = target_shape(student, kind, layer)
        pairing = replace(sample.pairing(kind, choice.union, layer), columns=choice.columns_of_folds())
        solve = solver(projector, teacher, kind, choice.union, heads, penalty=1.0)
        fits[kind, layer] = crossfit_fixed(pairing, choice.of_fold, heads, solve)
    return fits


def identity_fits(sums: AlignSums) -> dict[tuple[str, int], CrossFit]:
    """Fit ridge from the token embedding onto every kind and student layer; one problem for each head width."""
    fits = {}
    for width, targets in sums.identity_layers.items():
        heads = [len(sums.targets[target].pilots[1]) // width for target in targets]
        together, first = crossfit_ridge(sums.identity(width), sum(heads), quick=True), 0
        for target, count in zip(targets, heads):
            fits[target] = together.select(first, count)
            first += count
    return fits


def solver(projector: str, teacher: Geometry, kind: str, layers: Sequence[int], heads_s: int, penalty: float) -> Solve:
    """Return a projector as a function: training sums of some of these teacher layers -> W [P, Q].

    Raises AlignError where it needs heads of one width and the layers have several.
    """
    module = import_module(PROJECTORS[projector]["module"])
    if getattr(module, "ONE_WIDTH", False):
        check_one_width(teacher, kind, layers)
    shapes = {at: feature_shape(teacher, kind, at) for at in layers}
    return lambda train, some: module.solve(train, [shapes[at] for at in some], heads_s, penalty)


def _head_blocks(teacher: Geometry, kind: str, choice: Choice) -> list[torch.Tensor]:
    """Return the features of each teacher head: its channels in every layer of the union."""
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
    on_sample: CrossFit,
    controls: Controls,
) -> list[HeadScore]:
    """Return the scores of one layer. ``on_sample``: ``chosen`` on the rows of the random-weights control."""
    shuffled, random = controls.shuffled.get(problem), controls.random.get(problem)
    unknown = (torch.full_like(chosen.r2, float("nan")),) * 2
    with_errors = {
        ("r2", "se"): chosen.with_error(),
        ("gain", "gain_se"): _difference(chosen, identity),
        ("r2_identity", "identity_se"): identity.with_error(),
        ("r2_shuffled", "shuffled_se"): shuffled.with_error(),
        ("r2_random", "random_se"): random.with_error() if random else unknown,
        ("gain_random", "gain_random_se"): _difference(on_sample, random) if random else unknown,
    }
    sink, n_sink = scored_apart(chosen, controls.apart[*problem, SINK])
    special, n_special = scored_apart(chosen, controls.apart[*problem, SPECIAL])
    standardised = metrics.per_head_mean(chosen.channel_rss.sum(0) / chosen.channel_tss.sum(0), chosen.heads)
    columns = {
        "error": 1 - chosen.r2,
        "cosine": chosen.cosine,
        "error_standardised": standardised,
        "r2_group_mean": grouped.r2,
        "error_sink": sink,
        "error_special": special,
    }
    for names, value_and_error in with_errors.items():
        columns.update(zip(names, value_and_error))
    values = {name: column.tolist() for name, column in columns.items()}
    counts = {"n": int(chosen.n.sum()), "n_control": int(shuffled.n.sum()), "n_sink": n_sink, "n_special": n_special}
    return [
        HeadScore(problem[0], layer, head, **{name: column[head] for name, column in values.items()}, **counts)
        for head in range(chosen.heads)
    ]


def _difference(fit: CrossFit, control: CrossFit) -> tuple[torch.Tensor, torch.Tensor]:
    """Return R^2 of a fit minus that of a control on the same rows [H], and its standard error."""
    held = fit.n > 0
    less_rss = fit.rss[held] - control.rss[held]  # 1 - its ratio to TSS differs from the gain by a constant
    return fit.r2 - control.r2, metrics.jackknife(less_rss, fit.tss[held])


def whole_map(pairing: Pairing, choice: Choice, solve: Solve) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit W [P, Q] and bias [Q] of the layers chosen on all folds, on every document."""
    fit_x, fit_y = pairing.features.fit(), pairing.targets.fit()
    everything = about_own_mean(total(fit_x), total(fit_y))
    columns = choice.columns(choice.overall)
    weights = solve(everything.features(columns), choice.overall)
    mean_x = (everything.mean_x + fit_x[0].pilot)[columns]
    return weights, everything.mean_y + fit_y[0].pilot_y - weights.T @ mean_x
