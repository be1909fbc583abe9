"""The settings of a certificate: those of a functional test, and the gates of its verdict. No torch here."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from kvlab.request.inject import InjectionRequest, InjectSettings
from kvlab.request.settings import setting


class CertifySettings(InjectSettings):
    """The settings of the functional test. Single heads are not replaced: no gate looks at them."""

    swap_layers: int = setting(0, "layers whose heads are replaced one by one, the worst first; 0: none", ge=0)


class Gates(BaseModel):
    """What a cache must pass before an engine may use it; the defaults are the strictest that have been published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head_output_cosine: float = setting(
        0.90, "least cosine of a head's output on own and handed-over cache, mean; -1: not asked for", ge=-1, le=1
    )
    kl_p95: float = setting(0.20, "most KL of the next token, nats, that 95 of 100 tokens may reach", ge=0)
    beats_random: bool = setting(True, "the teacher must do better than one of random weights")
    every_group: bool = setting(True, "every language and domain of the prompts must pass the gate on KL by itself")


class Lengths(BaseModel):
    """Which lengths of text are tried and timed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    beyond: tuple[Annotated[float, Field(gt=0)], ...] = setting(
        (1.0, 2.0, 4.0, 8.0), "lengths of text that are handed over, × the longest fitted text"
    )
    timed: tuple[Annotated[int, Field(ge=2)], ...] = setting(
        (128, 256, 512, 1024, 2048, 4096, 8192), "lengths of text whose time to the first token is measured, tokens"
    )


NOT_ASKED = -1.0  # of the cosine


class CertifyRequest(InjectionRequest):
    """One certificate; ``config.yaml`` of its folder."""

    command: ClassVar[str] = "certify"

    injection: CertifySettings = CertifySettings()
    gates: Gates = Gates()
    lengths: Lengths = Lengths()
    tasks: str = setting("", "file of tasks to score with and without the hand-over: HellaSwag, ARC or GSM8K records")
