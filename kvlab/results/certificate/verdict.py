"""Judge a functional test by gates: hand over, hand over with own layers, or prefill anew.

The student may keep its own keys and values in the first k layers. The verdict is the least k at which every gate
holds, on documents that no map was fitted on:

    own-cache   the student's own cache, injected, gives its logits
    documents   at least ``LEAST_DOCUMENTS`` documents and ``LEAST_TOKENS`` tokens
    cosine      mean over heads of the cosine of a head's output on both caches; that of an own layer is 1
    kl          95 % of the tokens have a KL below the gate
    groups      the same in every language and domain with enough tokens
    controls    KL lies below that of what needs no teacher, by two standard errors
    random      with the whole prefix handed over, the teacher does better than one of random weights, by two standard
                errors: two models of random weights tell much of each other and nothing of language
"""

from math import isfinite, nan
from statistics import fmean

from kvlab.language import Message, phrase
from kvlab.request.certify import NOT_ASKED, Gates
from kvlab.results.answer import LEAST_DOCUMENTS, LEAST_TOKENS
from kvlab.results.certificate.data import Rung, Verdict
from kvlab.results.function.data import Hybrid, Injection

GATES = {
    "own-cache": phrase("the own cache gives the student's logits"),
    "documents": phrase("enough documents and tokens"),
    "cosine": phrase("cosine of the heads' outputs"),
    "kl": phrase("KL, 95 % of tokens"),
    "groups": phrase("KL in every language and domain"),
    "controls": phrase("better than what needs no teacher"),
    "random": phrase("better than a teacher of random weights"),
}
CERTIFIED = ("with-own-token", "projected")  # sources, the one that ``handoff`` takes first


def source_of(test: Injection) -> str:
    """Return the source that is handed over, as ``MapFile.handoff`` chooses it."""
    measured = {row.variant for row in test.hybrid}
    return next((name for name in CERTIFIED if name in measured), "projected")


def known(value: float | None) -> float | None:
    """Return a number, or None for one that is not known."""
    return value if value is not None and isfinite(value) else None


def rungs(test: Injection, gates: Gates, source: str) -> list[Rung]:
    """Judge every number of own layers, from none to all but one."""
    rows = [row for row in test.hybrid if row.variant == source and row.part == "layers"]
    layers = len(test.student["kv_layers"])
    return [_rung(test, gates, source, row) for row in sorted(rows, key=lambda row: row.kept) if row.kept < layers]


def _rung(test: Injection, gates: Gates, source: str, row: Hybrid) -> Rung:
    cosine = head_output_cosine(test, source, row.kept)
    low = row.below_own_tokens - 2 * row.below_own_tokens_se
    passed = {
        "own-cache": test.reproduces,
        "documents": row.documents >= LEAST_DOCUMENTS and row.n >= LEAST_TOKENS,
        "cosine": gates.head_output_cosine == NOT_ASKED or cosine >= gates.head_output_cosine,
        "kl": row.kl_p95 <= gates.kl_p95,
        "groups": not gates.every_group or all(p95 <= gates.kl_p95 for p95 in row.groups_p95.values()),
        "controls": low > 0,
        "random": not gates.beats_random or beats_random(test),
    }
    return Rung(
        own_layers=row.kept,
        kl=known(row.kl),
        kl_se=known(row.kl_se),
        kl_p95=known(row.kl_p95),
        head_output_cosine=known(cosine),
        below_own_tokens=known(row.below_own_tokens),
        below_own_tokens_se=known(row.below_own_tokens_se),
        groups_p95={name: known(p95) for name, p95 in row.groups_p95.items()},
        failed=tuple(name for name, passes in passed.items() if not passes),
    )


def beats_random(test: Injection) -> bool:
    """Return whether the projected cache does better than that of random weights; False where it was not measured."""
    row = next((row for row in test.at(test.injection["prefix"]) if row.variant == "random"), None)
    return row is not None and row.kl_over_projected - 2 * row.kl_over_projected_se > 0


def head_output_cosine(test: Injection, source: str, own_layers: int) -> float:
    """Return the mean over heads of the cosine of their outputs on both caches; NaN where it was not measured."""
    own = test.student["kv_layers"][:own_layers]
    heads = [cell for cell in test.attention if cell.kind == "both"]
    return fmean(1.0 if cell.layer in own else cell.cosines.get(source, nan) for cell in heads) if heads else nan


def verdict(test: Injection, ladder: list[Rung], gates: Gates) -> tuple[Verdict, int, Message]:
    """Return the verdict, the own layers that it needs, and why."""
    passing = next((rung for rung in ladder if not rung.failed), None)
    if passing is None:
        return "prefill-anew", 0, _why_not(test, ladder, gates)
    words = Message(
        "95 % of {n:,} tokens of {documents} documents have a KL below {p95:.3g} (gate {gate:g}); without a teacher it "
        "is {gain:.3f} ± {se:.3f} more per token.",
        n=_first(test).n,
        documents=_first(test).documents,
        p95=passing.kl_p95,
        gate=gates.kl_p95,
        gain=passing.below_own_tokens,
        se=passing.below_own_tokens_se,
    )
    return ("own-layers" if passing.own_layers else "hand-over"), passing.own_layers, words


def _first(test: Injection) -> Hybrid:
    return next(row for row in test.hybrid if row.part == "layers")


def _why_not(test: Injection, ladder: list[Rung], gates: Gates) -> Message:
    if not test.reproduces:
        return Message("The student’s own cache, injected, does not reproduce its logits.")
    if not ladder:
        return Message("Not measured: the hybrids were left out.")
    best = min(ladder, key=lambda rung: len(rung.failed))
    return Message(
        "At no number of own layers do all gates hold; nearest, with {n}, these do not: {gates} (KL of 95 % of the "
        "tokens {p95:.3g}, gate {gate:g}).",
        n=best.own_layers,
        gates=[Message(GATES[name]) for name in best.failed],
        p95=nan if best.kl_p95 is None else best.kl_p95,
        gate=gates.kl_p95,
    )


def longest_of(lengths: list, gates: Gates, longest_fitted: int) -> int:
    """Return the length, in student tokens, up to which every tried length passes the gate on KL."""
    most = longest_fitted
    for row in sorted(lengths, key=lambda row: row.tokens):
        if row.kl_p95 is None or row.kl_p95 > gates.kl_p95:
            return min(most, row.tokens) if row.tokens <= longest_fitted else most
        most = max(most, row.tokens)
    return most
