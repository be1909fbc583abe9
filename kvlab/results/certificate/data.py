"""A certificate: may an engine hand a teacher's cache of a text over to a student? No torch here.

``certificate.json`` holds everything; its schema is ``docs/certificate.schema.json``. Numbers that could not be
measured are null. KL is KL(own || handed over) of the next token, in nats, on documents that no map was fitted on.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvlab.errors import AlignError, system_reason
from kvlab.language import Message, phrase
from kvlab.request.certify import Gates

NAME, REPORT = "certificate.json", "certificate.html"
VERSION = 1
Verdict = Literal["hand-over", "own-layers", "prefill-anew"]
WORDS = {
    "hand-over": phrase("Hand over"),
    "own-layers": phrase("Hand over, with {n} own layers"),
    "prefill-anew": phrase("Prefill anew"),
}


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelId(Part):
    name: str
    architecture: str
    fingerprint: str = Field(description="of configuration, tokenizer and a sample of the weights")
    revision: str | None = None


class Continuation(Part):
    """A variant of the prefix's cache, per continuation token."""

    variant: str
    kl: float | None
    kl_se: float | None
    kl_p95: float | None
    kl_p99: float | None
    delta_ce: float | None
    delta_ce_se: float | None
    same_choice: float | None = Field(description="top-1 agreement: share of tokens with the own cache's choice")
    n: int
    documents: int


class Group(Part):
    """The handed-over cache on the documents of one language or domain."""

    label: str
    name: str
    kl: float | None
    kl_se: float | None
    kl_p95: float | None = Field(description="null below 100 tokens")
    same_choice: float | None
    n: int
    documents: int


class OfDocument(Part):
    variant: str
    document: str
    language: str
    domain: str
    kl: float | None
    kl_p95: float | None
    kl_p99: float | None
    delta_ce: float | None
    same_choice: float | None
    n: int


class Head(Part):
    """Held-out R² of one KV head on replaced rows, beside its controls."""

    kind: Literal["key", "value"]
    layer: int
    head: int
    r2: float | None = Field(description="of the certified source")
    controls: dict[str, float | None]
    n: int


class Output(Part):
    """The output of the query heads of one KV head, keys and values handed over, against that on the own cache."""

    layer: int
    head: int
    cosine: float | None
    error: float | None = Field(description="RSS / TSS about the mean own output")
    n: int


class Rung(Part):
    """The student's own keys and values in its first layers, the handed-over ones above."""

    own_layers: int
    kl: float | None
    kl_se: float | None
    kl_p95: float | None
    head_output_cosine: float | None
    below_own_tokens: float | None = Field(description="KL of what needs no teacher less this one's")
    below_own_tokens_se: float | None
    groups_p95: dict[str, float | None]
    failed: tuple[str, ...] = Field(description="names of the gates that it does not pass")


class Length(Part):
    """Texts longer than any that was fitted on: judged documents joined."""

    tokens: int = Field(description="least length of the prefix, in student tokens")
    times: float = Field(description="of the longest fitted text")
    kl: float | None
    kl_se: float | None
    kl_p95: float | None
    below_own_tokens: float | None
    below_own_tokens_se: float | None
    n: int
    documents: int


class Answers(Part):
    """Greedy continuations of the prompts of documents that have an answer."""

    variant: str
    right: float | None
    se: float | None
    less_own: float | None
    less_own_se: float | None
    documents: int


class Cost(Part):
    """What a text of this length costs, as medians of ``rounds``: seconds of each part, and bytes."""

    length: int = Field(description="student tokens")
    teacher_tokens: int = Field(description="of all teachers together")
    own_tokens: int = Field(description="student tokens that the student reads itself, before the last")
    teacher_prefill_s: float = Field(description="the teachers read the text")
    mapping_s: float = Field(description="from their caches to the student's, with what the student reads itself")
    student_prefill_s: float = Field(description="the student reads all but the last token: what is saved")
    first_token_s: float = Field(description="the student reads the last token behind its cache")
    bytes_moved: int = Field(description="of the teachers' caches that the map reads")
    bytes_cached: int = Field(description="the student's cache")
    rounds: int

    @property
    def handed_s(self) -> float:
        """Seconds to the first token where the teachers' caches are there, as in a router."""
        return self.mapping_s + self.first_token_s

    @property
    def cold_s(self) -> float:
        """Seconds to the first token without a hand-over."""
        return self.student_prefill_s + self.first_token_s


class TaskScore(Part):
    """A task scored behind one variant of its context: own, handed, none, or the teacher alone."""

    task: str
    metric: str = Field(description="accuracy, accuracy per byte, or exact match")
    variant: Literal["own", "handed", "none", "teacher"]
    right: float | None
    se: float | None
    less_own: float | None = Field(description="mean of the paired differences from the student behind its own cache")
    less_own_low: float | None = Field(description="of the 95 % t interval")
    less_own_high: float | None
    n: int


class Certificate(Part):
    model_config = ConfigDict(frozen=True, extra="forbid", title="kvlab-certificate")

    format: Literal["kvlab-certificate"] = "kvlab-certificate"
    version: Literal[1] = VERSION
    id: str = Field("", description="of everything else that stands here")
    made: str = Field(description="time, ISO 8601")
    kvlab: str
    map_id: str
    teachers: tuple[ModelId, ...]
    student: ModelId
    settings: dict[str, Any]
    prompts: str
    documents_sha256: str
    documents_fitted: int
    documents_judged: int
    rows_fitted: int
    share_replaced: float | None
    longest_fitted: int = Field(description="student tokens")
    source: str = Field(description="what is handed over: projected, or with-own-token")
    gates: Gates
    verdict: Verdict
    own_layers: int = Field(description="of the verdict")
    why: Any = Field(description="one sentence: a template and its values")
    longest: int = Field(description="student tokens up to which the verdict holds")
    rungs: tuple[Rung, ...]
    injected: tuple[Continuation, ...]
    groups: tuple[Group, ...]
    documents: tuple[OfDocument, ...]
    heads: tuple[Head, ...]
    outputs: tuple[Output, ...]
    lengths: tuple[Length, ...]
    answers: tuple[Answers, ...]
    latency: tuple[Cost, ...] = ()
    tasks: tuple[TaskScore, ...] = ()
    notes: tuple[Any, ...] = ()
    surroundings: dict[str, Any]

    def signed(self) -> "Certificate":
        """Return the certificate with its id."""
        text = self.model_copy(update={"id": ""}).model_dump_json()
        return self.model_copy(update={"id": hashlib.sha256(text.encode()).hexdigest()[:16]})

    @property
    def approximate(self) -> bool:
        """Return whether a cache under this certificate holds rows that the student has not computed."""
        return self.verdict != "prefill-anew"

    def accepts(self, models: Sequence[str], length: int) -> "Acceptance":
        """Answer an engine: may the cache of a text of ``length`` student tokens be handed over between these models?

        ``models``: the teachers in their order, then the student, each by name or by fingerprint.
        """
        known = [*self.teachers, self.student]
        if self.verdict == "prefill-anew":
            return self._refused(Message("the certificate says: prefill anew"))
        if len(models) != len(known):
            return self._refused(
                Message("{found} models instead of {expected}", found=len(models), expected=len(known))
            )
        for given, model in zip(models, known, strict=True):
            if given not in (model.name, model.fingerprint):
                return self._refused(Message("{found} instead of {expected}", found=given, expected=model.name))
        if length > self.longest:
            return self._refused(Message("{n:,} tokens; certified are at most {most:,}", n=length, most=self.longest))
        return Acceptance(accepted=True, certificate=self.id, own_layers=self.own_layers, approximate=True)

    def _refused(self, reason: Message) -> "Acceptance":
        return Acceptance(accepted=False, certificate=self.id, reason=str(reason))


class Acceptance(Part):
    """The answer to an engine. ``approximate``: to be written on every block of the cache, beside the id."""

    accepted: bool
    certificate: str
    own_layers: int = 0
    approximate: bool = False
    reason: str = ""

    def __bool__(self) -> bool:
        return self.accepted


def schema() -> dict[str, Any]:
    """Return the JSON schema of a certificate."""
    return Certificate.model_json_schema(mode="serialization")


def write(certificate: Certificate, folder: Path) -> None:
    """Write ``certificate.json`` in one step."""
    partial = folder / f"{NAME}.partial"
    partial.write_text(as_json(certificate), encoding="utf-8")
    partial.replace(folder / NAME)


def as_json(certificate: Certificate) -> str:
    """Return the text of certificate.json."""
    return json.dumps(certificate.model_dump(mode="json"), ensure_ascii=False, indent=1, allow_nan=False)


def read(path: Path | str) -> Certificate:
    """Read a certificate; ``path`` of the file, or of its folder.

    Raises AlignError ``certificate-unreadable``, also where the numbers are not those that its id was made of.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    try:
        found = Certificate.model_validate_json(path.read_bytes())
        problem = "" if found == found.signed() else Message("numbers that were changed after it was made")
    except OSError as error:
        found, problem = None, system_reason(error)
    except ValidationError as error:
        first = error.errors()[0]
        found, problem = None, f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    if problem:
        raise AlignError(
            "certificate-unreadable",
            expected=Message(
                "a certificate as written by kvlab, version {version}, at {place}", version=VERSION, place=path
            ),
            found=problem,
            remedy=Message("make it anew: python -m kvlab certify"),
        )
    return found
