"""Build parts of the stored result of one teacher: numbers, settings, versions, and warnings.

R^2 weighs a token by its distance from the mean. Where few tokens hold most of a head's variance, as with massive
activations at a delimiter, R^2 describes them alone; ``share_of_few`` measures that.
"""

import platform
from collections.abc import Sequence
from math import isnan

import numpy as np
import torch
import transformers

import kvlab
from kvlab.align.align_sums import AlignSums
from kvlab.align.controls import Fits
from kvlab.align.fold_sums import SCORED
from kvlab.align.layers import LayerSearch
from kvlab.align.metrics import LEAST_FOLDS
from kvlab.align.sample import Sample
from kvlab.language import Message
from kvlab.models.loading import LoadedModel
from kvlab.models.proofs import self_test
from kvlab.request.align import AlignSettings
from kvlab.request.time_rules import RULES, TimeRule
from kvlab.results.alignment.data import HeadScore
from kvlab.shapes import KINDS

FEW_SCORED = 500  # student tokens; with fewer, the page says so beside the number
FEW_DOCUMENTS = 10
ROWS_PER_FEATURE = 2  # fitted rows; a penalty chosen held out carries about so few
MOST = 0.5  # of a head's variance in 1% of the tokens, from which on R^2 is about these
BLOWN_UP = 2.0  # RSS / TSS of one fold, from which on a map is worse than no map by far
DOMINATES = 0.5  # share of the tokens, from which on a document's scores are those of all


def versions(loaded: LoadedModel) -> dict[str, str]:
    return {
        "kvlab": kvlab.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": str(loaded.device),
        "dtype": str(loaded.dtype).removeprefix("torch."),
    }


def self_tests(teacher: LoadedModel, student: LoadedModel, settings: AlignSettings) -> dict:
    """Return how the rotation of the keys was undone; empty where keys are compared as cached."""
    if settings.keys != "pre-rope":
        return {}
    return {role: self_test(loaded).to_dict() for role, loaded in (("teacher", teacher), ("student", student))}


def arrays(*parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert arrays for storage: float32, or float16 where that is enough."""
    return {
        name: np.ascontiguousarray(a, dtype=np.float16 if a.dtype == np.float16 else np.float32)
        for part in parts
        for name, a in part.items()
    }


def layer_map(search: LayerSearch, teacher_layers: Sequence[int], settings: AlignSettings) -> dict:
    """Return the chosen layers, numbered as in the teacher."""

    def named(layers: Sequence[int]) -> list[int]:
        return [teacher_layers[layer] for layer in layers]

    return {
        "rule": search.rule,
        "search": settings.search,
        "rows": search.rows,
        "teacher_layers": {k: [named(c.overall) for c in search.choices[k]] for k in KINDS},
        "by_fold": {k: [[named(f) for f in c.of_fold] for c in search.choices[k]] for k in KINDS},
    }


def data(sums: AlignSums, counted: dict[str, int]) -> dict:
    """Return the sizes of the data. ``counted``: documents, calibration_documents, teacher_tokens, student_tokens."""
    targets = sums.pairing(KINDS[0], 0).targets
    fitted = [fold.n for fold in targets.fit()]
    widths = {kind: max(len(c.columns(c.overall)) for c in sums.choices[kind]) for kind in KINDS}
    return {
        **counted,
        "folds": sums.folds,
        "split": "by document",
        "rows_fit": sum(fitted),
        "rows_scored": sum(fold.n for fold in targets.score()),
        "features": widths,
        "rows_per_feature": (sum(fitted) - max(fitted)) / max(widths.values()),
    }


def notes(
    settings: AlignSettings, data: dict, heads: list[HeadScore], longest: int, concentrated: int
) -> list[Message]:
    """Return warnings about these numbers.

    ``longest``: student tokens of the longest scored document; ``concentrated``: heads of ``share_of_few``.
    """
    warnings = []
    constant = sum(isnan(head.r2) for head in heads)
    if constant:
        warnings.append(
            Message(
                "{n} of {total} heads do not vary on these prompts and have no score.", n=constant, total=len(heads)
            )
        )
    if concentrated:
        warnings.append(
            Message(
                "In {n} of {total} heads, {share} of the tokens hold more than half of the variance: their R² is about "
                "these tokens and says little of the others. The token view shows which they are.",
                n=concentrated,
                total=len(heads),
                share=f"{FEW:.0%}",
            )
        )
    if data["rows_scored"] < FEW_SCORED:
        warnings.append(
            Message("Only {n} tokens are scored: differences of some points may be chance.", n=data["rows_scored"])
        )
    if data["documents"] < FEW_DOCUMENTS:
        warnings.append(
            Message(
                "Documents that are scored: {n}. With fewer than {few} standard errors are rough, and with fewer than "
                "{least} there are none.",
                n=data["documents"],
                few=FEW_DOCUMENTS,
                least=LEAST_FOLDS,
            )
        )
    if data["documents"] >= LEAST_FOLDS and longest > DOMINATES * data["student_tokens"]:
        warnings.append(
            Message(
                "One document holds {share} of the scored documents' tokens: the scores are largely its own, and "
                "standard errors are too small.",
                share=f"{longest / data['student_tokens']:.0%}",
            )
        )
    warnings += few_rows(data["rows_per_feature"]) + weighted_rows(settings)
    if data["folds"] < 3:
        warnings.append(Message("With two folds no penalty can be cross-validated: a cautious fixed one is used."))
        if settings.layers == "heldout":
            warnings.append(
                Message("With two folds no layers can be chosen on held-out folds: proportional depth is used.")
            )
    return warnings + _rule_notes(RULES[settings.time])


def unstable(fits: Fits, layers: Sequence[int]) -> list[Message]:
    """Return a note where a map predicts one fold's documents much worse than their mean.

    ``layers``: as numbered in the student, by position.
    """
    worst, count = None, 0
    for (kind, layer), fit in fits.items():
        error = (fit.rss / fit.tss).nan_to_num(nan=0.0)  # [F, H]
        count += int((error > BLOWN_UP).any(0).sum())
        of_layer = float(error.max())
        if worst is None or of_layer > worst[0]:
            worst = of_layer, kind, layers[layer], int(error.argmax()) % fit.heads
    if not count:
        return []
    error, kind, layer, head = worst
    return [
        Message(
            "{n} heads are predicted far worse than by their mean in one of {folds} folds of documents (worst: "
            "{kind}, layer {layer}, head {head}, error {error}): these documents have rows unlike those of the others. "
            "Use more documents of one kind, or leave odd ones out.",
            n=count,
            folds=len(fit.rss),
            kind=kind[0].upper(),
            layer=layer,
            head=head,
            error=f"{error:.1f}",
        )
    ]


def _rule_notes(rule: TimeRule) -> list[Message]:
    if rule.per_head:
        words = Message(
            "The {rule} rule keeps other teacher steps for each head and sets them side by side with the student's "
            "in order; it is fitted on the rows that this gives.",
            rule=rule.name,
        )
    elif not rule.reads_bytes:
        words = Message("The {rule} rule does not look at the text; it is fitted on the rows it gives.", rule=rule.name)
    elif not rule.causal:
        words = Message(
            "The {rule} rule looks ahead: the teacher may have read bytes that the student has not.", rule=rule.name
        )
    else:
        return []
    return [words]


def few_rows(per_feature: float) -> list[Message]:
    """Return a note where there are too few fitted rows per feature."""
    if per_feature >= ROWS_PER_FEATURE:
        return []
    return [
        Message(
            "Only {n} fitted rows per feature ({wanted} are wanted): the scores are likely lower than with more "
            "prompts. Add prompts, or also fit on the bundled samples.",
            n=f"{per_feature:.1f}",
            wanted=ROWS_PER_FEATURE,
        )
    ]


def weighted_rows(settings: AlignSettings) -> list[Message]:
    """Return a note where fitted rows have weights."""
    if settings.row_weights == "equal":
        return []
    return [
        Message(
            "Maps and their controls are fitted with each token weighted by the attention that it receives from later "
            "tokens of the student; scores count every token alike."
        )
    ]


FEW = 0.01  # of the scored tokens


def share_of_few(sample: Sample, kind: str, layer: int, heads: int) -> torch.Tensor:
    """[H] share of the variance of the sample's scored tokens that the ``FEW`` farthest from their mean hold."""
    groups = [group for group in sample.groups if group[1].use in SCORED]
    rows = [sample.y(kind, layer, group) for group in groups]
    n = sum(map(len, rows))
    mean = sum(y.sum(0, dtype=torch.float64) for y in rows) / n
    squares = torch.cat([(y - mean.to(y.dtype)).unflatten(1, (heads, -1)).square().sum(2).double() for y in rows])
    few = squares.topk(max(1, int(FEW * n)), dim=0).values
    return few.sum(0) / squares.sum(0)


def concentrated(sample: Sample, heads: Sequence[int], most: float) -> int:
    """Count the heads, K and V, where few tokens hold more than the share ``most``; ``heads`` of each student layer."""
    places = [(kind, layer) for kind in KINDS for layer in range(sample.layers_s)]
    return sum(int((share_of_few(sample, kind, at, heads[at]) > most).sum()) for kind, at in places)
