"""Write a finished functional test to disk and read it back: can the student use the teacher's cache? No torch here.

``injection.json`` holds everything. Names of variants, in the order of display:
    own        the student's own cache: must reproduce the plain forward, or nothing else is reported
    projected  the teachers' cache, projected (and fused)
    ...        the controls, kvlab/inject/controls
    none       (texts only) no prefix at all
One that declares ``SOURCE`` is no control but a further source: with the student's own token, or refined.
"""

import json
from dataclasses import asdict, dataclass, field
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from kvlab.errors import AlignError
from kvlab.language import Message, phrase, say
from kvlab.request import declared
from kvlab.results.alignment.data import DAMAGED, numbers, read_messages, write_json
from kvlab.results.style import written

FORMAT = 1
JSON_NAME = "injection.json"
COMPARED = tuple(declared.CONTROLS)  # all that is shown beside the projected cache
SOURCES = ("projected", *(name for name, module in declared.CONTROLS.items() if module.get("SOURCE")))
CONTROLS = tuple(name for name, module in declared.CONTROLS.items() if not module.get("SOURCE"))
VARIANTS = ("own", "projected", *COMPARED, "none")
NAMES = {
    "own": phrase("own cache"),
    "projected": phrase("projected cache"),
    **{name: control.get("WORDS", name) for name, control in declared.CONTROLS.items()},
    "none": phrase("no prefix"),
}


def own_tokens_of(variant: str) -> str:
    """Return the control without any teacher that a variant must beat: refined where the variant is."""
    return "own-tokens-refined" if variant.endswith("refined") else "own-tokens"


@dataclass(frozen=True)
class Injected:
    """The continuation after one variant of the prefix's cache, per token, against the student's own cache.

    KL = KL(own || variant) of the next-token distributions, in nats; delta_ce = cross-entropy of the text, variant
    minus own. Standard errors are by jackknife over documents, for differences over the paired differences.
    """

    variant: str
    prefix: float  # cached share of the document's tokens
    kl: float
    kl_se: float
    delta_ce: float
    delta_ce_se: float
    same_choice: float  # share of tokens where the most likely next token is the own cache's
    kl_over_projected: float  # this variant minus the projected cache, on the same tokens; 0 for the projected one
    kl_over_projected_se: float
    ce_over_projected: float
    ce_over_projected_se: float
    n: int  # continuation tokens
    documents: int
    # KL of ``own_tokens_of`` this variant minus its own, on the same tokens; NaN in results made before that control.
    below_own_tokens: float = nan
    below_own_tokens_se: float = nan
    # Quantiles of KL over all continuation tokens; NaN in older results.
    kl_p95: float = nan
    kl_p99: float = nan


@dataclass(frozen=True)
class DocumentDamage:
    """The continuation of one document at the main prefix, per token, as in ``Injected``."""

    variant: str
    document: str  # its id
    language: str
    domain: str
    kl: float
    kl_p95: float
    kl_p99: float
    delta_ce: float
    same_choice: float
    n: int


@dataclass(frozen=True)
class Hybrid:
    """The damage of a source when the student has a part of the prefix itself."""

    variant: str  # "projected" | "with-own-token" | "own-tokens", the control
    part: str  # "layers" | "tokens" | "read", see kvlab/inject/hybrid.py
    kept: int  # first layers, or last tokens (of a shorter prefix all), that are the student's own
    share: float  # of the prefill: of the layers with a cache, or of the prefix' tokens
    kl: float
    kl_se: float
    delta_ce: float
    delta_ce_se: float
    n: int  # continuation tokens
    documents: int
    # As in ``Injected``, the control with the same part its own; ``groups_p95``: of the tokens of each group of
    # documents, "language: zh" or "domain: law", with at least ``LEAST_OF_GROUP`` tokens. Not in older results.
    kl_p95: float = nan
    below_own_tokens: float = nan
    below_own_tokens_se: float = nan
    groups_p95: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AttentionError:
    """Attention of the student's own queries to the projected cache in one layer and KV head.

    error = RSS / TSS of the head's output (probabilities times values), about the mean own output of the judged
    queries, summed over the query heads that share the KV head: 0 the same output, 1 no better than their mean.
    """

    kind: str  # "key" | "value" | "both": the projected part; the other part is the student's own
    layer: int  # as numbered in the student
    head: int  # KV head
    error: float
    se: float
    kl: float  # KL(own || this) of the attention distribution per query, nats; NaN for values
    kl_se: float
    controls: dict[str, float]  # error of each control
    controls_kl: dict[str, float]
    query_heads: list[float]  # error of each query head of the group
    n: int  # queries
    # Mean over the queries and query heads of cos(own output, this), by source and control; {} in older results.
    cosines: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Projected:
    """Projection error RSS / TSS = 1 - R^2 of one KV head on the judged documents' replaced rows."""

    kind: str
    layer: int
    head: int
    error: float
    se: float
    controls: dict[str, float]
    n: int


@dataclass(frozen=True)
class Swap:
    """The damage of replacing only one layer's, or one KV head's, part of the prefix's cache."""

    kind: str  # "key" | "value" | "both"
    layer: int
    head: int | None  # None: the whole layer
    kl: float
    kl_se: float
    delta_ce: float
    delta_ce_se: float
    kl_mean: float  # control: the same part replaced by its training mean
    kl_mean_se: float
    delta_ce_mean: float
    delta_ce_mean_se: float
    n: int
    documents: int


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of an error with the damage of a swap, over heads (mean ranks where tied)."""

    kind: str  # "key" | "value" | "both kinds": over all K and V heads together
    error: str  # "projection" | "attention"
    damage: str  # "kl" | "delta_ce"
    rho: float
    heads: int


@dataclass(frozen=True)
class Continued:
    """One greedy continuation of a prompt."""

    variant: str
    tokens: list[str]
    differs: list[bool]  # per token: outside every run shared with the own cache's continuation (difflib)
    text: str
    answer: str | None  # the text after the last answer marker
    right: bool | None  # None: the document has no answer to compare with


@dataclass(frozen=True)
class Text:
    id: str
    prompt: str
    expected: str | None
    continuations: list[Continued]


@dataclass(frozen=True)
class Accuracy:
    variant: str
    right: float
    se: float  # of the mean over documents
    less_own: float  # this variant minus the own cache, on the same documents
    less_own_se: float
    same_tokens: float  # share of the own continuation's tokens before the first difference
    documents: int


@dataclass
class Injection:
    settings: dict[str, Any]  # of the analysis
    injection: dict[str, Any]  # InjectSettings
    teachers: list[dict[str, Any]]  # Geometry of each
    student: dict[str, Any]
    data: dict[str, Any]
    own: dict[str, Any]  # largest_difference (relative to the largest logit), tolerance, reproduces
    injected: list[Injected] = field(default_factory=list)
    attention: list[AttentionError] = field(default_factory=list)
    projection: list[Projected] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)
    correlations: list[Correlation] = field(default_factory=list)
    hybrid: list[Hybrid] = field(default_factory=list)  # empty in older results and where not asked for
    documents: list[DocumentDamage] = field(default_factory=list)  # empty in older results
    texts: list[Text] = field(default_factory=list)
    accuracy: list[Accuracy] = field(default_factory=list)
    notes: list[Message] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    prompts: str = ""

    def __post_init__(self) -> None:
        self.notes, self.data = read_messages(self.notes, self.data)

    @property
    def reproduces(self) -> bool:
        """Return whether the student's own cache, injected, gives its logits. If not, nothing else was measured."""
        return bool(self.own["reproduces"])

    def at(self, prefix: float) -> list[Injected]:
        """Return the numbers of every variant at one prefix."""
        return [row for row in self.injected if row.prefix == prefix]

    def score(self, variant: str, prefix: float | None = None) -> Injected:
        """Return the numbers of one variant, at the main prefix unless another is given. Raises KeyError."""
        share = self.injection["prefix"] if prefix is None else prefix
        return {row.variant: row for row in self.at(share)}[variant]

    def grid(self, which: str, kind: str, column: str) -> np.ndarray:
        """Return [L, H] of a column of "attention", "projection" or the head "swaps"; NaN where not measured."""
        cells = [cell for cell in getattr(self, which) if cell.kind == kind and cell.head is not None]
        layers = list(self.student["kv_layers"])
        heads = max(shape[0] for shape in self.student["layer_shapes"])
        grid = np.full((len(layers), heads), np.nan)
        for cell in cells:
            grid[layers.index(cell.layer), cell.head] = getattr(cell, column)
        return grid

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}


def write(injection: Injection, folder: Path) -> None:
    write_json(injection, folder / JSON_NAME)


LISTS = {
    "injected": Injected,
    "attention": AttentionError,
    "projection": Projected,
    "swaps": Swap,
    "correlations": Correlation,
    "hybrid": Hybrid,
    "documents": DocumentDamage,
    "accuracy": Accuracy,
}
MAY_BE_NONE = {"head", "answer", "right", "expected"}


def read(folder: Path) -> Injection:
    """Read the functional test in a folder. Raises AlignError if there is no readable one."""
    try:
        fields = json.loads((folder / JSON_NAME).read_text(encoding="utf-8"))
        if fields.pop("format") != FORMAT:
            raise ValueError("another format version")
        fields = {"hybrid": [], "documents": [], **fields}  # not in older results
        for name, cls in LISTS.items():
            fields[name] = [cls(**numbers(row, MAY_BE_NONE)) for row in fields[name]]
        fields["own"] = numbers(fields["own"], MAY_BE_NONE)
        for row in fields["texts"]:
            row["continuations"] = [Continued(**continued) for continued in row["continuations"]]
        fields["texts"] = [Text(**row) for row in fields["texts"]]
        return Injection(**fields)
    except DAMAGED as error:
        raise AlignError(
            "injection-unreadable",
            expected=Message("{file} as written by kvlab, format {version}", file=JSON_NAME, version=FORMAT),
            found=Message("{kind}: {reason}", kind=type(error).__name__, reason=error),
            remedy=Message("run the functional test again"),
        ) from error


def sentence(injection: Injection) -> str:
    """Say the result in one sentence, with n, split and controls."""
    student, own = injection.student["name"], injection.own
    if not injection.reproduces:
        return say(
            "Nothing is reported: the own cache of {student}, injected, does not reproduce its logits (they differ by "
            "{difference:.1e} of the largest logit, {tolerance:.0e} is allowed).",
            student=student,
            difference=own["largest_difference"],
            tolerance=own["tolerance"],
        )
    projected = injection.score("projected")
    measured = {row.variant for row in injection.injected}
    controls = [f"{say(NAMES[name])} {injection.score(name).kl:.3f}" for name in CONTROLS if name in measured]
    with_own = {row.variant: row for row in injection.at(projected.prefix)}.get("with-own-token")
    also = ""
    if with_own is not None:
        also = say(" (with its own token besides: KL {kl:.3f} ± {se:.3f})", kl=with_own.kl, se=with_own.kl_se)
    damage = {
        "kl": projected.kl,
        "kl_se": projected.kl_se,
        "ce": written(projected.delta_ce, sign="+"),
        "ce_se": projected.delta_ce_se,
    }
    return say(
        "{student} on the projected cache of {teachers}: KL {kl:.3f} ± {kl_se:.3f} and ΔCE {ce} ± {ce_se:.3f} "
        "nats per token against its own cache{also}. KL of the controls: {controls}; the own cache differs from the "
        "plain forward by {difference:.0e} of the largest logit; n = {n:,} continuation tokens of {documents} "
        "documents, held out from the fit on {fitted} others.",
        student=student,
        teachers=" + ".join(teacher["name"] for teacher in injection.teachers),
        **damage,
        also=also,
        controls=say(", ").join(controls),
        difference=own["largest_difference"],
        n=projected.n,
        documents=projected.documents,
        fitted=injection.data["documents_fitted"],
    )
