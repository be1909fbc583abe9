"""What a functional test is asked for: an analysis' settings, and how the projected cache is tried out. No torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvlab.errors import AlignError
from kvlab.language import Message
from kvlab.request.align import AnalysisRequest, first_problem
from kvlab.request.time_rules import CAUSAL, RULES

Share = Annotated[float, Field(gt=0, lt=1)]


class InjectSettings(BaseModel):
    """Which part of a document is handed over, and how much is tried on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: Share = Field(0.5, description="share of a document's own student tokens whose cache is replaced")
    curve: tuple[Share, ...] = Field((0.25, 0.75), description="further shares, for the curve over prefix lengths")
    documents: int = Field(64, ge=2, description="documents judged at most, all held out from the fit")
    swap_layers: int = Field(
        8, ge=0, description="layers whose heads are replaced one by one, the worst first; 0: none"
    )
    seconds: float | None = Field(None, gt=0, description="most seconds for swaps (default: no limit)")
    forwards: int | None = Field(None, ge=1, description="most forwards for swaps (default: no limit)")
    texts: int = Field(32, ge=0, description="judged documents whose prompt is continued greedily")
    new_tokens: int = Field(200, ge=1, description="longest greedy continuation, in tokens")


class InjectionRequest(AnalysisRequest):
    """One functional test; ``config.yaml`` of its folder."""

    injection: InjectSettings = InjectSettings()


def checked(fields: dict) -> InjectionRequest:
    """Fields of a form, a file or a command line -> request; AlignError names the first field that is wrong."""
    try:
        return InjectionRequest(**fields)
    except (ValidationError, TypeError) as error:
        raise AlignError("request-invalid", **first_problem(error, "inject")) from error


def check_causal(rule: str) -> None:
    """Raises AlignError ``rule-looks-ahead`` for a time rule with which the prefix would know what comes after it."""
    if rule in CAUSAL:
        return
    if RULES[rule].per_head:
        found = Message(
            "{rule}, which chooses steps by what the end of the text looks at: a good continuation could then be told "
            "in advance",
            rule=rule,
        )
    else:
        found = Message("{rule}, which looks ahead: a good continuation could then be told in advance", rule=rule)
    raise AlignError(
        "rule-looks-ahead",
        expected=Message(
            "a causal time rule ({rules}), by which the teacher has read no more than the student", rules=CAUSAL
        ),
        found=found,
        remedy=Message("choose --time floor"),
    )
