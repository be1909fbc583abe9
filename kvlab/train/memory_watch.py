"""Sample the memory in use about once a second during loading and training, and keep the largest share."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pynvml

from kvlab.errors import RunError
from kvlab.host import memory
from kvlab.runs import store

FILE = "memory.jsonl"


class MemoryWatch:
    """Write a line per second: ``with MemoryWatch(folder, phase):``; ``phase()`` names the current phase of the run.

    On a GPU, NVML shows the whole device and this process, and torch its own memory. Without a GPU, measure the memory
    of this process as a share of the machine's, or of what a batch system grants.
    """

    def __init__(self, folder: Path, phase: Callable[[], str], device: str = "cpu", seconds: float = 1.0):
        self._folder, self._phase, self._seconds = folder, phase, seconds
        self._begun, self._over = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._sample_on, name="memory", daemon=True)
        self.device = device  # Accelerate may give the run another
        self.peak_used, self.peak_share, self.total, self.source = 0, 0.0, 0, ""

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        with suppress(RunError):
            self.sample()

    def sample(self) -> dict[str, Any]:
        """Sample now and write the line."""
        seconds = round(time.monotonic() - self._begun, 3)
        line = {"t": seconds, "time": store.timestamp(), "phase": self._phase(), **look(self.device)}
        if line["device_used"] is not None:
            # Torch and the system know the true peak, which may lie between samples.
            exact_peak = line["torch_peak" if self.device.startswith("cuda") else "process_peak"]
            most = max(line["device_used"], exact_peak or 0)
            if most > self.peak_used:
                self.peak_used, self.total, self.source = most, line["device_total"], line["source"]
            self.peak_share = max(self.peak_share, most / line["device_total"])
        store.append(self._folder / FILE, json.dumps(line).encode() + b"\n")
        return line

    def peak(self) -> dict[str, Any]:
        """Return the peak so far, in bytes and as a share of the device."""
        share = round(self.peak_share, 4)
        return {"peak": self.peak_used, "total": self.total, "share": share, "source": self.source}

    def _sample_on(self) -> None:
        while not self._over.is_set():
            with suppress(RunError):  # writers of more important lines report a full disk
                self.sample()
            self._over.wait(self._seconds)


def look(device: str) -> dict[str, Any]:
    """Return one sample in bytes; values that do not apply are None. ``source`` says in words what "used" covers.

    Before torch uses a GPU, ask only its driver: a sample must not make torch start.
    """
    resident = psutil.Process().memory_info().rss
    sample = {"process_rss": resident, "process_peak": _highest(resident)}
    sample |= {"torch_allocated": None, "torch_reserved": None, "torch_peak": None}
    if not device.startswith("cuda"):
        total = memory.device_memory("cpu").total
        words = "this process's memory, of the machine's (no GPU in use)"
        return {**sample, "device_used": resident, "device_total": total, "device_process": resident, "source": words}
    cuda = _begun()
    if cuda is not None:
        sample["torch_allocated"] = cuda.memory_allocated(device)
        sample["torch_reserved"] = cuda.memory_reserved(device)
        sample["torch_peak"] = cuda.max_memory_allocated(device)
    by_driver = _by_driver(str(cuda.get_device_properties(device).uuid) if cuda else _uuid(device))
    if by_driver is not None:
        return {**sample, **by_driver, "source": "NVML: the whole device, other processes included"}
    free, total = cuda.mem_get_info(device) if cuda else (None, None)
    used = None if free is None else total - free
    words = "CUDA: the whole device, other processes included"
    return {**sample, "device_used": used, "device_total": total, "device_process": None, "source": words}


def _begun() -> Any | None:
    """Return torch.cuda once this process uses it, else None."""
    try:
        cuda = sys.modules["torch"].cuda
        return cuda if cuda.is_initialized() else None
    except (KeyError, AttributeError):  # not imported yet, or half
        return None


def _uuid(device: str) -> str:
    """Return the driver's UUID of "cuda:N"; empty where it knows none."""
    visible = memory.visible_gpus()
    number = int(device.partition(":")[2] or 0)
    return visible[number].uuid if number < len(visible) else ""


def _highest(resident: int) -> int | None:
    """Return the peak memory of this process since it began (Linux: VmHWM); None where the system does not know it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    return max(peak, resident)


def _by_driver(uuid: str) -> dict[str, Any] | None:
    """Ask the driver about the GPU that torch uses, by UUID, because CUDA numbers GPUs differently."""

    def used() -> dict[str, Any]:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
        info = pynvml.nvmlDeviceGetMemoryInfo(handle)
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        this_process = next((p.usedGpuMemory for p in processes if p.pid == os.getpid()), None)
        return {"device_used": int(info.used), "device_total": int(info.total), "device_process": this_process}

    return memory.ask_driver(used)
