"""Judge whether a training run helps: its student against itself before, and against the runs that are its controls.

Two measures, both on the same held-out documents and lower is better: cross-entropy, and the KL of the student on the
projected cache against its own (the functional test, where it was asked for). A comparison is the difference of two
means per token, paired by document, with its standard error by jackknife over documents. It is

    better  if the difference is below minus two standard errors, worse above two, else no different;
    unknown without a standard error: fewer than three documents, or a run of an older version.

The run is

    worse          if any comparison is worse;
    not compared   if a comparison is unknown, or its first control (CE only, where that can be run) is not finished;
    better         if by one measure it is better than before and better than every finished control;
    no different   otherwise.

A run that is a control is not judged: it is compared with its start alone, and shows what happens without the teacher.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvlab.language import phrase, say
from kvlab.results.style import written
from kvlab.results.training import records
from kvlab.results.training.records import Kin
from kvlab.results.words import clauses, listed, sentences

BETTER, ALIKE, WORSE, UNKNOWN = "better", "alike", "worse", "unknown"
OPEN, CONTROL = "open", "control"  # of a run, beside the first three
CLEAR = 2.0  # standard errors
LEAST = 3  # documents of a standard error
BEFORE = "before"

MARKS = {
    BETTER: phrase("▲ better"),
    ALIKE: phrase("= no different"),
    WORSE: phrase("▼ worse"),
    OPEN: phrase("? not compared yet"),
    CONTROL: phrase("a control"),
}
MEASURES = {"ce": phrase("held-out cross-entropy"), "kl": phrase("KL on the projected cache")}
REFERENCES = {
    BEFORE: phrase("before"),
    "ce-only": phrase("CE only"),
    "shuffled-teacher": phrase("the shuffled teacher"),
    "random-teacher": phrase("the random teacher"),
}
PURPOSES = {
    "ce-only": phrase("It shows what the training text alone does to the student."),
    "shuffled-teacher": phrase("It shows what a teacher whose rows are out of order does to the student."),
    "random-teacher": phrase("It shows what a teacher of random weights does to the student."),
}

Sums = Sequence[Sequence[float]]  # of each document: a sum, and its tokens


@dataclass(frozen=True)
class Comparison:
    """This run after its training, minus ``against``: "before", or the control of another run. Nats per token."""

    measure: str  # "ce" | "kl"
    against: str
    difference: float
    se: float  # NaN: unknown
    documents: int
    tokens: int

    @property
    def state(self) -> str:
        if not math.isfinite(self.se):
            return UNKNOWN
        if abs(self.difference) <= CLEAR * self.se:
            return ALIKE
        return WORSE if self.difference > 0 else BETTER

    @property
    def number(self) -> str:
        """Return the difference with its standard error: −0.1200 ± 0.0100."""
        return written(self.difference, 4, "+") + (f" ± {self.se:.4f}" if math.isfinite(self.se) else "")


@dataclass(frozen=True)
class Helps:
    """The judgement of one run. ``missing``: its controls without a finished run, the most telling first."""

    state: str  # a key of MARKS
    control: str  # "none" for a run with teachers
    comparisons: tuple[Comparison, ...]
    missing: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        rows = [{**vars(c), "se": c.se if math.isfinite(c.se) else None, "state": c.state} for c in self.comparisons]
        return {"state": self.state, "control": self.control, "comparisons": rows, "missing": list(self.missing)}


def of_run(folder: Path, kin: Sequence[Kin] | None = None) -> Helps | None:
    """Judge the run in ``folder``; None until it has measured its student before and after.

    ``kin``: the runs to find its controls among, as records.finished gives them; default: those beside it.
    """
    mine = records.kin_of(folder)
    if mine is None:
        return None
    return judge(mine, records.controls_among(mine, records.finished(folder.parent) if kin is None else kin))


def judge(mine: Kin, controls: Sequence[Kin]) -> Helps:
    """Judge a run against the newest finished run of each of its controls."""
    comparisons = _against(mine, mine.sums("before"), BEFORE)
    if mine.control != "none":
        return Helps(CONTROL, mine.control, tuple(comparisons), ())
    by_control = {run.control: run for run in controls}
    finished = {name: by_control[name] for name in records.CONTROLS if name in by_control}
    for name, run in finished.items():
        comparisons += _against(mine, run.sums("after"), name)
    missing = tuple(name for name in mine.possible if name not in finished)
    return Helps(_state(comparisons, mine.possible, finished), mine.control, tuple(comparisons), missing)


def _state(comparisons: Sequence[Comparison], possible: Sequence[str], finished: Any) -> str:
    states = [comparison.state for comparison in comparisons]
    if WORSE in states:
        return WORSE
    if not states or UNKNOWN in states or not possible or possible[0] not in finished:
        return OPEN
    for measure in MEASURES:
        of_measure = [c for c in comparisons if c.measure == measure]
        if {c.against for c in of_measure} == {BEFORE, *finished} and all(c.state == BETTER for c in of_measure):
            return BETTER
    return ALIKE


def _against(mine: Kin, theirs: dict[str, Sums], against: str) -> list[Comparison]:
    own = mine.sums("after")
    return [_compared(measure, against, own[measure], theirs[measure]) for measure in own if measure in theirs]


def _compared(measure: str, against: str, mine: Sums, theirs: Sums) -> Comparison:
    """Compare sums of the same documents; with other documents, or means alone, no standard error is known."""
    paired = [tokens for _, tokens in mine] == [tokens for _, tokens in theirs]
    tokens = sum(n for _, n in mine)
    difference = _mean(mine) - _mean(theirs)
    se = math.nan
    if paired:
        se = _jackknife([a - b for (a, _), (b, _) in zip(mine, theirs)], [n for _, n in mine])
    return Comparison(measure, against, difference, se, len(mine), int(tokens))


def _mean(sums: Sums) -> float:
    return math.fsum(value for value, _ in sums) / sum(n for _, n in sums)


def _jackknife(sums: Sequence[float], counts: Sequence[float]) -> float:
    """Return the standard error of sum(sums) / sum(counts), leaving out one document at a time (Efron, Stein 1981)."""
    documents, total, n = len(sums), math.fsum(sums), sum(counts)
    if documents < LEAST or any(count >= n for count in counts):
        return math.nan
    left_out = [(total - value) / (n - count) for value, count in zip(sums, counts)]
    middle = math.fsum(left_out) / documents
    return math.sqrt((documents - 1) / documents * math.fsum((value - middle) ** 2 for value in left_out))


# --- words --------------------------------------------------------------------------------------------------------

LEADS = {
    BETTER: phrase("**It helps: better.** {why}."),
    ALIKE: phrase("**It helps: no different.** {why}."),
    WORSE: phrase("**It helps: worse.** {why}."),
}
NOT_JUDGED = phrase("**It helps: not compared yet.**")


def mark(helps: Helps | None) -> str | None:
    """Return the judgement for a column: ▲ better."""
    return say(MARKS[helps.state]) if helps else None


def lead(helps: Helps | None) -> str:
    """Say the judgement in one sentence of Markdown, with the comparisons that decide it."""
    if helps is None:
        return sentences(say(NOT_JUDGED), say("The run has not measured its student before and after."))
    if helps.state == CONTROL:
        control = say("**This run is a control.** {purpose}", purpose=say(PURPOSES.get(helps.control, "")))
        return sentences(control, say("{change}.", change=_told(helps.comparisons)) if helps.comparisons else "")
    if helps.state == OPEN:
        start = [c for c in helps.comparisons if c.against == BEFORE]
        course = say("{change}.", change=_told(start)) if start else ""
        return sentences(say(NOT_JUDGED), course, _why(helps))
    deciding = [c for c in helps.comparisons if c.state == helps.state] or helps.comparisons
    return say(LEADS[helps.state], why=_told(_telling(deciding)))


def _telling(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return, for each measure, the comparison with the start and the one with the strongest control."""
    chosen = []
    for measure in MEASURES:
        of_measure = [c for c in comparisons if c.measure == measure]
        controls = [c for c in of_measure if c.against != BEFORE]
        chosen += [c for c in of_measure if c.against == BEFORE]
        chosen += [max(controls, key=lambda c: c.difference)] if controls else []
    return chosen


def _told(comparisons: Sequence[Comparison]) -> str:
    """Write comparisons by measure: Held-out cross-entropy +0.04 ± 0.01 against before and +0.02 against CE only."""
    told = []
    for measure, name in MEASURES.items():
        parts = [
            say("{difference} against {reference}", difference=c.number, reference=say(REFERENCES[c.against]))
            for c in comparisons
            if c.measure == measure
        ]
        if parts:
            told.append(say("{measure} {differences}", measure=say(name), differences=say(", ").join(parts)))
    return _capital(clauses(told))


def _why(helps: Helps) -> str:
    """Say why a run is not compared yet."""
    if any(c.state == UNKNOWN for c in helps.comparisons) or not helps.comparisons:
        return say("It has no standard error: too few held-out documents, or a run of an older version.")
    names = [say(REFERENCES[name]) for name in helps.missing]
    return say("Still to be run with the same settings: {names}.", names=listed(names)) if names else ""


def counted(helps: Helps) -> str:
    """Say what the differences are of."""
    parts = {c.measure: c for c in helps.comparisons if math.isfinite(c.se)}
    told = [
        say(
            "{measure}: n = {tokens:,} tokens of {documents} documents",
            measure=say(MEASURES[name]),
            tokens=c.tokens,
            documents=c.documents,
        )
        for name, c in parts.items()
    ]
    if not told:
        return ""
    about = phrase(
        "Differences in nats per token on held-out documents, ± standard error over documents ({counts}); clear from "
        "two standard errors on, lower is better."
    )
    return say(about, counts=say("; ").join(told))


def rows(helps: Helps) -> list[tuple[str, str, str, str]]:
    """Return measure, reference, difference and reading of every comparison."""
    read = {**MARKS, UNKNOWN: phrase("? no standard error")}
    return [
        (
            say(MEASURES[c.measure]),
            say(REFERENCES[c.against]),
            c.number,
            say(read[c.state]),
        )
        for c in helps.comparisons
    ]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def read(fields: object) -> Helps | None:
    """Restore a judgement from ``to_dict``."""
    if not isinstance(fields, dict):
        return None
    names = ("measure", "against", "difference", "se", "documents", "tokens")
    comparisons = [{name: row[name] for name in names} for row in fields["comparisons"]]
    known = [Comparison(**row | {"se": math.nan if row["se"] is None else row["se"]}) for row in comparisons]
    return Helps(fields["state"], fields["control"], tuple(known), tuple(fields["missing"]))
