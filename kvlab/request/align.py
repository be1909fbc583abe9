"""What a user asks for: the settings of an analysis, checked before any weight is loaded. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvlab.errors import AlignError
from kvlab.language import Message, phrase, say
from kvlab.request.segments import Markers, Source

TimeRule = Literal["exact", "floor", "ceil", "overlap", "linear", "nearest", "segment", "rkv"]
LayerRule = Literal["depth", "cka", "heldout"]
Search = Literal["banded", "full"]
Projector = Literal["ridge", "structured", "group-mean"]
KeySpace = Literal["pre-rope", "post-rope"]
Calibration = Literal["auto", "samples", "none"]


# Where prompts came from if not from a file. No file is called so: one that can be read has an extension.
SAMPLES, PASTED = phrase("bundled samples"), phrase("pasted")
CAUSAL = ("exact", "floor")  # time rules with which a prefix knows nothing of what comes after it


class AlignSettings(BaseModel):
    """How the caches are compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: TimeRule = Field("floor", description="which teacher step stands for a student step")
    layers: LayerRule = Field("heldout", description="which teacher layers explain a student layer")
    search: Search = Field("banded", description="teacher layers searched: near the proportional depth, or all")
    projector: Projector = Field("ridge", description="the map from teacher heads to student heads")
    keys: KeySpace = Field("pre-rope", description="keys with the rotation undone, or as cached")
    folds: int = Field(5, ge=2, le=20, description="folds of documents for cross-validation")
    sinks: int = Field(4, ge=0, le=64, description="first content tokens of a document left out of fits and scores")
    inspect: int = Field(12, ge=0, le=200, description="documents kept token by token for the detail panes")
    max_tokens: int = Field(4096, ge=2, description="longest timeline per document; longer ones are cut, and said")
    batch_tokens: int = Field(4096, ge=1, description="padded tokens per forward")
    chat: bool = Field(False, description="read prompts as a chat, in each model's own template, not as plain text")
    sample_tokens: int = Field(
        20_000,
        ge=100,
        description="student tokens, of the first 1,024 documents, that layers are chosen and controls measured on",
    )
    random_teacher: bool = Field(True, description="control: a teacher of the same architecture with random weights")
    compare_rules: bool = Field(False, description="also compare all time rules head by head, on the sample")
    seed: int = Field(0, ge=0, description="of the fold assignment, the shuffled control and the random weights")


class AnalysisRequest(BaseModel):
    """One alignment of one or more teachers with one student; ``config.yaml`` of a run folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: str = Field(description="a demo model, a Hugging Face id, an alias or a local folder")
    more_teachers: tuple[str, ...] = Field((), description="further teachers, each aligned on its own and all fused")
    student: str = Field(description="likewise")
    prompts: str = Field("bundled samples", description="where the prompts came from, in words")
    calibration: Calibration = Field(
        "auto",
        description="fit also on the bundled samples (scores stay on the prompts); auto: under 20 documents",
    )
    segments: Source = Field(
        "auto", description="prompt, reasoning and answer from the fields of the upload, else from markers; or none"
    )
    markers: Markers = Field(Markers(), description="what opens the reasoning and the answer in a text without fields")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    settings: AlignSettings = AlignSettings()

    @property
    def teachers(self) -> tuple[str, ...]:
        return (self.teacher, *self.more_teachers)


def prompt_source(prompts: str) -> str:
    """Say where prompts came from: our own words in the current language, a file by its name."""
    return say(prompts) if prompts in (SAMPLES, PASTED) else prompts


def checked(fields: dict) -> AnalysisRequest:
    """Fields of a form, a file or a command line -> request; AlignError names the first field that is wrong."""
    try:
        return AnalysisRequest(**fields)
    except (ValidationError, TypeError) as error:
        raise AlignError("request-invalid", **first_problem(error, "align")) from error


def first_problem(error: ValidationError | TypeError, command: str) -> dict[str, str]:
    """What the error says of the first setting that is wrong, as the parts of a KvlabError."""
    if isinstance(error, TypeError):
        return {
            "expected": Message("a table of settings"),
            "found": str(error),
            "remedy": Message("start from a saved config.yaml"),
        }
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the request"
    return {
        "expected": Message("{where}: {problem}", where=where, problem=problem["msg"]),
        "found": repr(problem.get("input"))[:200],
        "remedy": Message("correct this setting; `python -m kvlab {command} --help` lists them", command=command),
    }
