"""Settings -> what the loop is made of: Accelerate, the objective, and what is trained at which rate."""

from __future__ import annotations

import os

from accelerate import Accelerator, DistributedDataParallelKwargs

from kvlab.models import LoadedModel, free_memory, pick_device
from kvlab.train.config import TrainConfig
from kvlab.train.learner import Learner
from kvlab.train.loop import Objective

MIXED = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}


def accelerator(config: TrainConfig) -> Accelerator:
    """Accelerate as the run wants it: device, precision, accumulation."""
    device = pick_device(config.device)
    if device.type == "cuda" and ":" in config.device:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=MIXED[config.precision],
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def objective_of(config: TrainConfig) -> Objective:
    learned = config.fusion == "learned" and len(config.teachers) > 1 and config.learns_kv
    sign = {"diverse": -1.0, "specialised": 1.0}[config.entropy]
    return Objective(
        lambda_key=config.lambda_key if config.learns_kv else 0.0,
        lambda_value=config.lambda_value if config.learns_kv else 0.0,
        entropy=sign * config.entropy_weight if learned else 0.0,
        with_ce=config.trainable != "projector",
    )


def groups_of(learner: Learner, lr: float, map_lr: float) -> list[dict]:
    """What is trained, by learning rate; the student first."""
    of_student = [p for p in learner.student.parameters() if p.requires_grad]
    others = [p for part in (learner.maps, learner.routers) for p in part.parameters() if p.requires_grad]
    groups = [{"params": of_student, "lr": lr}, {"params": others, "lr": map_lr}]
    return [group for group in groups if group["params"]]


def add_lora(student: LoadedModel, rank: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"), student.model)
    for name, parameter in student.model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    free_memory()
