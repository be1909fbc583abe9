"""The settings of a training run, ``config.yaml`` in its folder, checked before anything is loaded.

The form, the command line and the training process share them. The defaults are the recommended run. No torch here.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from kvlab.errors import KvlabError, TrainError
from kvlab.language import Message
from kvlab.request.align import LayerRule, LoadIn, RowWeights
from kvlab.request.formats import Format
from kvlab.request.settings import Request, setting
from kvlab.request.time_rules import MAPS

Precision = Literal["fp32", "fp16", "bf16"]
MapKind = Literal["ridge", "structured"]
Fusion = Literal["fixed", "similarity", "learned"]
Entropy = Literal["diverse", "specialised"]
KVLoss = Literal["rows", "head-outputs"]
Trainable = Literal["full", "lora", "projector"]
Log = Literal["none", "tensorboard", "trackio"]
Control = Literal["none", "ce-only", "shuffled-teacher", "random-teacher"]
# Without rkv, whose steps differ between heads and need the teacher's attention at every step.
TimeRule = Literal[tuple(MAPS)]

DEMO_DATA, OWN_PROMPTS = "demo", "prompts"
MOST_DEMO_DOCUMENTS = 2000
LARGE = 100_000_000  # parameters from which a student is fine-tuned with small steps


class Thresholds(BaseModel):
    """The thresholds of the verdict's checkpoints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    converged: float = setting(0.8, "at half time: mean of the last 5 losses over the first, below", gt=0)
    stable: float = setting(1.0, "at the end: smoothed loss over the smoothed loss at half time, up to", gt=0)
    spike: float = setting(2.0, "a loss this many times the median of the losses before it is a spike", gt=1)
    spikes: float = setting(0.05, "share of steps that may be spikes", ge=0, le=1)
    memory: float = setting(0.8, "peak memory in use, as a share of the device, below", gt=0, le=1)
    variance: float = setting(0.1, "student K and V variance over that before training, at least", ge=0)
    rank: float = setting(0.25, "effective rank of student K and V over that at step 1, at least", ge=0)


class TrainConfig(Request):
    """One training run; ``config.yaml`` of its folder."""

    command: ClassVar[str] = "train"
    refusal: ClassVar[type[KvlabError]] = TrainError
    refusal_kind: ClassVar[str] = "config-invalid"

    teachers: tuple[str, ...] = setting(("demo/teacher",), "frozen models to learn from", min_length=1)
    student: str = setting("demo/student", "the model that is trained: a demo model, a Hub id, a folder")
    data: str = setting(
        DEMO_DATA, "demo: the bundled text; prompts: the run's prompts.jsonl; or a local file or folder"
    )
    data_format: Format = setting("auto", "what a record of the data is; auto: as the names of its fields say")
    data_column: str | None = setting(None, "the column or field of the data that holds the prompts")
    data_answer: str | None = setting(None, "the column or field of the data that holds the answers")
    chat: bool = setting(False, "read the data as a chat, in each model's own template, not as plain text")
    max_steps: int = setting(100, "optimiser steps", ge=1, le=1_000_000)
    batch_size: int = setting(2, "documents per forward, over all processes", ge=1)
    gradient_accumulation_steps: int = setting(1, "forwards per optimiser step", ge=1)
    gradient_checkpointing: bool = setting(False, "compute activations twice instead of keeping them")
    precision: Precision = setting("fp32", "fp16 and bf16: mixed precision, weights stay in fp32")
    lr: float | None = setting(
        None, "of the student; none: 2e-5 from 100 M parameters on, else 1e-3; LoRA five times that", gt=0
    )
    map_lr: float = setting(3e-3, "of a trainable projector and router", gt=0)
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", gt=0)
    warmup: float = setting(0.05, "share of the steps in which the rate rises; then it falls", ge=0, le=1)
    seed: int = setting(0, "of the data order, the held-out documents and the controls", ge=0)
    max_tokens: int = setting(1024, "longest timeline per document; longer ones are cut, and said", ge=2)

    use_kv_projector: bool = setting(True, "project the teacher's heads and width onto the student's")
    use_safe_resample: bool = setting(True, "resample the teacher's timeline onto the student's")
    map: MapKind = setting("ridge", "ridge: closed form, frozen; structured: the trainable KVProjector")
    time: TimeRule = setting("floor", "which teacher step stands for a student step")
    layers: LayerRule = setting("heldout", "which teacher layers explain a student layer")
    row_weights: RowWeights = setting(
        "equal", "fitted tokens: all alike, or by the attention that each receives from later tokens of the student"
    )
    sinks: int = setting(4, "first content tokens of a document left out of fit and KV loss", ge=0, le=64)
    fit_documents: int = setting(200, "training documents that the map is fitted on before step 1", ge=2)

    fusion: Fusion = setting("fixed", "how several teachers are weighed in the student's space")
    fusion_weights: tuple[float, ...] = setting((), "of fixed fusion, one per teacher; none: all alike")
    fusion_temperature: float = setting(0.1, "of similarity fusion: small is decided, large is even", gt=0)
    entropy_weight: float = setting(0.01, "of the entropy term of a learned router", ge=0)
    entropy: Entropy = setting("diverse", "diverse: spread over the teachers; specialised: choose among them")
    kv_loss: KVLoss = setting(
        "rows",
        "rows: keys and values themselves; head-outputs: what the student's own queries read from its own and from the "
        "projected cache",
    )
    lambda_key: float = setting(1.0, "weight of the loss on keys before RoPE", ge=0)
    lambda_value: float = setting(1.0, "weight of the loss on values", ge=0)
    lambda_output: float = setting(1.0, "weight of the loss on head outputs, in the place of those two", ge=0)
    trainable: Trainable = setting("full", "the whole student, LoRA adapters in it, or the projector only")
    lora_rank: int = setting(8, "rank of the LoRA adapters", ge=1)
    control: Control = setting("none", "a run that must not gain: no teacher, a shuffled or a random one")

    eval_documents: int = setting(32, "held-out documents, measured before and after", ge=1)
    functional: bool = setting(
        False,
        "before and after, put the projected cache into the student and measure what it costs (the functional test)",
    )
    apart_from: int = setting(
        0,
        "of the bundled text: a held-out beginning counts nowhere if one of so many first training documents shares "
        "it, however few are read; runs of different lengths then have the same held-out text",
        ge=0,
    )
    checkpoint_every: int = setting(50, "steps between two checkpoints", ge=1)
    checkpoint_minutes: float = setting(10.0, "minutes between two checkpoints at most, after whole steps", gt=0)
    log: Log = setting("none", "show the steps on a board too: TensorBoard files in the run's folder, or trackio")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    load_in: LoadIn = setting(
        "none", "quantise the teachers' weights as they are read, with bitsandbytes; none: as they are"
    )
    split_teacher: bool = setting(False, "spread each teacher's layers over all GPUs, and the machine's memory")
    thresholds: Thresholds = setting(Thresholds(), "of the verdict")

    @model_validator(mode="before")
    @classmethod
    def _flatten_section(cls, fields: Any) -> Any:
        return switches_out(fields) if isinstance(fields, dict) else fields

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.fusion_weights and len(self.fusion_weights) != len(self.teachers):
            counts = {"weights": len(self.fusion_weights), "teachers": len(self.teachers)}
            raise ValueError(Message("{weights} fusion_weights for {teachers} teachers", **counts))
        if self.fusion_weights and (min(self.fusion_weights) < 0 or sum(self.fusion_weights) <= 0):
            weights = str(self.fusion_weights)
            raise ValueError(Message("fusion_weights must not be negative, nor all zero: {weights}", weights=weights))
        if self.trainable == "projector" and self.map != "structured":
            raise ValueError(Message('trainable "projector" needs map "structured": a ridge map is frozen'))
        if self.trainable == "projector" and not (self.use_kv_projector and self.learns_kv):
            words = Message('trainable "projector" needs use_kv_projector and a KV loss, or nothing is trained')
            raise ValueError(words)
        return self

    @property
    def learns_kv(self) -> bool:
        """Return whether the loss has a KV term."""
        return self.control != "ce-only" and max(self.kv_weights.values()) > 0

    @property
    def on_outputs(self) -> bool:
        """Return whether the KV loss compares head outputs."""
        return self.kv_loss == "head-outputs"

    @property
    def kv_weights(self) -> dict[str, float]:
        """Return the weights of the KV terms of this ``kv_loss``."""
        return (
            {"output": self.lambda_output} if self.on_outputs else {"key": self.lambda_key, "value": self.lambda_value}
        )

    @property
    def documents_read(self) -> int:
        """Return how many documents of the bundled text the run trains or fits on."""
        asked = self.max_steps * self.gradient_accumulation_steps * self.batch_size
        return min(max(asked, self.fit_documents), MOST_DEMO_DOCUMENTS)

    def rate(self, parameters: int) -> float:
        """Return the learning rate of a student of this size."""
        usual = 2e-5 if parameters >= LARGE else 1e-3
        return self.lr or usual * (5 if self.trainable == "lora" else 1)


def switches_out(fields: dict[str, Any]) -> dict[str, Any]:
    """Turn the checklist's section ``kv_alignment: {use_head_projector, use_safe_resample}`` into settings of ours.

    Raises ValueError for a section that holds anything else.
    """
    if "kv_alignment" not in fields:
        return fields
    section = fields["kv_alignment"]
    names = {"use_head_projector": "use_kv_projector", "use_safe_resample": "use_safe_resample"}
    if not isinstance(section, dict) or not set(section) <= set(names):
        shown = repr(section)[:200]
        raise ValueError(
            Message("kv_alignment holds use_head_projector and use_safe_resample, not {section}", section=shown)
        )
    others = {name: value for name, value in fields.items() if name != "kv_alignment"}
    return {names[name]: value for name, value in section.items()} | others
