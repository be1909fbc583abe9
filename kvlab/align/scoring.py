"""Score every student head, held out, beside its controls, and fit the final map on everything; all from sums."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from itertools import product

import numpy as np
import torch

from kvlab.align import metrics
from kvlab.align.align_sums import OWN_TOKENS, TEACHER_TOKEN, AlignSums, Beside
from kvlab.align.class_maps import class_maps
from kvlab.align.controls import Controls, Fits
from kvlab.align.crossfit import (
    ByClass,
    CrossFit,
    HeldOutScores,
    Target,
    Unseen,
    alike,
    crossfit_fixed,
    crossfit_ridge,
    one_each,
    ridge_by_class,
    scored_apart,
    teacher_head_contributions,
)
from kvlab.align.fold_sums import SINK, SPECIAL, Classes, beside
from kvlab.align.layers import Choice
from kvlab.align.moments import Centred
from kvlab.align.rows import EXACT
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
    fits: Fits = field(default_factory=dict)  # by kind and student layer position
    ridges: Fits = field(default_factory=dict)  # the same where the projector is ridge
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
    """The user's projector, and ridge on the tokens. ``whole_sample``: the controls' rows are all rows."""
    layers = len(student.kv_layers)
    scored = Scored(maps={kind: HeadMap(projector, kind, []) for kind in KINDS})
    targets = list(product(KINDS, range(layers)))
    heads = {target: target_shape(student, *target)[0] for target in targets}
    progress("fitting and scoring heads", 0, layers * len(KINDS))
    tokens = {
        name: {target: fit.scores_alone() for target, fit in token_fits(sums, name, unseen).items()}
        for name, unseen in ((TEACHER_TOKEN, controls.unseen), (OWN_TOKENS, {}))
    }
    scored.ridges = controls.teacher if whole_sample else teacher_fits(sums, heads)
    with_own_token = {t: fit.scores_alone() for t, fit in teacher_fits(sums, heads, with_own_token=True).items()}
    grouped = fixed_fits(sums, heads, teacher, "group-mean")
    penalties = {target: _mean_penalty(scored.ridges[target].fits) for target in targets}
    chosen_fits = scored.ridges if projector == "ridge" else fixed_fits(sums, heads, teacher, projector, penalties)
    for number, (kind, layer) in enumerate(targets):
        progress("fitting and scoring heads", number, layers * len(KINDS))
        target, pairing, choice = (kind, layer), sums.pairing(kind, layer), sums.choices[kind][layer]
        solve = solver(projector, teacher, kind, choice.union, heads[target], penalties[target])
        chosen = scored.fits[target] = chosen_fits[target]
        spreads = [sums.spread(kind, layer, fit.classes) for fit in chosen.fits]
        scored.spectra[target] = spectrum(chosen, tokens[TEACHER_TOKEN][target], spreads)
        on_sample = chosen if whole_sample else controls.chosen.get(target, controls.teacher[target])
        others = Others(
            identity=tokens[TEACHER_TOKEN][target],
            own=tokens[OWN_TOKENS][target],
            with_own_token=with_own_token[target] if projector == "ridge" else None,
            grouped=grouped[target],
            on_sample=on_sample,
        )
        scored.heads += _head_scores(target, student.kv_layers[layer], chosen, others, controls)
        whole = None if projector == "ridge" else partial(solve, some=choice.overall)
        scored.maps[kind].layers.append(class_maps(pairing, choice.columns(choice.overall), chosen.fits, whole))
    scored.contributions = _contributions(sums, scored.ridges, teacher, student)
    progress("fitting and scoring heads", layers * len(KINDS), layers * len(KINDS))
    return scored


def _contributions(sums: AlignSums, ridges: Fits, teacher: Geometry, student: Geometry) -> dict[str, np.ndarray]:
    """``contribution.KIND.{without,alone}`` [Ls, Hs, Ht]; student layers with the same features are solved together."""
    layers = len(student.kv_layers)
    most_s, most_t = (max(shape[0] for shape in g.layer_shapes) for g in (student, teacher))
    arrays = {}
    for kind in KINDS:
        of_kind = {layer: ridges[kind, layer] for layer in range(layers)}
        pairings = {layer: sums.pairing(kind, layer) for layer in of_kind}
        for name in ("without", "alone"):
            arrays[f"contribution.{kind}.{name}"] = np.full((layers, most_s, most_t), np.nan)
        for group in alike(pairings, {layer: fit.heads for layer, fit in of_kind.items()}):
            blocks = _head_blocks(teacher, kind, sums.choices[kind][group[0]])
            of_group = [of_kind[layer] for layer in group]
            penalties = [_mean_penalty([fit.fits[c] for fit in of_group]) for c in range(len(of_group[0].fits))]
            together, heads = beside([pairings[layer] for layer in group]), [fit.heads for fit in of_group]
            parts = teacher_head_contributions(together.by_class(), sum(heads), blocks, penalties)
            first = 0
            for layer, count in zip(group, heads):
                for name in ("without", "alone"):
                    values = getattr(parts, name)[first : first + count].cpu().numpy()
                    arrays[f"contribution.{kind}.{name}"][layer, :count, : values.shape[1]] = values
                first += count
    return arrays


def fixed_fits(
    sums: AlignSums,
    heads: Mapping[Target, int],
    teacher: Geometry,
    projector: str,
    penalties: Mapping[Target, float] | None = None,
) -> Fits:
    """A projector that chooses no penalty, held out, on every target; those with the same features at once."""
    pairings, fits = {target: sums.pairing(*target) for target in heads}, {}
    for group in alike(pairings, heads):
        of_group = {target: heads[target] for target in group}
        choice = sums.choices[group[0][0]][group[0][1]]
        solves = [
            solver(
                projector, teacher, kind, choice.union, heads[kind, layer], (penalties or {}).get((kind, layer), 1.0)
            )
            for kind, layer in group
        ]
        together = beside([pairings[target] for target in group])
        widths = [len(pairings[target].targets.pilots[1]) for target in group]
        channels = torch.arange(sum(widths), device=together.targets.device).split(widths)

        def solve(train: Centred, some: Sequence[int], solves=solves, channels=channels) -> torch.Tensor:
            return torch.cat([one(train.targets(own), some) for one, own in zip(solves, channels)], dim=1)

        total_heads = sum(of_group.values())
        classes = [crossfit_fixed(of_class, choice.of_fold, total_heads, solve) for of_class in together.by_class()]
        fits |= one_each(classes, of_group)
    return fits


def teacher_fits(sums: AlignSums, heads: Mapping[Target, int], with_own_token: bool = False) -> Fits:
    """Ridge from the teacher's layers, and where asked for the student's own token, onto every target."""
    return ridge_by_class({target: sums.pairing(*target, with_own_token) for target in heads}, heads)


def token_fits(sums: AlignSums, name: str, unseen: Mapping[tuple[Beside, Classes], Unseen] | None = None) -> Fits:
    """Ridge from a set of token features onto every kind and student layer. ``unseen``: rows of unseen tokens."""
    fits: Fits = {}
    for beside_each_other, targets in sums.token_layers.items():
        heads = {target: len(sums.targets[target].pilots[1]) // beside_each_other[0] for target in targets}
        by_class = sums.token_pairing(name, beside_each_other).by_class()
        classes = [
            crossfit_ridge(of_class, sum(heads.values()), (unseen or {}).get((beside_each_other, of_class.classes)))
            for of_class in by_class
        ]
        fits |= one_each(classes, heads)
    return fits


def _mean_penalty(fits: Sequence[CrossFit]) -> float:
    """The geometric mean over fits, folds and heads, relative."""
    return float(torch.cat([fit.penalties.flatten() for fit in fits]).log().mean().exp())


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


@dataclass(frozen=True)
class Others:
    """What the score of one student layer and kind is shown beside."""

    identity: ByClass  # the teacher's token
    own: ByClass  # the student's own token and the two before it
    with_own_token: ByClass | None  # the teacher and the student's own token; of ridge only
    grouped: ByClass
    on_sample: ByClass  # the same map on the rows that the control by random weights is measured on


def _head_scores(target: Target, layer: int, chosen: ByClass, others: Others, controls: Controls) -> list[HeadScore]:
    shuffled, random, both = controls.shuffled.get(target), controls.random.get(target), others.with_own_token
    unknown = (torch.full_like(chosen.r2, float("nan")),) * 2
    with_errors = {
        ("r2", "se"): chosen.with_error(),
        ("gain", "gain_se"): difference(chosen, others.identity),
        ("r2_identity", "identity_se"): others.identity.with_error(),
        ("r2_shuffled", "shuffled_se"): shuffled.with_error(),
        ("r2_random", "random_se"): random.with_error() if random else unknown,
        ("gain_random", "gain_random_se"): difference(others.on_sample, random) if random else unknown,
        ("r2_own", "own_se"): others.own.with_error(),
        ("r2_with_own", "with_own_se"): both.with_error() if both else unknown,
        ("added", "added_se"): difference(both, others.own) if both else unknown,
    }
    # Where both classes share a map, neither has a score of its own.
    exact = [fit for fit in chosen.fits if fit.classes == (EXACT,)]
    inside = [fit for fit in chosen.fits if fit.classes and EXACT not in fit.classes]
    for name, of_class in (("exact", exact), ("inside", inside)):
        scores = ByClass.of(of_class).with_error() if of_class else unknown
        with_errors |= {(f"r2_{name}", f"{name}_se"): scores}
    (sink, n_sink), (special, n_special) = (
        scored_apart(chosen, controls.apart[*target, use]) for use in (SINK.use, SPECIAL.use)
    )
    standardised = metrics.per_head_mean(chosen.channel_rss.sum(0) / chosen.channel_tss.sum(0), chosen.heads)
    columns = {name: column for names, pair in with_errors.items() for name, column in zip(names, pair)} | {
        "error": 1 - chosen.r2,
        "cosine": chosen.cosine,
        "error_standardised": standardised,
        "r2_group_mean": others.grouped.r2,
        "error_sink": sink,
        "error_special": special,
    }
    for names, value_and_error in with_errors.items():
        columns.update(zip(names, value_and_error))
    values = {name: column.tolist() for name, column in columns.items()}
    counts = {"n": int(chosen.n.sum()), "n_control": int(shuffled.n.sum()), "n_sink": n_sink, "n_special": n_special}
    counts["n_inside"] = sum(int(fit.n.sum()) for fit in inside)
    return [
        HeadScore(target[0], layer, head, **{name: column[head] for name, column in values.items()}, **counts)
        for head in range(chosen.heads)
    ]


def difference(fit: HeldOutScores, control: HeldOutScores) -> tuple[torch.Tensor, torch.Tensor]:
    """R^2 of a fit less that of a control on the same rows [H], and its standard error."""
    held = fit.n > 0
    less_rss = fit.rss[held] - control.rss[held]  # 1 - its ratio to TSS differs from the gain by a constant
    return fit.r2 - control.r2, metrics.jackknife(less_rss, fit.tss[held])
