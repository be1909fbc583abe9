"""Why a run broke off -> what to do about it, with the settings of a run that does it. No torch here."""

from __future__ import annotations

import errno
import re
from typing import Any

from kvlab.errors import KvlabError, TrainError
from kvlab.train.config import TrainConfig

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
SHAPE = re.compile(r"shape|size mismatch|must match|broadcast|cannot be multiplied|index.*out of|out of bounds", re.I)
# Where a distribution is called otherwise than the module it holds.
PACKAGES = {"yaml": "pyyaml", "pynvml": "nvidia-ml-py", "google": "protobuf", "sentencepiece": "sentencepiece"}


class NotFinite(TrainError):
    """A loss or gradient that is NaN or Inf."""

    def __init__(self, step: int, names: list[str], line: dict[str, Any] | None = None):
        super().__init__(
            "not-finite",
            expected="finite losses and gradients",
            found=f"NaN or Inf in {', '.join(names)} at step {step}",
            remedy="see below",
        )
        self.step, self.names = step, names
        self.line = line or {"step": step}  # of metrics, which is kept like every other

    def __reduce__(self):
        return NotFinite, (self.step, self.names, self.line)


def explain(error: BaseException, config: TrainConfig | None, phase: str) -> dict[str, Any]:
    """The fields of a KvlabError, and ``changes``: settings of a run that may do better ({} where none is known)."""
    config = config or TrainConfig()
    if isinstance(error, NotFinite):
        return _fields("not-finite", error.expected, error.found, *_finite_advice(config))
    if isinstance(error, KvlabError):
        changes = {
            "shapes-differ": {"use_kv_projector": True},
            "time-out-of-bounds": {"use_safe_resample": True},
            "functional-looks-ahead": {"functional": False},
            "model-memory": _smaller(config)[1],
        }
        return {**error.to_dict(), "changes": changes.get(error.kind, {})}
    names = {cls.__name__ for cls in type(error).__mro__}  # torch's own classes, without importing torch
    message = str(error).strip()
    found = f"{type(error).__name__}: {(message or 'no message').splitlines()[0]}"[:500]
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names or any(s in message for s in OUT_OF_MEMORY):
        return _fields("out-of-memory", f"enough memory while {phase}", found, *_smaller(config))
    if isinstance(error, ImportError):
        return _missing(error, found)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "delete runs that are no longer needed, or keep runs on another disk: KVLAB_RUNS=FOLDER"
        return _fields("disk-full", "room to write the run's files", found, remedy)
    if isinstance(error, IndexError | RuntimeError | ValueError) and SHAPE.search(message):
        return _fields("shape", f"tensors that fit together while {phase}", found, *_switches(config))
    if "AcceleratorError" in names or "CUDA error" in message:
        remedy = "launch it again; if it fails again, choose the device cpu, where the message names the faulty step"
        return _fields("device-error", "the device to compute without errors", found, remedy)
    remedy = "this is a fault of the program, please report it with training.log, where the traceback is"
    return _fields("unexpected", f"the run to go on while {phase}", found, remedy)


def slow_hint(device: str, precision: str, gpus: int) -> str:
    """Whether the GPU and mixed precision are in use, for a run that seems slow."""
    if device == "cpu":
        there = f"there are {gpus} GPUs that it does not use (--device auto)" if gpus else "no GPU was found"
        return f"runs on the processor; {there}"
    if precision == "fp32":
        return f"runs on {device} in full precision; --bf16 (or --fp16) is faster and takes less memory"
    return f"runs on {device} in mixed precision ({precision})"


def _fields(kind: str, expected: str, found: str, remedy: str, changes: dict | None = None) -> dict[str, Any]:
    return {"kind": kind, "expected": expected, "found": found, "remedy": remedy, "changes": changes or {}}


def _smaller(config: TrainConfig) -> tuple[str, dict[str, Any]]:
    """Less memory by the next thing that has not been done yet."""
    if config.batch_size > 1:
        changes = {"batch_size": 1, "gradient_accumulation_steps": 4}
        return "batch size 1 with 4 accumulation steps: --batch_size 1 --gradient_accumulation_steps 4", changes
    if not config.gradient_checkpointing:
        return "compute activations twice: --gradient_checkpointing", {"gradient_checkpointing": True}
    if config.trainable == "full":
        return "train LoRA adapters only: --trainable lora", {"trainable": "lora"}
    if config.precision == "fp32" and config.device != "cpu":
        return "mixed precision: --bf16", {"precision": "bf16"}
    shorter = max(2, config.max_tokens // 2)
    return f"shorter documents: --max_tokens {shorter}, or a smaller model", {"max_tokens": shorter}


def _finite_advice(config: TrainConfig) -> tuple[str, dict[str, Any]]:
    if config.precision == "fp16":
        return "float16 overflows where bfloat16 does not: --bf16, or leave the precision out", {"precision": "bf16"}
    if config.lr is not None:
        return f"a smaller learning rate: --lr {config.lr / 10:g}", {"lr": config.lr / 10}
    return "a smaller learning rate: --lr 1e-5; if it stays, look for NaN in the models' weights", {"lr": 1e-5}


def _switches(config: TrainConfig) -> tuple[str, dict[str, Any]]:
    """Shape and index errors: which of the two switches is off, and where it is set."""
    states = {"use_kv_projector": "use_head_projector", "use_safe_resample": "use_safe_resample"}
    off = {name: where for name, where in states.items() if not getattr(config, name)}
    if not off:
        return (
            "the projector and safe resampling are both on (use_kv_projector, use_safe_resample in config.yaml), so "
            "this is a fault of the program: please report it with training.log",
            {},
        )
    where = ", ".join(f"--{name} (config: kv_alignment: {section}: true)" for name, section in off.items())
    return f"switch on {where}", dict.fromkeys(off, True)


def _missing(error: ImportError, found: str) -> dict[str, Any]:
    module = (error.name or "").split(".")[0]
    package = PACKAGES.get(module, module)
    remedy = (
        f"install it: pip install {package}" if package else "install what is named: pip install -r requirements.txt"
    )
    return _fields("module-missing", f"the Python package {package or 'that is named'}", found, remedy)
