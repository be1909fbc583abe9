"""What a training run is asked to do: the settings in its ``config.yaml``, checked before anything is loaded.

No torch here: the form, the command line and the training process share it. The defaults are the recommended run.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kvlab.errors import TrainError
from kvlab.language import Message, phrase
from kvlab.request.align import LayerRule
from kvlab.request.time_rules import MAPS

Precision = Literal["fp32", "fp16", "bf16"]
MapKind = Literal["ridge", "structured"]
Fusion = Literal["fixed", "similarity", "learned"]
Entropy = Literal["diverse", "specialised"]
Trainable = Literal["full", "lora", "projector"]
Control = Literal["none", "ce-only", "shuffled-teacher", "random-teacher"]
# Without rkv, whose steps differ from head to head and need the teacher's attention at every step.
TimeRule = Literal[tuple(MAPS)]

DEMO_DATA, OWN_PROMPTS = "demo", "prompts"
LARGE = 100_000_000  # parameters, from which on a student is fine-tuned with small steps


class Thresholds(BaseModel):
    """When a checkpoint of the verdict is passed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    converged: float = Field(
        0.8, gt=0, description=phrase("at half time: mean of the last 5 losses over the first, below")
    )
    stable: float = Field(
        1.0, gt=0, description=phrase("at the end: smoothed loss over the smoothed loss at half time, up to")
    )
    spike: float = Field(
        2.0, gt=1, description=phrase("a loss this many times the median of the losses before it is a spike")
    )
    spikes: float = Field(0.05, ge=0, le=1, description=phrase("share of steps that may be spikes"))
    memory: float = Field(0.8, gt=0, le=1, description=phrase("peak memory in use, as a share of the device, below"))
    variance: float = Field(
        0.1, ge=0, description=phrase("student K and V variance over that before training, at least")
    )
    rank: float = Field(
        0.25, ge=0, description=phrase("effective rank of student K and V over that at step 1, at least")
    )


class TrainConfig(BaseModel):
    """One training run; ``config.yaml`` of its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teachers: tuple[str, ...] = Field(
        ("demo/teacher",), min_length=1, description=phrase("frozen models to learn from")
    )
    student: str = Field(
        "demo/student", description=phrase("the model that is trained: a demo model, a Hub id, a folder")
    )
    data: str = Field(
        DEMO_DATA, description=phrase("demo: the bundled text; prompts: the run's prompts.jsonl; or a local path")
    )
    max_steps: int = Field(100, ge=1, le=1_000_000, description=phrase("optimiser steps"))
    batch_size: int = Field(2, ge=1, description=phrase("documents per forward, over all processes"))
    gradient_accumulation_steps: int = Field(1, ge=1, description=phrase("forwards per optimiser step"))
    gradient_checkpointing: bool = Field(False, description=phrase("compute activations twice instead of keeping them"))
    precision: Precision = Field("fp32", description=phrase("fp16 and bf16: mixed precision, weights stay in fp32"))
    lr: float | None = Field(
        None,
        gt=0,
        description=phrase("of the student; none: 2e-5 from 100 M parameters on, else 1e-3; LoRA five times that"),
    )
    map_lr: float = Field(3e-3, gt=0, description=phrase("of a trainable projector and router"))
    max_grad_norm: float = Field(1.0, gt=0, description=phrase("gradients are clipped to this norm"))
    warmup: float = Field(
        0.05, ge=0, le=1, description=phrase("share of the steps in which the rate rises; then it falls")
    )
    seed: int = Field(0, ge=0, description=phrase("of the data order, the held-out documents and the controls"))
    max_tokens: int = Field(
        1024, ge=2, description=phrase("longest timeline per document; longer ones are cut, and said")
    )

    use_kv_projector: bool = Field(True, description=phrase("project the teacher's heads and width onto the student's"))
    use_safe_resample: bool = Field(True, description=phrase("resample the teacher's timeline onto the student's"))
    map: MapKind = Field(
        "ridge", description=phrase("ridge: closed form, frozen; structured: the trainable KVProjector")
    )
    time: TimeRule = Field("floor", description=phrase("which teacher step stands for a student step"))
    layers: LayerRule = Field("depth", description=phrase("which teacher layers explain a student layer"))
    sinks: int = Field(
        4, ge=0, le=64, description=phrase("first content tokens of a document left out of fit and KV loss")
    )
    fit_documents: int = Field(
        200, ge=2, description=phrase("training documents that the map is fitted on before step 1")
    )

    fusion: Fusion = Field("fixed", description=phrase("how several teachers are weighed in the student's space"))
    fusion_weights: tuple[float, ...] = Field(
        (), description=phrase("of fixed fusion, one per teacher; none: all alike")
    )
    fusion_temperature: float = Field(
        0.1, gt=0, description=phrase("of similarity fusion: small is decided, large is even")
    )
    entropy_weight: float = Field(0.01, ge=0, description=phrase("of the entropy term of a learned router"))
    entropy: Entropy = Field(
        "diverse", description=phrase("diverse: spread over the teachers; specialised: choose among them")
    )
    lambda_key: float = Field(1.0, ge=0, description=phrase("weight of the loss on keys before RoPE"))
    lambda_value: float = Field(1.0, ge=0, description=phrase("weight of the loss on values"))
    trainable: Trainable = Field(
        "full", description=phrase("the whole student, LoRA adapters in it, or the projector only")
    )
    lora_rank: int = Field(8, ge=1, description=phrase("rank of the LoRA adapters"))
    control: Control = Field(
        "none", description=phrase("a run that must not gain: no teacher, a shuffled or a random one")
    )

    eval_documents: int = Field(32, ge=1, description=phrase("held-out documents, measured before and after"))
    functional: bool = Field(
        False,
        description=phrase(
            "before and after, put the projected cache into the student and measure what it costs (the functional test)"
        ),
    )
    checkpoint_every: int = Field(50, ge=1, description=phrase("steps between two checkpoints"))
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description=phrase("auto, cpu, cuda or cuda:N"))
    thresholds: Thresholds = Field(Thresholds(), description=phrase("of the verdict"))

    @model_validator(mode="before")
    @classmethod
    def _seeds_section(cls, fields: Any) -> Any:
        return switches_out(fields) if isinstance(fields, dict) else fields

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.fusion_weights and len(self.fusion_weights) != len(self.teachers):
            raise ValueError(f"{len(self.fusion_weights)} fusion_weights for {len(self.teachers)} teachers")
        if self.fusion_weights and (min(self.fusion_weights) < 0 or sum(self.fusion_weights) <= 0):
            raise ValueError(f"fusion_weights must not be negative, nor all zero: {self.fusion_weights}")
        if self.trainable == "projector" and self.map != "structured":
            raise ValueError('trainable "projector" needs map "structured": a ridge map is frozen')
        if self.trainable == "projector" and (not self.use_kv_projector or not self.learns_kv):
            raise ValueError('trainable "projector" needs use_kv_projector and a KV loss, or nothing is trained')
        return self

    @property
    def learns_kv(self) -> bool:
        """Whether a teacher has any part in the loss."""
        return self.control != "ce-only" and (self.lambda_key > 0 or self.lambda_value > 0)

    def rate(self, parameters: int) -> float:
        """The learning rate of a student of this size."""
        usual = 2e-5 if parameters >= LARGE else 1e-3
        return self.lr or usual * (5 if self.trainable == "lora" else 1)


def switches_out(fields: dict[str, Any]) -> dict[str, Any]:
    """``kv_alignment: {use_head_projector, use_safe_resample}``, as the checklist writes it, as settings of their own.

    Raises ValueError for a section that holds anything else.
    """
    if "kv_alignment" not in fields:
        return fields
    section = fields["kv_alignment"]
    names = {"use_head_projector": "use_kv_projector", "use_safe_resample": "use_safe_resample"}
    if not isinstance(section, dict) or not set(section) <= set(names):
        raise ValueError(f"kv_alignment holds use_head_projector and use_safe_resample, not {section!r}")
    others = {name: value for name, value in fields.items() if name != "kv_alignment"}
    return {names[name]: value for name, value in section.items()} | others


def checked(fields: Any) -> TrainConfig:
    """Fields of a form, a file or a command line -> config; TrainError names the first field that is wrong."""
    try:
        return TrainConfig(**fields)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the settings"
        expected, found = f"{where}: {problem['msg'].removeprefix('Value error, ')}", repr(problem.get("input"))[:200]
    except TypeError:
        expected, found = "a table of settings", repr(fields)[:200]
    raise TrainError(
        "config-invalid",
        expected=expected,
        found=found,
        remedy=Message("correct this setting; `python -m kvlab train --help` lists them"),
    )
