"""The settings of an analysis, checked before any weight is loaded. No torch here."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from kvlab.language import phrase, say
from kvlab.request.declared import PROJECTORS
from kvlab.request.segments import Markers, Source
from kvlab.request.settings import Request, setting
from kvlab.request.time_rules import RULES

TimeRule = Literal[tuple(RULES)]
LayerRule = Literal["depth", "cka", "heldout"]
RowWeights = Literal["equal", "attention"]
Search = Literal["banded", "full"]
Projector = Literal[tuple(PROJECTORS)]
LoadIn = Literal["none", "8bit", "4bit"]

# Of the teacher layers side by side that explain one student layer: memory and time grow with its square and cube.
MOST_FEATURES = 2048

# Where prompts came from if not from a file. No file has these names, because a readable file has an extension.
SAMPLES, PASTED = phrase("bundled samples"), phrase("pasted")


class AlignSettings(BaseModel):
    """The settings that decide how the caches are compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: TimeRule = setting("floor", "which teacher step stands for a student step")
    rows: Literal["by-class", "exact"] = setting(
        "by-class", "tokens that end inside a teacher token: a map of their own, or the one fitted on exact tokens"
    )
    row_weights: RowWeights = setting(
        "equal", "fitted tokens: all alike, or by the attention that each receives from later tokens of the student"
    )
    layers: LayerRule = setting("heldout", "which teacher layers explain a student layer")
    search: Search = setting("banded", "teacher layers searched: near the proportional depth, or all")
    projector: Projector = setting("ridge", "the map from teacher heads to student heads")
    keys: Literal["pre-rope", "post-rope"] = setting("pre-rope", "keys with the rotation undone, or as cached")
    folds: int = setting(5, "folds of documents for cross-validation", ge=2, le=20)
    sinks: int = setting(4, "first content tokens of a document left out of fits and scores", ge=0, le=64)
    inspect: int = setting(12, "documents kept token by token for the detail panes", ge=0, le=200)
    max_tokens: int = setting(4096, "longest timeline per document; longer ones are cut, and said", ge=2)
    batch_tokens: int = setting(4096, "padded tokens per forward", ge=1)
    chat: bool = setting(False, "read prompts as a chat, in each model's own template, not as plain text")
    sample_tokens: int = setting(
        20_000, "student tokens, of the first 1,024 documents, that layers are chosen and controls measured on", ge=100
    )
    random_teacher: bool = setting(True, "control: a teacher of the same architecture with random weights")
    compare_rules: bool = setting(False, "also compare all time rules head by head, on the sample")
    seed: int = setting(0, "of the fold assignment, the shuffled control and the random weights", ge=0)


class AnalysisRequest(Request):
    """One alignment of one or more teachers with one student; ``config.yaml`` of a run folder."""

    command: ClassVar[str] = "align"

    teacher: str = setting(..., "a demo model, a Hugging Face id, an alias or a local folder")
    more_teachers: tuple[str, ...] = setting((), "further teachers, each aligned on its own and all fused")
    student: str = setting(..., "the model whose cache is explained, named like a teacher")
    prompts: str = setting(SAMPLES, "where the prompts came from, in words")
    calibration: Literal["auto", "samples", "none"] = setting(
        "auto", "fit also on the bundled samples (scores stay on the prompts); auto: under 20 documents"
    )
    segments: Source = setting(
        "auto", "prompt, reasoning and answer from the fields of the upload, else from markers; or none"
    )
    markers: Markers = setting(Markers(), "what opens the reasoning and the answer in a text without fields")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = setting(
        "auto", "of the models; auto: float32 on the processor, a 16-bit type on a GPU"
    )
    load_in: LoadIn = setting(
        "none", "quantise the teachers' weights as they are read, with bitsandbytes; none: as they are"
    )
    split_teacher: bool = setting(False, "spread each teacher's layers over all GPUs, and the machine's memory")
    settings: AlignSettings = AlignSettings()

    @property
    def teachers(self) -> tuple[str, ...]:
        return (self.teacher, *self.more_teachers)


def prompt_source(prompts: str) -> str:
    """Say where prompts came from: translate our own words, leave the name of a file as it is."""
    return say(prompts) if prompts in (SAMPLES, PASTED) else prompts
