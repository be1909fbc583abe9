"""Answer whether the teacher's cache can be aligned, or used: yes, in part, no, or it cannot be told.

The rules, first match first. A head gains if it beats every control (``HeadScore.unbeaten``); it is open if it does not
but a gain of ``SMALL`` over its strongest control is within two standard errors. The functional test helps if a source
beats the student's own tokens, the strongest control without a teacher, by two standard errors.

    Cannot be told   no standard errors (fewer than three scored documents), or fewer than ``LEAST_TOKENS`` tokens
    Yes              at least half of the heads gain, the own tokens were measured, and the test (if any) helps
    In part          more heads gain than ``BY_CHANCE``, or the test helps
    Cannot be told   half of the heads or more are open
    No               else
"""

from dataclasses import dataclass
from math import isfinite

from kvlab.language import phrase, say
from kvlab.results.alignment.data import Alignment, HeadScore
from kvlab.results.function.data import Injected, Injection, own_tokens_of
from kvlab.results.function.sentences import beaten, useful, variant
from kvlab.results.memo import once
from kvlab.results.style import KIND_NAME, plus_minus, written
from kvlab.results.words import sentences

YES, PART, NO, CANNOT_TELL = "yes", "part", "no", "unknown"
WORDS = {YES: phrase("Yes"), PART: phrase("In part"), NO: phrase("No"), CANNOT_TELL: phrase("Cannot be told")}
LEAST_TOKENS = 100  # scored
LEAST_DOCUMENTS = 3  # scored; with fewer there is no standard error
MOST_HEADS = 0.5
BY_CHANCE = 0.1  # of many heads, one in ten is beyond two standard errors by chance alone
SMALL = 0.05  # R², and share of the KL: a gain below it is none

RULES = phrase(
    "Yes: in at least half of the heads the teacher beats every control by two standard errors, and in the functional "
    "test, if there is one, the student does better than with its own tokens alone. In part: in more than one head in "
    "ten, or in the test only. Cannot be told: too few tokens, or errors as large as the gains. No: else."
)


@dataclass(frozen=True)
class Answer:
    verdict: str  # a key of WORDS
    why: str

    @property
    def words(self) -> str:
        return say(WORDS[self.verdict])

    def line(self) -> str:
        """Return verdict and reason in one line."""
        return sentences(say("{verdict}.", verdict=self.words), self.why)


@dataclass(frozen=True)
class Heads:
    """How many heads gain, and what; the gains are means over heads of those over the strongest control."""

    known: int  # heads with a standard error
    clear: int
    open: int
    gains: dict[str, float]
    own_tokens: bool  # measured


@once
def heads(alignment: Alignment) -> Heads:
    """Count the heads that gain, and those of which it is open."""
    scored = [score for score in alignment.heads if isfinite(score.r2)]
    strongest = {kind: [s.strongest.r2 for s in scored if s.kind == kind] for kind in KIND_NAME}
    return Heads(
        known=sum(score.unbeaten is not None for score in scored),
        clear=sum(score.beats_controls is True for score in scored),
        open=sum(_open(score) for score in scored),
        gains={kind: sum(gains) / len(gains) if gains else float("nan") for kind, gains in strongest.items()},
        own_tokens=any(isfinite(score.r2_own) for score in scored),
    )


def _open(score: HeadScore) -> bool:
    gain = score.strongest
    return score.beats_controls is False and not gain.r2 + gain.error < SMALL


def of_analysis(alignment: Alignment, test: Injection | None = None) -> Answer:
    """Answer whether the teacher's cache can be aligned with the student's. ``test``: of the same request."""
    found, data = heads(alignment), alignment.data
    few = data["rows_scored"] < LEAST_TOKENS
    if few or data["documents"] < LEAST_DOCUMENTS or not found.known:
        words = phrase("{tokens:,} scored tokens of {documents} documents are too few: add prompts.")
        return Answer(CANNOT_TELL, say(words, tokens=data["rows_scored"], documents=data["documents"]))
    source = None if test is None else best_source(test)
    helps = None if source is None else useful(test, source.prefix)[source.variant]
    share = found.clear / found.known
    why = [_heads_sentence(found)]
    if source is not None:
        why.append(_source_sentence(test, source, helps))
    if share >= MOST_HEADS and found.own_tokens and helps is not False:
        verdict = YES
    elif share > BY_CHANCE or helps:
        verdict = PART
    else:
        verdict = CANNOT_TELL if found.open >= MOST_HEADS * found.known else NO
    if verdict == CANNOT_TELL:
        open_heads = phrase("In {open} the error is as large as a gain would be: add prompts.")
        why.append(say(open_heads, open=found.open))
    elif not found.own_tokens:
        why.append(say("The student’s own tokens were not measured: run it again."))
    return Answer(verdict, sentences(*why))


def of_test(test: Injection) -> Answer:
    """Answer whether the student can use the teacher's cache."""
    if not test.reproduces:
        return Answer(CANNOT_TELL, say("The student’s own cache, injected, does not reproduce its logits."))
    source = best_source(test)
    if source is None:
        judged = beaten(test, test.injection["prefix"])
        known = bool(judged) and None not in judged.values()
        words = phrase("The student’s own tokens were not measured: run it again.")
        if not known:
            words = phrase("Fewer than three documents give no standard error: add prompts.")
        return Answer(PART if known and all(judged.values()) else CANNOT_TELL, say(words))
    helps = useful(test, source.prefix)[source.variant]
    why = _source_sentence(test, source, helps)
    if helps:
        lost = [name for name, beats in beaten(test, source.prefix).items() if not beats]
        return Answer(PART if lost or source.variant != "projected" else YES, why)
    own = variant(test, own_tokens_of(source.variant), source.prefix)
    undecided = source.below_own_tokens + 2 * source.below_own_tokens_se >= SMALL * own.kl
    return Answer(CANNOT_TELL if undecided else NO, why)


def best_source(test: Injection) -> Injected | None:
    """Return the first source that beats the student's own tokens, else the first judged against them; None unknown."""
    if not test.reproduces:
        return None
    judged = {source: beats for source, beats in useful(test, test.injection["prefix"]).items() if beats is not None}
    first = next((source for source, beats in judged.items() if beats), next(iter(judged), None))
    return None if first is None else test.score(first)


def _heads_sentence(found: Heads) -> str:
    gains = [say("{kind} {gain}", kind=name, gain=written(found.gains[k], 2, "+")) for k, name in KIND_NAME.items()]
    return say(
        "In {clear} of {heads} heads the teacher explains more than every control (R² {gains}).",
        clear=found.clear,
        heads=found.known,
        gains=say(", ").join(gains),
    )


HELPS = {
    True: phrase("The student can use it: KL {kl:.3f}, without a teacher {own:.3f}."),
    False: phrase("The student does no better with it: KL {kl:.3f}, without a teacher {own:.3f} (gain {gain})."),
}


def _source_sentence(test: Injection, source: Injected, helps: bool) -> str:
    own = variant(test, own_tokens_of(source.variant), source.prefix)
    gain = written(source.below_own_tokens, sign="+") + plus_minus(source.below_own_tokens_se)
    return say(HELPS[helps], kl=source.kl, own=own.kl, gain=gain)
