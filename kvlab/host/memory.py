"""Measure the memory of a device, and forecast how much a pair of models will take.

Uses torch only if the process has loaded it already, so that the web process can ask too.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import pynvml

from kvlab.errors import ModelError
from kvlab.host.weights import DTYPE_BYTES, weight_bytes
from kvlab.language import Message
from kvlab.shapes import Geometry

Answer = TypeVar("Answer")

DTYPE_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
LIMIT = 0.8  # share of the device above which the checklist calls a run too large

# The forward's memory besides weights and cache, in hidden-sized vectors per token: the residual stream, queries,
# attention output and the two or three widened vectors of one feed-forward. An allowance, not a measurement.
ACTIVATION_VECTORS = 24


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes of one device. ``free`` leaves out the memory of other processes."""

    device: str  # "cpu", "cuda:0"
    total: int
    free: int
    source: str  # "torch", "nvml", "psutil" or "cgroup"


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as the driver sees it; bytes."""

    index: int
    name: str
    uuid: str
    total: int
    free: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class ModelMemory:
    """The memory of one model, in bytes. Activations are an allowance."""

    parameter_bytes: int
    activation_bytes: int


def model_memory(geometry: Geometry, dtype: str, batch: int, tokens: int, device: str = "cpu") -> ModelMemory:
    """Return the bytes of a model's weights, and the allowance for the activations of batch x tokens."""
    width = DTYPE_BYTES[dtype]
    return ModelMemory(
        parameter_bytes=weight_bytes(geometry, dtype, device),
        activation_bytes=ACTIVATION_VECTORS * geometry.hidden * width * batch * tokens,
    )


def dtype_name(dtype: str, device: str) -> str:
    """Return torch's name of ``dtype``; "auto" is a 16-bit type on a GPU and float32 on the processor."""
    if dtype == "auto":
        return "bfloat16" if device.startswith("cuda") else "float32"
    name = DTYPE_ALIASES.get(dtype, dtype)
    if name not in DTYPE_BYTES:
        raise ModelError(
            "model-dtype-invalid",
            expected=Message("a number type: auto, {names}", names=list(DTYPE_BYTES)),
            found=repr(dtype),
            remedy=Message("use auto"),
        )
    return name


def device_memory(device: str = "auto") -> DeviceMemory:
    """Return the current memory of ``device`` ("auto", "cpu", "cuda", "cuda:1").

    Raises ModelError ``model-device-invalid`` for a device that this machine does not have.
    """
    if device == "auto":
        device = "cuda" if _cuda_usable() else "cpu"
    if device == "cpu":
        return _host_memory()
    kind, _, index = device.partition(":")
    if kind == "cuda" and (not index or index.isdecimal()):
        memory = _cuda_memory(int(index or 0))
        if memory is not None:
            return memory
    raise ModelError(
        "model-device-invalid",
        expected=Message("a device: auto, cpu, cuda, or cuda:N with N the number of a GPU of this machine"),
        found=Message("{device} with {n} NVIDIA GPUs on this machine", device=repr(device), n=len(gpus())),
        remedy=Message("use auto, or look at what there is: python -m kvlab doctor"),
    )


def ask_driver(question: Callable[[], Answer]) -> Answer | None:
    """Return the NVIDIA driver's answer to ``question``; None without a driver or an answer."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return question()
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def gpus() -> list[Gpu]:
    """List all NVIDIA GPUs of this machine, also those that CUDA_VISIBLE_DEVICES hides; empty without a driver."""
    return ask_driver(lambda: [_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]) or []


def driver_version() -> str:
    """Return the NVIDIA driver's version; empty without one."""
    return ask_driver(pynvml.nvmlSystemGetDriverVersion) or ""


def visible_gpus() -> list[Gpu]:
    """List the GPUs that CUDA_VISIBLE_DEVICES (numbers, UUIDs or their beginnings) names, in its order."""
    machine = gpus()
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None:
        return machine
    visible = []
    for entry in (part.strip() for part in setting.split(",")):
        matches = [gpu for gpu in machine if entry and (entry == str(gpu.index) or gpu.uuid.startswith(entry))]
        if not matches:
            break  # CUDA stops at the first entry it does not know
        visible.append(matches[0])
    return visible


def readable(size: float) -> str:
    """Write a size in bytes for people: 13.4 GiB."""
    power = next((power for power in range(4) if abs(size) < 1024 ** (power + 1)), 4)
    return f"{size / 1024**power:.{1 if power else 0}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        index=index,
        name=pynvml.nvmlDeviceGetName(handle),
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        total=int(memory.total),
        free=int(memory.free),
        capability=tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
    )


def _cuda_usable() -> bool:
    if torch := sys.modules.get("torch"):
        return torch.cuda.is_available()
    with suppress(importlib.metadata.PackageNotFoundError):
        return not importlib.metadata.version("torch").endswith("+cpu") and _cuda_memory(0) is not None
    return False


def _cuda_memory(index: int) -> DeviceMemory | None:
    # torch knows CUDA's order of devices and MIG slices. Ask the driver only where torch is not loaded.
    if torch := sys.modules.get("torch"):
        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            return None
        free, total = torch.cuda.mem_get_info(index)
        return DeviceMemory(f"cuda:{index}", total, free, "torch")
    visible = visible_gpus()
    if index >= len(visible):
        return None
    return DeviceMemory(f"cuda:{index}", visible[index].total, visible[index].free, "nvml")


def _host_memory() -> DeviceMemory:
    memory = psutil.virtual_memory()
    total, free, source = memory.total, memory.available, "psutil"
    for limit, used in cgroup_limits():
        if limit < total:
            total, source = limit, "cgroup"
        free = min(free, max(limit - used, 0))
    return DeviceMemory("cpu", total, free, source)


def cgroup_limits(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")):
    """Yield (limit, used) in bytes of this process's control groups, which a batch system may set below the machine."""
    try:
        lines = membership.read_text().splitlines()
        group = next(line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::"))
    except (OSError, StopIteration, UnicodeDecodeError):
        return
    for folder in [root / group, *(root / group).parents]:
        if not folder.is_relative_to(root):
            return
        try:
            limit = int((folder / "memory.max").read_text())
            used = int((folder / "memory.current").read_text())
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no limit here: "max", or no such file
            continue
        yield limit, used - int(statistics.get("inactive_file", 0))
