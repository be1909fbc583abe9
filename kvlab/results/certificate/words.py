"""Say a certificate: its answer, and its tables."""

from dataclasses import dataclass

import pandas as pd

from kvlab.language import Message, phrase, say
from kvlab.request.align import prompt_source
from kvlab.request.certify import NOT_ASKED
from kvlab.results.answer import NO, PART, YES, Answer
from kvlab.results.certificate.data import WORDS, Certificate, Cost, Rung
from kvlab.results.certificate.verdict import GATES
from kvlab.results.function.data import NAMES
from kvlab.results.style import written
from kvlab.results.words import sentences

COLOURS = {"hand-over": YES, "own-layers": PART, "prefill-anew": NO}


@dataclass(frozen=True)
class Answered(Answer):
    """The answer of a certificate, in its own words."""

    spoken: str

    @property
    def words(self) -> str:
        return self.spoken


def answered(certificate: Certificate) -> Answered:
    """Return the verdict and why, with the length that it holds up to."""
    spoken = say(WORDS[certificate.verdict], n=certificate.own_layers)
    why = [str(Message.read(certificate.why))]
    if certificate.approximate:
        why.append(say("This holds up to {n:,} student tokens.", n=certificate.longest))
        longer = next((row for row in certificate.lengths if row.tokens > certificate.longest), None)
        if longer is not None and longer.kl_p95 is not None:
            why.append(say("With {n:,} it would be {p95}.", n=longer.tokens, p95=written(longer.kl_p95)))
    return Answered(COLOURS[certificate.verdict], sentences(*why), spoken)


def scope(certificate: Certificate) -> str:
    """Say what the verdict is of: models, n, split, source, length."""
    return say(
        "{teachers} → {student}: {source}, on {judged} documents held out from the fit on {fitted} others ({prompts}); "
        "certified up to {longest:,} student tokens, the longest fitted text has {most:,}.",
        teachers=" + ".join(teacher.name for teacher in certificate.teachers),
        student=certificate.student.name,
        source=say(NAMES[certificate.source]),
        judged=certificate.documents_judged,
        fitted=certificate.documents_fitted,
        prompts=prompt_source(certificate.prompts),
        longest=certificate.longest,
        most=certificate.longest_fitted,
    )


def ladder_table(certificate: Certificate) -> pd.DataFrame:
    """Return a row per number of own layers: every gate's number, and which gates do not hold."""
    return pd.DataFrame(
        {
            say("own layers"): rung.own_layers,
            say("KL, mean"): _with_error(rung.kl, rung.kl_se),
            say("KL, 95 % of tokens"): _number(rung.kl_p95),
            say("cosine of the heads' outputs"): _number(rung.head_output_cosine),
            say("KL below own tokens"): _with_error(rung.below_own_tokens, rung.below_own_tokens_se, "+"),
            say("gates that do not hold"): missing(rung),
        }
        for rung in certificate.rungs
    )


def missing(rung: Rung) -> str:
    """Name the gates that a rung does not pass; a check mark where it passes all."""
    return say(", ").join(say(GATES[name]) for name in rung.failed) or "✓"


def variants_table(certificate: Certificate) -> pd.DataFrame:
    """Return the continuation after every variant of the prefix's cache."""
    return pd.DataFrame(
        {
            say("variant"): say(NAMES[row.variant]),
            say("KL, mean"): _with_error(row.kl, row.kl_se),
            say("KL, 95 % of tokens"): _number(row.kl_p95),
            say("KL, 99 % of tokens"): _number(row.kl_p99),
            "ΔCE": _with_error(row.delta_ce, row.delta_ce_se, "+"),
            say("same most likely token"): _share(row.same_choice),
            "n": f"{row.n:,} ({row.documents})",
        }
        for row in certificate.injected
    )


def groups_table(certificate: Certificate) -> pd.DataFrame:
    """Return a row for every language and domain of the prompts."""
    labels = {"language": say("language"), "domain": say("domain")}
    return pd.DataFrame(
        {
            say("group"): say("{label}: {name}", label=labels[row.label], name=row.name),
            say("KL, mean"): _with_error(row.kl, row.kl_se),
            say("KL, 95 % of tokens"): _number(row.kl_p95),
            say("same most likely token"): _share(row.same_choice),
            "n": f"{row.n:,} ({row.documents})",
        }
        for row in certificate.groups
    )


def lengths_table(certificate: Certificate) -> pd.DataFrame:
    """Return a row for every tried length."""
    return pd.DataFrame(
        {
            say("prefix, student tokens"): f"{row.tokens:,}",
            say("× the longest fitted"): f"{row.times:g}",
            say("KL, mean"): _with_error(row.kl, row.kl_se),
            say("KL, 95 % of tokens"): _number(row.kl_p95),
            say("KL below own tokens"): _with_error(row.below_own_tokens, row.below_own_tokens_se, "+"),
            "n": f"{row.n:,} ({row.documents})",
        }
        for row in certificate.lengths
    )


def latency_table(certificate: Certificate) -> pd.DataFrame:
    """Return a row for every timed length: milliseconds of every part, and bytes per token."""
    return pd.DataFrame(
        {
            say("student tokens"): f"{row.length:,}",
            say("teacher's prefill, ms"): _ms(row.teacher_prefill_s),
            say("map, ms"): _ms(row.mapping_s),
            say("student's prefill, ms"): _ms(row.student_prefill_s),
            say("first token handed over, ms"): _ms(row.handed_s),
            say("first token cold, ms"): _ms(row.cold_s),
            say("faster"): f"{row.cold_s / row.handed_s:.2g} ×",
            say("read by the student"): f"{row.own_tokens:,}",
            say("bytes per token: moved, cached"): _bytes(row),
        }
        for row in certificate.latency
    )


def _bytes(row: Cost) -> str:
    return f"{row.bytes_moved // row.teacher_tokens:,} · {row.bytes_cached // row.length:,}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


def answers_table(certificate: Certificate) -> pd.DataFrame:
    """Return the share of right answers after every variant."""
    return pd.DataFrame(
        {
            say("variant"): say(NAMES[row.variant]),
            say("answers right"): _share(row.right),
            say("less own cache"): _with_error(row.less_own, row.less_own_se, "+"),
            say("documents"): str(row.documents),
        }
        for row in certificate.answers
    )


VARIANTS = {
    "own": phrase("student, own cache"),
    "handed": phrase("student, handed over"),
    "none": phrase("student without the context"),
    "teacher": phrase("teacher alone"),
}
METRICS = {
    "accuracy": phrase("accuracy"),
    "accuracy per byte": phrase("accuracy per byte"),
    "exact match": phrase("exact match"),
}


def tasks_table(certificate: Certificate) -> pd.DataFrame:
    """Return a row for every task, metric and variant, with the interval of its difference from the own cache."""
    return pd.DataFrame(
        {
            say("task"): row.task,
            say("metric"): say(METRICS[row.metric]),
            say("variant"): say(VARIANTS[row.variant]),
            say("right"): _share(row.right),
            say("less own cache"): "–" if row.variant == "own" else _number(row.less_own),
            say("95 % interval"): f"{_number(row.less_own_low)} … {_number(row.less_own_high)}",
            "n": str(row.n),
        }
        for row in certificate.tasks
    )


def documents_table(certificate: Certificate) -> pd.DataFrame:
    """Return a row for every judged document, the worst first."""
    rows = sorted(certificate.documents, key=lambda row: -(row.kl or 0.0))
    return pd.DataFrame(
        {
            say("document"): row.document,
            say("language"): row.language,
            say("domain"): row.domain,
            say("KL, mean"): _number(row.kl),
            say("KL, 95 % of tokens"): _number(row.kl_p95),
            say("KL, 99 % of tokens"): _number(row.kl_p99),
            say("same most likely token"): _share(row.same_choice),
            "n": str(row.n),
        }
        for row in rows
    )


def manifest_table(certificate: Certificate) -> pd.DataFrame:
    """Return which models, which map and which versions it is of."""
    models = [(say("teacher"), teacher) for teacher in certificate.teachers] + [(say("student"), certificate.student)]
    rows = [(role, f"{model.name} ({model.architecture}), {model.fingerprint}") for role, model in models]
    rows += [(say("certificate"), certificate.id), (say("map"), certificate.map_id), (say("made"), certificate.made)]
    rows.append(("kvlab", certificate.kvlab))
    spoken = {"device": say("device"), "threads": say("threads")}  # the others are names of packages
    rows += [(spoken.get(name, name), str(value)) for name, value in certificate.surroundings.items()]
    return pd.DataFrame(rows, columns=[say("name"), say("value")])


def spoken_note(note: object) -> str:
    """Return a note of a certificate in the current language."""
    return str(Message.read(note))


def gates_line(certificate: Certificate) -> str:
    """Say the gates."""
    gates = certificate.gates
    cosine = say("not asked for") if gates.head_output_cosine == NOT_ASKED else f"≥ {gates.head_output_cosine:g}"
    groups = say("in every language and domain too") if gates.every_group else say("over all documents")
    controls = say("what needs no teacher")
    if gates.beats_random:
        controls = say("{one} and {other}", one=controls, other=say("a teacher of random weights"))
    return say(
        "Gates: KL of 95 % of the tokens ≤ {kl:g} nats ({groups}); cosine of the heads' outputs, mean: {cosine}; KL "
        "below that of {controls} by two standard errors; at least three documents and 100 tokens.",
        kl=gates.kl_p95,
        groups=groups,
        cosine=cosine,
        controls=controls,
    )


def _number(value: float | None) -> str:
    return "–" if value is None else written(value)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _with_error(value: float | None, error: float | None, sign: str = "") -> str:
    if value is None:
        return "–"
    return written(value, sign=sign) + ("" if error is None else f" ± {error:.3f}")
