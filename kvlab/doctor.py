"""The environment check: what is here, what is missing, and how to fix it.

It returns plain data; the command line prints it, the Checks page draws it. It works when packages are missing and
never imports torch in this process.
"""

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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from operator import eq, ge, gt, le, lt, ne
from pathlib import Path
from typing import Any

from kvlab import PROJECT
from kvlab.errors import system_reason
from kvlab.host.limited import limits_memory
from kvlab.language import Message
from kvlab.web.access.access_token import NEW, OFF, VARIABLE, is_loopback

OLDEST_PYTHON = (3, 11)
LITTLE = 2 * 1024**3  # bytes of memory or disk; warn below

# Runs in a process of its own, so that a broken CUDA installation crashes only that process.
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
    """The result of one check. ``remedy`` is empty when there is nothing to do."""

    name: Message | str  # "python", "package torch", "gpu", ...
    status: str  # "ok" | "warn" | "fail"
    found: Message | str
    remedy: Message | str = ""

    def to_dict(self) -> dict[str, Any]:
        texts = {"name": self.name, "found": self.found, "remedy": self.remedy}
        words = {name: text.to_dict() if isinstance(text, Message) else text for name, text in texts.items()}
        return {**words, "status": self.status}


def examine(deep: bool = False, runs: Path | str = "runs") -> list[Finding]:
    """Check everything the app needs, in the order in which a person would fix it. Never raises for a fault.

    ``deep``: also import torch in a process of its own (seconds) and test it. ``runs``: the folder of runs.
    """
    return [
        python_version(),
        *packages(),
        *_guarded(Message("gpu"), devices),
        *([torch_probe()] if deep else []),
        *_guarded(Message("memory"), lambda: [host_memory()]),
        runs_folder(Path(runs)),
        tokenizer_threads(),
        reading_limits(),
        *_guarded(Message("models"), lambda: [demo_models()]),
        server_address(),
        browser(),
    ]


def python_version(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    """Compare this Python with the oldest one that runs kvlab."""
    found = Message("Python {version} at {program}", version=".".join(map(str, version)), program=sys.executable)
    if version[:2] >= OLDEST_PYTHON:
        return Finding("python", "ok", found)
    oldest = ".".join(map(str, OLDEST_PYTHON))
    remedy = Message("use Python {oldest} or newer: python{oldest} -m venv .venv", oldest=oldest)
    return Finding("python", "fail", found, remedy)


def packages(requirements: Path = PROJECT / "requirements.txt") -> list[Finding]:
    """Check that each required package is installed in its version range."""
    try:
        lines = requirements.read_text(encoding="utf-8").splitlines()
    except OSError:
        remedy = Message("run kvlab from its repository, where this file lies")
        return [Finding(Message("packages"), "warn", Message("no {file}", file=requirements), remedy)]
    entries = [entry for line in lines if (entry := line.partition("#")[0].partition(";")[0].strip())]
    return [_package(entry) for entry in entries if not entry.startswith("-")]


def devices() -> list[Finding]:
    """Check GPUs, their driver and precision, as the driver reports them. No GPU is not a fault."""
    from kvlab.host import memory

    gpus = memory.gpus()
    if not gpus:
        return _no_gpu()
    findings = [Finding(Message("driver"), "ok", Message("NVIDIA driver {version}", version=memory.driver_version()))]
    for gpu in gpus:
        used = (gpu.total - gpu.free) / gpu.total
        sizes = {"name": gpu.name, "free": memory.readable(gpu.free), "total": memory.readable(gpu.total)}
        name = Message("gpu {n}", n=gpu.index)
        if used < memory.LIMIT:
            findings.append(Finding(name, "ok", Message("{name}, {free} free of {total}", **sizes)))
        else:
            found = Message("{name}, {free} free of {total}: {used:.0%} is taken", used=used, **sizes)
            remedy = Message("look at who uses it (nvidia-smi), or choose another with CUDA_VISIBLE_DEVICES")
            findings.append(Finding(name, "warn", found, remedy))
    if not memory.visible_gpus():
        found = Message("no GPU visible: {setting}", setting=_shown("CUDA_VISIBLE_DEVICES"))
        remedy = Message("unset CUDA_VISIBLE_DEVICES to use the GPU")
        findings.append(Finding(Message("gpu visible"), "warn", found, remedy))
    if _version("torch").endswith("+cpu"):
        builds = "https://pytorch.org/get-started/locally"
        remedy = Message("install the CUDA build for this driver: {address}", address=builds)
        findings.append(Finding(Message("torch build"), "warn", Message("torch is the processor-only build"), remedy))
    oldest = min(gpu.capability for gpu in gpus)
    found = Message(
        "bfloat16 and float16 (compute capability {capability})"
        if oldest >= (8, 0)
        else "float16, no bfloat16 (compute capability {capability})",
        capability=".".join(map(str, oldest)),
    )
    return [*findings, Finding(Message("mixed precision"), "ok", found)]


def _no_gpu() -> list[Finding]:
    if any(Path("/dev").glob("nvidia[0-9]*")):
        found = Message("an NVIDIA device without a working driver")
        remedy = Message("the GPU is there but its driver does not answer: run nvidia-smi and read its message")
        return [Finding(Message("gpu"), "warn", found, remedy)]
    return [
        Finding(Message("gpu"), "ok", Message("none; everything runs on the processor, in float32")),
        Finding(Message("mixed precision"), "ok", Message("float32 on the processor")),
    ]


def torch_probe(seconds: float = 120, code: str = PROBE) -> Finding:
    """Import torch in another process and report what it can use; from a cold network disk this takes long."""
    command = [sys.executable, "-c", code]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        answer = json.loads(result.stdout.splitlines()[-1]) if result.returncode == 0 else None
    except subprocess.TimeoutExpired:
        found = Message("torch did not import within {seconds:.0f} s", seconds=seconds)
        remedy = Message("the disk with the environment is slow or hangs; try again, or move the environment")
        return Finding("torch", "warn", found, remedy)
    except (ValueError, IndexError):
        answer = None
    if answer is None:
        lines = result.stderr.strip().splitlines()
        last = lines[-1] if lines else Message("exit code {code}", code=result.returncode)
        found = Message("torch does not import: {error}", error=last)
        return Finding("torch", "fail", found, Message("reinstall it: {command}", command=_install("torch")))
    cuda, devices = answer["built_for"], answer["devices"]
    precision = "bfloat16" if answer["bfloat16"] else "float32"
    if devices and not answer["bfloat16"]:
        precision = Message("no bfloat16")
    found = Message(
        "torch {version} built for {built_for} runs on {devices}; {precision}",
        version=answer["version"],
        built_for=f"CUDA {cuda}" if cuda else Message("the processor"),
        devices=devices or Message("the processor only"),
        precision=precision,
    )
    return Finding("torch", "ok", found)


def host_memory() -> Finding:
    """Check the memory of the machine, or the part that a batch system grants."""
    from kvlab.host import memory

    host = memory.device_memory("cpu")
    sizes = {"free": memory.readable(host.free), "total": memory.readable(host.total)}
    granted = host.source == "cgroup"
    found = Message("{free} free of {total} (granted to this job)" if granted else "{free} free of {total}", **sizes)
    if host.free >= LITTLE:
        return Finding(Message("memory"), "ok", found)
    remedy = Message("close other programs, or ask the batch system for more memory")
    return Finding(Message("memory"), "warn", found, remedy)


def runs_folder(runs: Path) -> Finding:
    """Check that runs can be written, and the free disk space."""
    name = Message("runs folder")
    existing = next(folder for folder in [runs.absolute(), *runs.absolute().parents] if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
        free = shutil.disk_usage(existing).free
    except OSError as error:
        found = Message("{folder} cannot be written: {reason}", folder=existing, reason=system_reason(error))
        quoted = shlex.quote(str(runs))
        remedy = Message("make it writable: {command}", command=f"mkdir -p {quoted} && chmod u+w {quoted}")
        return Finding(name, "fail", found, remedy)
    found = Message("{folder} is writable, {free:.1f} GiB free", folder=existing, free=free / 1024**3)
    if free >= LITTLE:
        return Finding(name, "ok", found)
    return Finding(name, "warn", found, Message("free some space: a run keeps checkpoints and arrays"))


def tokenizer_threads() -> Finding:
    """Check that the tokenizers library may use every processor core."""
    name = Message("tokenizer threads")
    setting, shown = os.environ.get("TOKENIZERS_PARALLELISM"), _shown("TOKENIZERS_PARALLELISM")
    if setting is None:
        return Finding(name, "ok", Message("every core may be used"))
    if setting.lower() in ("1", "true", "on", "yes"):
        return Finding(name, "ok", Message("every core may be used ({setting})", setting=shown))
    found = Message("one core only: {setting}", setting=shown)
    return Finding(name, "warn", found, Message("unset TOKENIZERS_PARALLELISM: many prompts are read faster"))


def reading_limits() -> Finding:
    """Check that the process that reads uploads and tries tokenizers cannot take all memory."""
    name = Message("limits of reading")
    if limits_memory():
        return Finding(name, "ok", Message("memory and time"))
    remedy = Message("read files and models of strangers on Linux: elsewhere one small file can take all memory")
    return Finding(name, "warn", Message("time only: this system does not limit the memory of a process"), remedy)


def demo_models() -> Finding:
    """Look for the bundled pair, which needs no network."""
    from kvlab.host.models import DEMO, local_names

    here = local_names()
    missing = [name for name in DEMO if name not in here]
    if missing:
        return Finding(Message("models"), "fail", Message("missing: {names}", names=missing), "git checkout kvlab/demo")
    found = Message("{names}, and {n} in the Hugging Face cache", names=list(DEMO), n=len(here) - len(DEMO))
    return Finding(Message("models"), "ok", found)


def server_address(configuration: Path = PROJECT / ".streamlit" / "config.toml") -> Finding:
    """Report where the web app listens, and whether an access token guards it."""
    name = Message("server")
    address = os.environ.get("STREAMLIT_SERVER_ADDRESS") or _configured_address(configuration)
    chosen = os.environ.get(VARIABLE, "").strip()
    guarded, loopback = chosen not in ("", OFF), is_loopback(address)
    if guarded:
        token = Message("{variable} is set", variable=VARIABLE)
    elif loopback or chosen:
        token = Message("no access token")
    else:
        token = Message("an access token made and printed at each start")
    found = Message("listens on {address}; {token}", address=address or Message("every network interface"), token=token)
    if guarded:
        return Finding(name, "ok", found)
    if loopback:  # keeps other machines out, but not other accounts on this one
        names = {"variable": VARIABLE, "new": NEW}
        note = Message("on a machine shared with others, set {variable} to a secret, or to {new}", **names)
        return Finding(name, "ok", found, note)
    remedy = Message('set address = "127.0.0.1" in .streamlit/config.toml, or {variable}', variable=VARIABLE)
    return Finding(name, "warn", found, remedy)


def browser() -> Finding:
    """Look for Chromium, which only the browser tests need."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path:
        return Finding(Message("browser"), "ok", path)
    remedy = Message("only for the browser tests: {command}", command="apt-get install chromium")
    return Finding(Message("browser"), "ok", Message("no Chromium; the app does not need it"), remedy)


def _guarded(name: Message, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Run a check; report a missing package as a finding."""
    try:
        return check()
    except ImportError as error:
        found = Message("not looked at: {error}", error=error)
        return [Finding(name, "warn", found, Message("install the missing packages first"))]


def _shown(variable: str) -> str:
    return f"{variable}={os.environ.get(variable, '')}"


def _configured_address(configuration: Path) -> str:
    with suppress(OSError, tomllib.TOMLDecodeError):
        settings = tomllib.loads(configuration.read_text(encoding="utf-8"))
        return str(settings.get("server", {}).get("address", ""))
    return ""


def _package(entry: str) -> Finding:
    name = re.match(r"[A-Za-z0-9._-]+", entry).group()
    wanted = entry.removeprefix(name).strip()
    version = _version(name)
    title = Message("package {name}", name=name)
    if not version:
        return Finding(title, "fail", Message("not installed"), _install(entry))
    found = Message("{version} (asked for: {wanted})", version=version, wanted=wanted or Message("any"))
    broken = [clause for clause in wanted.split(",") if clause and not _satisfies(version, clause.strip())]
    if not broken:
        return Finding(title, "ok", found)
    # An old version lacks functions that the code calls; a newer version or another build usually works.
    status = "fail" if any(clause.strip().startswith(">") for clause in broken) else "warn"
    return Finding(title, status, found, _install(entry))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name) or ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def _install(requirement: str) -> str:
    return f"{shlex.quote(sys.executable)} -m pip install {shlex.quote(requirement)}"


def _satisfies(version: str, clause: str) -> bool:
    """Return whether a version meets one clause like ">=2.0". Compares releases only, as the ranges need no more."""
    match = re.fullmatch(r"(==|>=|<=|!=|<|>)\s*([\d.]+)", clause)
    if match is None:
        return True
    have, want = zip(*zip_longest(_release(version), _release(match[2]), fillvalue=0))
    return {"==": eq, ">=": ge, "<=": le, "!=": ne, "<": lt, ">": gt}[match[1]](have, want)


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version: "2.13.0+cpu" and "2.13.0rc1" are (2, 13, 0)."""
    return tuple(int(number) for number in re.match(r"\d+(?:\.\d+)*", version).group().split("."))
