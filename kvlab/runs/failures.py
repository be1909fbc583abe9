"""Why a run ended or broke off, and what to do about it: from its exit code, its log or its exception.

``explain`` is for a process that died without a word, ``advise`` for an exception caught in the run itself.
"""

from __future__ import annotations
import re
import signal
from pathlib import Path
from kvlab.language import Message
from kvlab.errors import RunError
from kvlab.runs.process import exit_words
import errno
from typing import Any
from kvlab.errors import KvlabError, TrainError
from kvlab.request.train import TrainConfig

TAIL = 64 << 10  # bytes at the end of a log that are looked at
TAIL_LINES = 12  # of these, shown in the error
LINE = 160  # characters of a line that are shown

SIGNS = (  # (what the log says, kind, what to do); the first that is found counts
    (
        r"ModuleNotFoundError: No module named '([\w.]+)'",
        "module-missing",
        "install it: pip install {0} (or all of them: pip install -r requirements.txt), then resume the run",
    ),
    (
        r"No space left on device|Disk quota exceeded|\(disk-full\)",
        "disk-full",
        "free space (python -m kvlab runs delete ID removes a run), then resume the run",
    ),
    (
        r"(?i)out of memory|can't allocate memory|MemoryError",
        "out-of-memory",
        "halve the batch and accumulate more of them, or switch gradient checkpointing on, then launch again",
    ),
)

SIGNALS = {
    signal.SIGKILL: "the usual cause is memory: the system ends the largest process when it runs out. Use a smaller "
    "batch with accumulation, gradient checkpointing or a 16-bit number type, then resume the run",
    signal.SIGTERM: "something asked it to end: a batch system at its time limit, or a shutdown; resume the run",
    signal.SIGHUP: "the session that it belonged to was closed; resume the run",
    signal.SIGSEGV: "a fault in native code, often a driver or a package that does not fit the others: "
    "python -m kvlab doctor; then resume the run",
    signal.SIGBUS: "the shared memory or the disk was full, or a file under it was cut off: free space, then resume",
}


def explain(code: int | None, *logs: Path) -> dict[str, str]:
    """The cause as KvlabError.to_dict gives it. ``code``: as Popen gives it, None when nobody saw the end."""
    words = next((words for words in map(last_words, logs) if words), "")
    how = exit_words(code) if code is not None else "is gone, and nobody saw it end"
    kind, remedy = _kind(code, words)
    return RunError(
        kind,
        expected=Message("the process of the run to report how it ended"),
        found=Message("it {how}{value}", how=how, value=f'; from the end of its log:\n{words}' if words else ''),
        remedy=remedy,
    ).to_dict()


def last_words(log: Path, start: int = 0) -> str:
    """The last lines of a log from byte ``start`` on, or of a crash its first; empty when there are none."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - TAIL))
            lines = [line[:LINE] for line in file.read(TAIL).decode("utf-8", "replace").splitlines()]
    except OSError:
        return ""
    for crash, line in enumerate(lines):
        if line.startswith("Fatal Python error"):  # pages of stacks and modules follow
            rest = lines[crash + 1 :]
            guilty = next((n for n, line in enumerate(rest) if line.startswith("Current thread")), 0)
            return "\n".join([line, *rest[guilty : guilty + TAIL_LINES]])
    return "\n".join(lines[-TAIL_LINES:])


def _kind(code: int | None, words: str) -> tuple[str, str]:
    if code is not None and code < 0:
        unknown = "resume the run; if it ends like this again, its log may say more"
        return "run-killed", SIGNALS.get(-code, unknown)
    for sign, kind, remedy in SIGNS:
        if found := re.search(sign, words):
            return kind, remedy.format(*found.groups())
    return "run-died", "look at its log for the cause, then resume the run"


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
SHAPE = re.compile(r"shape|size mismatch|must match|broadcast|cannot be multiplied|index.*out of|out of bounds", re.I)
# Where a distribution is called otherwise than the module it holds.
PACKAGES = {"yaml": "pyyaml", "pynvml": "nvidia-ml-py", "google": "protobuf", "sentencepiece": "sentencepiece"}


class NotFinite(TrainError):
    """A loss or gradient that is NaN or Inf."""

    def __init__(self, step: int, names: list[str], line: dict[str, Any] | None = None):
        super().__init__(
            "not-finite",
            expected=Message("finite losses and gradients"),
            found=Message("NaN or Inf in {names} at step {step}", names=', '.join(names), step=step),
            remedy=Message("see below"),
        )
        self.step, self.names = step, names
        self.line = line or {"step": step}  # of metrics, which is kept like every other

    def __reduce__(self):
        return NotFinite, (self.step, self.names, self.line)


def advise(error: BaseException, config: TrainConfig | None, phase: str) -> dict[str, Any]:
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
