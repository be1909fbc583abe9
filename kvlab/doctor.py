"""The environment check: what is here, what is missing, and the command that mends it.

Plain data out; printing belongs to the command line, drawing to the Checks page. Works when packages are missing
and never imports torch in this process.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kvlab import PROJECT
from kvlab.language import Message
from kvlab.web.access.access_token import NEW, OFF, VARIABLE, is_loopback

OLDEST_PYTHON = (3, 11)
LITTLE = 2 * 1024**3  # bytes of memory or disk below which a warning is due
PROBE_SECONDS = 120  # importing torch from a cold network disk takes long

# Run in a process of its own, so that a broken CUDA installation takes only that process.
PROBE = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__,
    "built_for": torch.version.cuda or torch.version.hip,
    "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    "bfloat16": bool(cuda and all(
        torch.cuda.get_device_capability(i) >= (8, 0) for i in range(torch.cuda.device_count()))),
}))
"""


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``remedy`` is empty when there is nothing to do."""

    name: str  # stable: "python", "package torch", "gpu", ...
    status: str  # "ok" | "warn" | "fail"
    found: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(deep: bool = False, runs: Path | str = "runs") -> list[Finding]:
    """Look at everything the app needs, in the order a person would mend it.

    ``deep`` also imports torch, in a process of its own (seconds), and asks it what it can do.
    ``runs`` is the folder of run records. Never raises for what it finds.
    """
    return [
        python_version(),
        *packages(),
        *devices(),
        *([torch_probe()] if deep else []),
        host_memory(),
        runs_folder(Path(runs)),
        tokenizer_threads(),
        demo_models(),
        server_address(),
        browser(),
    ]


def python_version(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    """This Python, against the oldest one that runs kvlab."""
    found = f"Python {'.'.join(map(str, version))} at {sys.executable}"
    if version[:2] >= OLDEST_PYTHON:
        return Finding(Message("python"), "ok", found)
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return Finding(
        Message("python"),
        "fail",
        found,
        Message("use Python {oldest} or newer: python{oldest} -m venv .venv", oldest=oldest),
    )


def packages(requirements: Path = PROJECT / "requirements.txt") -> list[Finding]:
    """Each required package: installed, and in the version range that is asked for."""
    try:
        lines = requirements.read_text(encoding="utf-8").splitlines()
    except OSError:
        remedy = "run kvlab from its repository, where this file lies"
        return [Finding(Message("packages"), "warn", Message("no {requirements}", requirements=requirements), remedy)]
    entries = [entry for line in lines if (entry := line.partition("#")[0].partition(";")[0].strip())]
    return [_package(entry) for entry in entries if not entry.startswith("-")]


def devices() -> list[Finding]:
    """GPUs, their driver and precision, as the driver says; no GPU is not a fault."""
    try:
        from kvlab.host import memory
    except ImportError as error:
        return [
            Finding(
                Message("gpu"),
                "warn",
                Message("not looked at: {error}", error=error),
                Message("install the missing packages first"),
            )
        ]
    found = memory.gpus()
    if not found:
        if any(Path("/dev").glob("nvidia[0-9]*")):
            remedy = "the GPU is there but its driver does not answer: run nvidia-smi and read its message"
            return [Finding(Message("gpu"), "warn", Message("an NVIDIA device without a working driver"), remedy)]
        note = "none; everything runs on the processor, in float32"
        return [
            Finding(Message("gpu"), "ok", note),
            Finding(Message("mixed precision"), "ok", Message("float32 on the processor")),
        ]
    findings = [Finding(Message("driver"), "ok", Message("NVIDIA driver {version}", version=memory.driver_version()))]
    for gpu in found:
        used = (gpu.total - gpu.free) / gpu.total
        text = f"{gpu.name}, {memory.readable(gpu.free)} free of {memory.readable(gpu.total)}"
        if used < memory.LIMIT:
            findings.append(Finding(Message("gpu {n}", n=gpu.index), "ok", text))
        else:
            remedy = "look at who uses it (nvidia-smi), or choose another with CUDA_VISIBLE_DEVICES"
            findings.append(
                Finding(
                    Message("gpu {n}", n=gpu.index),
                    "warn",
                    Message("{text}: {used} is taken", text=text, used=f"{used:.0%}"),
                    remedy,
                )
            )
    if not memory.visible_gpus():
        setting = os.environ.get("CUDA_VISIBLE_DEVICES")
        found_text = f"no GPU visible: CUDA_VISIBLE_DEVICES={setting!r}"
        findings.append(
            Finding(Message("gpu visible"), "warn", found_text, Message("unset CUDA_VISIBLE_DEVICES to use the GPU"))
        )
    if _version("torch").endswith("+cpu"):
        remedy = "install the CUDA build for this driver: https://pytorch.org/get-started/locally"
        findings.append(Finding(Message("torch build"), "warn", Message("torch is the processor-only build"), remedy))
    oldest = min(gpu.capability for gpu in found)
    precision = "bfloat16 and float16" if oldest >= (8, 0) else "float16, no bfloat16"
    findings.append(
        Finding(
            Message("mixed precision"),
            "ok",
            Message(
                "{precision} (compute capability {oldest}.{oldest2})",
                precision=precision,
                oldest=oldest[0],
                oldest2=oldest[1],
            ),
        )
    )
    return findings


def torch_probe(seconds: float = PROBE_SECONDS, code: str = PROBE) -> Finding:
    """Import torch in another process and say what it can use."""
    command = [sys.executable, "-c", code]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        answer = json.loads(result.stdout.splitlines()[-1]) if result.returncode == 0 else None
    except subprocess.TimeoutExpired:
        remedy = "the disk with the environment is slow or hangs; try again, or move the environment"
        return Finding(
            Message("torch"),
            "warn",
            Message("torch did not import within {seconds} s", seconds=f"{seconds:.0f}"),
            remedy,
        )
    except (ValueError, IndexError):
        answer = None
    if answer is None:
        last = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        remedy = f"reinstall it: {_install('torch')}"
        return Finding(Message("torch"), "fail", Message("torch does not import: {error}", error=last), remedy)
    where = ", ".join(answer["devices"]) or "the processor only"
    built = f"CUDA {answer['built_for']}" if answer["built_for"] else "the processor"
    precision = "bfloat16" if answer["bfloat16"] else "no bfloat16" if answer["devices"] else "float32"
    return Finding(
        Message("torch"),
        "ok",
        Message(
            "torch {version} built for {built} runs on {where}; {precision}",
            version=answer["version"],
            built=built,
            where=where,
            precision=precision,
        ),
    )


def host_memory() -> Finding:
    """Memory of the machine, or what a batch system grants of it."""
    try:
        from kvlab.host import memory
    except ImportError as error:
        return Finding(
            Message("memory"),
            "warn",
            Message("not looked at: {error}", error=error),
            Message("install the missing packages first"),
        )
    host = memory.device_memory("cpu")
    granted = " (granted to this job)" if host.source == "cgroup" else ""
    text = f"{memory.readable(host.free)} free of {memory.readable(host.total)}{granted}"
    if host.free >= LITTLE:
        return Finding(Message("memory"), "ok", text)
    return Finding(
        Message("memory"), "warn", text, Message("close other programs, or ask the batch system for more memory")
    )


def runs_folder(runs: Path) -> Finding:
    """Whether runs can be written, and how much room is left."""
    existing = next(folder for folder in [runs.absolute(), *runs.absolute().parents] if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
        free = shutil.disk_usage(existing).free
    except OSError as error:
        remedy = f"make it writable: mkdir -p {shlex.quote(str(runs))} && chmod u+w {shlex.quote(str(runs))}"
        return Finding(
            Message("runs folder"),
            "fail",
            Message("{folder} cannot be written: {error}", folder=existing, error=error.strerror),
            remedy,
        )
    text = f"{existing} is writable, {free / 1024**3:.1f} GiB free"
    if free >= LITTLE:
        return Finding(Message("runs folder"), "ok", text)
    return Finding(Message("runs folder"), "warn", text, Message("free some space: a run keeps checkpoints and arrays"))


def tokenizer_threads() -> Finding:
    """Whether the tokenizers library may use every processor core."""
    setting = os.environ.get("TOKENIZERS_PARALLELISM")
    if setting is None or setting.lower() in ("1", "true", "on", "yes"):
        found = "every core may be used" + ("" if setting is None else f" (TOKENIZERS_PARALLELISM={setting})")
        return Finding(Message("tokenizer threads"), "ok", found)
    found = f"one core only: TOKENIZERS_PARALLELISM={setting}"
    return Finding(
        Message("tokenizer threads"),
        "warn",
        found,
        Message("unset TOKENIZERS_PARALLELISM: many prompts are read faster"),
    )


def demo_models() -> Finding:
    """The bundled pair, which everything works on without a network."""
    try:
        from kvlab.host.models import DEMO, local_names
    except ImportError as error:
        return Finding(
            Message("models"),
            "warn",
            Message("not looked at: {error}", error=error),
            Message("install the missing packages first"),
        )
    here = local_names()
    missing = [name for name in DEMO if name not in here]
    others = len(here) - len(DEMO) + len(missing)
    if missing:
        return Finding(
            Message("models"),
            "fail",
            Message("missing: {names}", names=", ".join(missing)),
            Message("git checkout kvlab/demo"),
        )
    return Finding(
        Message("models"), "ok", Message("{names}, and {n} in the Hugging Face cache", names=", ".join(DEMO), n=others)
    )


def server_address(configuration: Path = PROJECT / ".streamlit" / "config.toml") -> Finding:
    """Where the web app listens, and whether an access token guards it."""
    address = os.environ.get("STREAMLIT_SERVER_ADDRESS") or _configured_address(configuration)
    chosen = os.environ.get(VARIABLE, "").strip()
    guarded = chosen not in ("", OFF)
    loopback = is_loopback(address)
    otherwise = "no access token" if loopback or chosen else "an access token made and printed at each start"
    found = f"listens on {address or 'every network interface'}; {f'{VARIABLE} is set' if guarded else otherwise}"
    if guarded or loopback:
        # Loopback keeps other machines out, not other accounts of a shared one.
        note = "" if guarded else f"on a machine shared with others, set {VARIABLE} to a secret, or to {NEW}"
        return Finding(Message("server"), "ok", found, note)
    return Finding(
        Message("server"), "warn", found, Message('set address = "127.0.0.1" in .streamlit/config.toml, or KVLAB_TOKEN')
    )


def browser() -> Finding:
    """Chromium, which only the browser tests need."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path:
        return Finding(Message("browser"), "ok", path)
    remedy = "only for the browser tests: apt-get install chromium"
    return Finding(Message("browser"), "ok", Message("no Chromium; the app does not need it"), remedy)


def _configured_address(configuration: Path) -> str:
    try:
        settings = tomllib.loads(configuration.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return ""
    return str(settings.get("server", {}).get("address", ""))


def _package(entry: str) -> Finding:
    name = re.match(r"[A-Za-z0-9._-]+", entry).group()
    wanted = entry.removeprefix(name).strip()
    version = _version(name)
    if not version:
        return Finding(Message("package {name}", name=name), "fail", Message("not installed"), _install(entry))
    found = f"{version} (asked for: {wanted or 'any'})"
    broken = [clause for clause in wanted.split(",") if clause and not _satisfies(version, clause.strip())]
    if not broken:
        return Finding(Message("package {name}", name=name), "ok", found)
    # Too old lacks what the code calls; newer or another build than the pinned one usually works.
    status = "fail" if any(clause.strip().startswith(">") for clause in broken) else "warn"
    return Finding(Message("package {name}", name=name), status, found, _install(entry))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name) or ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def _install(requirement: str) -> str:
    return f"{shlex.quote(sys.executable)} -m pip install {shlex.quote(requirement)}"


def _satisfies(version: str, clause: str) -> bool:
    """Whether a version meets one clause like ">=2.0"; releases only, as this file's ranges use no more."""
    match = re.fullmatch(r"(==|>=|<=|!=|<|>)\s*([\d.]+)", clause)
    if match is None:
        return True
    have, want = _release(version), _release(match[2])
    length = max(len(have), len(want))
    have, want = (numbers + (0,) * (length - len(numbers)) for numbers in (have, want))
    return {
        "==": have == want,
        ">=": have >= want,
        "<=": have <= want,
        "!=": have != want,
        "<": have < want,
        ">": have > want,
    }[match[1]]


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version: "2.13.0+cpu" and "2.13.0rc1" are (2, 13, 0)."""
    return tuple(int(number) for number in re.match(r"\d+(?:\.\d+)*", version).group().split("."))
