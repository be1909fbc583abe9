"""The settings of a functional test: those of an analysis, and of the injection. No torch here."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from kvlab.errors import AlignError
from kvlab.language import Message
from kvlab.request.align import AnalysisRequest
from kvlab.request.settings import setting
from kvlab.request.time_rules import CAUSAL, RULES

# Of a refinement through the student (kvlab.inject.refine).
EPOCHS = 6
REFINED_DOCUMENTS = 256  # at most
STOPPING = 8  # one document of so many stops the training
COMPONENTS = 192  # of what a source reads, at most

Share = Annotated[float, Field(gt=0, lt=1)]


class InjectSettings(BaseModel):
    """The settings of the injection: which part of each document to hand over, and how much to measure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: Share = setting(0.5, "share of a document's own student tokens whose cache is replaced")
    curve: tuple[Share, ...] = setting((0.25, 0.75), "further shares, for the curve over prefix lengths")
    refine: bool = setting(
        False, "correct the maps through the student: trained on the KL of fitted documents, takes minutes"
    )
    documents: int = setting(64, "documents judged at most, all held out from the fit", ge=2)
    swap_layers: int = setting(8, "layers whose heads are replaced one by one, the worst first; 0: none", ge=0)
    seconds: float | None = setting(None, "most seconds for swaps (default: no limit)", gt=0)
    forwards: int | None = setting(None, "most forwards for swaps (default: no limit)", ge=1)
    hybrid: bool = setting(True, "measure how much of the prefix the student must still read itself")
    texts: int = setting(32, "judged documents whose prompt is continued greedily", ge=0)
    new_tokens: int = setting(200, "longest greedy continuation, in tokens", ge=1)


class InjectionRequest(AnalysisRequest):
    """One functional test; ``config.yaml`` of its folder."""

    command: ClassVar[str] = "inject"

    injection: InjectSettings = InjectSettings()


def check_causal(rule: str) -> None:
    """Refuse a time rule that lets the prefix know what follows it. Raises AlignError ``rule-looks-ahead``."""
    if rule in CAUSAL:
        return
    raise AlignError(
        "rule-looks-ahead",
        expected=Message(
            "a causal time rule ({rules}), by which the teacher has read no more than the student", rules=list(CAUSAL)
        ),
        found=Message(
            "{rule}, which chooses steps by what the end of the text looks at: a good continuation could then be told "
            "in advance"
            if RULES[rule].per_head
            else "{rule}, which looks ahead: a good continuation could then be told in advance",
            rule=rule,
        ),
        remedy=Message("choose --time floor"),
    )
