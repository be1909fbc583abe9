"""Explain why a run failed, and advise what to do.

``explain`` is for a process that died without a report, ``advise`` for an exception that the run caught.
"""

import errno
import re
import signal
from pathlib import Path
from typing import Any

from kvlab.errors import KvlabError, RunError, TrainError
from kvlab.language import Message, phrase
from kvlab.request.train import TrainConfig
from kvlab.runs import store
from kvlab.runs.process import exit_words
from kvlab.shapes import REFINING, phase_message

TAIL = 64 << 10  # bytes at the end of a log to search
TAIL_LINES = 12  # lines of them to show in the error
LINE = 160  # characters of a line to show

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
SHAPE = re.compile(r"shape|size mismatch|must match|broadcast|cannot be multiplied|index.*out of|out of bounds", re.I)
# Pattern in a log -> kind of failure; the first match counts.
SIGNS = (
    (re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'"), "module-missing"),
    (re.compile(r"No space left on device|Disk quota exceeded|\(disk-full\)"), "disk-full"),
    (re.compile(r"(?i)out of memory|can't allocate memory|MemoryError"), "out-of-memory"),
)
KILLED = phrase("resume the run; if it ends like this again, its log may say more")
SIGNALS = {
    signal.SIGKILL: phrase(
        "the usual cause is memory: the system ends the largest process when it runs out. Use a smaller "
        "batch with accumulation, gradient checkpointing or a 16-bit number type, then resume the run"
    ),
    signal.SIGTERM: phrase(
        "something asked it to end: a batch system at its time limit, or a shutdown; resume the run"
    ),
    signal.SIGHUP: phrase("the session that it belonged to was closed; resume the run"),
    signal.SIGSEGV: phrase(
        "a fault in native code, often a driver or a package that does not fit the others: "
        "python -m kvlab doctor; then resume the run"
    ),
    signal.SIGBUS: phrase(
        "the shared memory or the disk was full, or a file under it was cut off: free space, then resume"
    ),
}
# Phase of an analysis or a functional test -> what is allocated then, and what makes it smaller.
READING = (
    phrase("the caches of one batch of documents"),
    phrase(
        "fewer tokens per batch or document (--batch-tokens, --max-tokens), a 16-bit number type (--dtype bfloat16), "
        "or teachers of 4 bits (--load-in 4bit)"
    ),
)
SOLVING = (
    phrase("the sums of one problem: squares of all features of its teacher layers"),
    phrase("fewer teacher layers side by side (--layers depth), or fewer folds (--folds 3)"),
)
RANDOM = (
    phrase("a second teacher, of random weights, and its rows"),
    phrase("leave this control out (--no-random-teacher), or take a smaller sample (--sample-tokens)"),
)
CONTINUING = (
    phrase("the caches and logits of one document, once for each source"),
    phrase("shorter documents (--max-tokens), or a 16-bit number type (--dtype bfloat16)"),
)
ALLOCATED = {
    "reading caches": READING,
    "reading documents token by token": READING,
    "comparing layers": SOLVING,
    "comparing time rules": (
        phrase("the caches of the sample, under every time rule"),
        phrase("leave the other rules out (--no-compare-rules), or take a smaller sample (--sample-tokens)"),
    ),
    "measuring controls": SOLVING,
    "reading with random weights": RANDOM,
    "fitting on random weights": RANDOM,
    "fusing teachers": SOLVING,
    "fusing with random weights": RANDOM,
    "fitting and scoring heads": SOLVING,
    "fitting the map": SOLVING,
    "refining the map": CONTINUING,
    "continuing from replaced caches": CONTINUING,
    "replacing single heads": CONTINUING,
    "greedy continuations": CONTINUING,
}
# Modules whose package has another name.
PACKAGES = {"yaml": "pyyaml", "pynvml": "nvidia-ml-py", "google": "protobuf"}

Changes = dict[str, Any]


class Failure(RunError):
    """The failure of a run. ``changes``: settings that may help, {} if none are known."""

    def __init__(self, kind: str, *, changes: Changes | None = None, **parts: Message | str):
        super().__init__(kind, **parts)
        self.changes = changes or {}

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "changes": self.changes}


class NotFinite(TrainError):
    """A loss or gradient that is NaN or Inf."""

    def __init__(self, step: int, names: list[str], line: dict[str, Any] | None = None):
        super().__init__(
            "not-finite",
            expected=Message("finite losses and gradients"),
            found=Message("NaN or Inf in {names} at step {step}", names=names, step=step),
            remedy=Message("a smaller learning rate: --lr {rate:g}", rate=1e-5),
        )
        self.step, self.names = step, names
        self.line = line or {"step": step}  # of metrics.jsonl, which records it like every other

    def __reduce__(self):
        return NotFinite, (self.step, self.names, self.line)


def explain(code: int | None, *logs: Path, config: TrainConfig | None = None) -> Failure:
    """Return the cause of a process's death. ``code``: Popen's exit code, None if nobody saw the end."""
    tail = next(filter(None, map(last_words, logs)), "")
    how = exit_words(code) if code is not None else Message("it is gone, and nobody saw it end")
    found = Message("{how}; from the end of its log:\n{log}", how=how, log=tail) if tail else how
    expected = Message("the process of the run to report how it ended")
    if code is not None and code < 0:
        changes = _smaller(config)[1] if config and code == -signal.SIGKILL else {}
        remedy = Message(SIGNALS.get(-code, KILLED))
        return Failure("run-killed", expected=expected, found=found, remedy=remedy, changes=changes)
    for sign, kind in SIGNS:
        if match := sign.search(tail):
            remedy, changes = _remedy(kind, config, match[1] if match.groups() else "")
            return Failure(kind, expected=expected, found=found, remedy=remedy, changes=changes if config else {})
    remedy = Message("look at its log for the cause, then resume the run")
    return Failure("run-died", expected=expected, found=found, remedy=remedy)


def advise(error: BaseException, config: TrainConfig | None, phase: str) -> Failure:
    """Return the failure behind an exception that ended a run in ``phase``."""
    config = config or TrainConfig()
    if isinstance(error, KvlabError):
        changes = {
            "shapes-differ": {"use_kv_projector": True},
            "time-out-of-bounds": {"use_safe_resample": True},
            "functional-looks-ahead": {"functional": False},
            "model-memory": _smaller(config)[1],
        }.get(error.kind)
        remedy = error.remedy
        if isinstance(error, NotFinite):
            remedy, changes = _finite_advice(config)
        return Failure(error.kind, expected=error.expected, found=error.found, remedy=remedy, changes=changes)
    kind, module = kind_of(error), ""
    doing = phase_message(phase)
    expected = Message("the run to go on while {phase}", phase=doing)
    if kind == "out-of-memory":
        expected = Message("enough memory while {phase}", phase=doing)
    elif kind == "module-missing":
        module = (getattr(error, "name", "") or "").split(".")[0]
        expected = Message("every Python package that the run needs")
    elif kind == "disk-full":
        expected = Message("room to write the run's files")
    elif kind == "shape":
        expected = Message("tensors that fit together while {phase}", phase=doing)
    elif kind == "device-error":
        expected = Message("the device to compute without errors")
    remedy, changes = _remedy(kind, config, module)
    return Failure(kind, expected=expected, found=first_words(error), remedy=remedy, changes=changes)


def kind_of(error: BaseException) -> str:
    """Return the kind of an exception that is no KvlabError; "unexpected" if unknown."""
    names = {cls.__name__ for cls in type(error).__mro__}  # torch's own classes, without importing torch
    message = str(error)
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names or any(sign in message for sign in OUT_OF_MEMORY):
        return "out-of-memory"
    if isinstance(error, ImportError):
        return "module-missing"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk-full"
    if isinstance(error, IndexError | RuntimeError | ValueError) and SHAPE.search(message):
        return "shape"
    return "device-error" if "AcceleratorError" in names or "CUDA error" in message else "unexpected"


def out_of_memory(error: BaseException, phase: str) -> RunError:
    """Return the error that memory ran out in a phase of an analysis ("" outside of one): for what, and what helps."""
    doing = phase_message(phase)
    known = ALLOCATED.get("refining the map" if phase.startswith(REFINING) else phase)
    if known is None:
        return RunError(
            "out-of-memory",
            expected=Message("enough memory while {phase}", phase=doing) if phase else Message("enough memory"),
            found=first_words(error),
            remedy=Message("a smaller model, or another device, and close what else uses this one"),
        )
    return RunError(
        "out-of-memory",
        expected=Message("enough memory while {phase}, for {what}", phase=doing, what=Message(known[0])),
        found=first_words(error),
        remedy=Message("{smaller}; and close what else uses the device", smaller=Message(known[1])),
    )


def first_words(error: BaseException) -> Message | str:
    """Return an exception's class and the first line of its message."""
    lines, name = str(error).strip().splitlines(), type(error).__name__
    return f"{name}: {lines[0]}"[:500] if lines else Message("{error} without a message", error=name)


def last_words(log: Path, start: int = 0) -> str:
    """Return the last lines of a log from byte ``start`` on, or the first lines of a crash; empty if none."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - TAIL))
            lines = [line[:LINE] for line in file.read(TAIL).decode("utf-8", "replace").splitlines()]
    except OSError:
        return ""
    for crash, line in enumerate(lines):
        if line.startswith("Fatal Python error"):  # long lists of stacks and modules follow
            rest = lines[crash + 1 :]
            thread = next((n for n, other in enumerate(rest) if other.startswith("Current thread")), 0)
            return "\n".join([line, *rest[thread : thread + TAIL_LINES]])
    return "\n".join(lines[-TAIL_LINES:])


def slow_hint(device: str, precision: str, gpus: int) -> Message:
    """Say whether the GPU and mixed precision are in use, for a run that seems slow."""
    if device == "cpu" and gpus:
        return Message("runs on the processor; there are {n} GPUs that it does not use (--device auto)", n=gpus)
    if device == "cpu":
        return Message("runs on the processor; no GPU was found")
    if precision == "fp32":
        return Message(
            "runs on {device} in full precision; --bf16 (or --fp16) is faster and takes less memory", device=device
        )
    return Message("runs on {device} in mixed precision ({precision})", device=device, precision=precision)


def device_remedy() -> Message:
    return Message("launch it again; if it fails again, choose the device cpu, where the message names the faulty step")


def fault_remedy(log: str) -> Message:
    return Message("this is a fault of the program, please report it with {log}", log=log)


def _remedy(kind: str, config: TrainConfig | None, module: str) -> tuple[Message, Changes]:
    """Return the remedy and changed settings for a kind of failure. ``module``: the missing module, or ""."""
    config = config or TrainConfig()
    if kind == "out-of-memory":
        return _smaller(config)
    if kind == "shape":
        return _switches(config)
    if kind == "module-missing" and module:
        package = PACKAGES.get(module, module)
        remedy = phrase(
            "install it: pip install {package} (or all of them: pip install -r requirements.txt), then resume the run"
        )
        return Message(remedy, package=package), {}
    remedies = {
        "module-missing": Message("install what is named: pip install -r requirements.txt, then resume the run"),
        "disk-full": store.free_space(),
        "device-error": device_remedy(),
    }
    return remedies.get(kind) or fault_remedy("training.log"), {}


def _smaller(config: TrainConfig) -> tuple[Message, Changes]:
    """Return the next change that saves memory and that ``config`` does not have yet."""
    if config.batch_size > 1:
        remedy = Message("batch size 1 with 4 accumulation steps: --batch_size 1 --gradient_accumulation_steps 4")
        return remedy, {"batch_size": 1, "gradient_accumulation_steps": 4}
    if not config.gradient_checkpointing:
        return Message("compute activations twice: --gradient_checkpointing"), {"gradient_checkpointing": True}
    if config.trainable == "full":
        return Message("train LoRA adapters only: --trainable lora"), {"trainable": "lora"}
    if config.precision == "fp32" and config.device != "cpu":
        return Message("mixed precision: --bf16"), {"precision": "bf16"}
    shorter = max(2, config.max_tokens // 2)
    remedy = Message("shorter documents: --max_tokens {n}, or a smaller model", n=shorter)
    return remedy, {"max_tokens": shorter}


def _finite_advice(config: TrainConfig) -> tuple[Message, Changes]:
    if config.precision == "fp16":
        remedy = Message("float16 overflows where bfloat16 does not: --bf16, or leave the precision out")
        return remedy, {"precision": "bf16"}
    if config.lr is not None:
        return Message("a smaller learning rate: --lr {rate:g}", rate=config.lr / 10), {"lr": config.lr / 10}
    remedy = Message("a smaller learning rate: --lr 1e-5; if it stays, look for NaN in the models' weights")
    return remedy, {"lr": 1e-5}


def _switches(config: TrainConfig) -> tuple[Message, Changes]:
    """Return the advice on a shape or index error: which of the two switches is off, and where to set it."""
    sections = {"use_kv_projector": "use_head_projector", "use_safe_resample": "use_safe_resample"}
    off = {name: section for name, section in sections.items() if not getattr(config, name)}
    if not off:
        return Message(
            "the projector and safe resampling are both on (use_kv_projector, use_safe_resample in config.yaml), so "
            "this is a fault of the program: please report it with training.log"
        ), {}
    flags = [f"--{name} (config: kv_alignment: {section}: true)" for name, section in off.items()]
    return Message("switch on {flags}", flags=flags), dict.fromkeys(off, True)
