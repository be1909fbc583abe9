"""Call a function in a process of its own, with limits on memory and time.

Files that strangers made are read there: whatever a library does with them, this process neither fills the memory of
the machine, nor hangs, nor ends. It is no wall against a program that means harm: the process has the rights of its
user. Knows nothing of what is read.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

from kvlab import PROJECT, errors
from kvlab.language import Message

try:
    import resource
except ImportError:  # Windows
    resource = None

MEMORY, SECONDS = 2 * 2**30, 60
TOGETHER = 2  # processes at a time; further calls wait for their turn

_RESERVED = 4 * 2**30  # bytes of addresses beyond MEMORY: libraries reserve far more than they use
_WRITTEN = 64 * 2**20  # bytes that the process may write to a file, such as its log
_PATIENCE = 30  # seconds for a killed process to be gone
# What libraries say when there is no memory left.
_NO_MEMORY = (b"MemoryError", b"memory allocation", b"bad_alloc", b"Cannot allocate memory", b"malloc of size")
_QUIET = {
    "OMP_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "2",
    "RUST_BACKTRACE": "0",
    "PYTHONUTF8": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
_turns = threading.BoundedSemaphore(TOGETHER)


class Exceeded(Exception):
    """The function came to a limit, or its process broke: ``kind`` is "memory", "time" or "died"."""

    def __init__(self, kind: str, reason: Message | str):
        super().__init__(kind)
        self.kind, self.reason = kind, reason


def limits_memory() -> bool:
    """Return whether this system limits the memory of a process: Linux does, macOS and Windows do not."""
    return resource is not None and sys.platform.startswith("linux")


def call(
    function: Callable,
    *arguments: Any,
    data: bytes | None = None,
    memory: int | None = None,
    seconds: float | None = None,
    **options: Any,
) -> Any:
    """Return ``function(*arguments, **options)``, computed within ``memory`` bytes (MEMORY) and ``seconds`` (SECONDS).

    Arguments and result are JSON, never pickles; a dataclass becomes its fields. With ``data`` the function also gets
    these bytes by that name. Raises the KvlabError of the function, and Exceeded for everything else.
    """
    memory, seconds = memory or MEMORY, seconds or SECONDS
    request = {"function": f"{function.__module__}:{function.__qualname__}", "arguments": arguments}
    request |= {"options": options, "data": data is not None}
    with _turns, tempfile.TemporaryFile() as log:
        code, answer = _run(json.dumps(request).encode() + b"\n" + (data or b""), log, memory, seconds)
        log.seek(max(0, log.seek(0, os.SEEK_END) - 2**16))
        last_words = log.read()
    how, result = json.loads(answer) if answer else ("ended", None)
    if how == "value":
        return result
    if how == "error":
        raise getattr(errors, result["class"]).from_dict(result)
    if how == "ended" and code in (None, -24):  # the signal SIGXCPU
        raise Exceeded("time", Message("no end after {n:g} s", n=seconds))
    if how == "memory" or any(words in last_words for words in _NO_MEMORY):
        raise Exceeded("memory", Message("more than {size:g} MiB of memory in use", size=memory / 2**20))
    if how == "ended":
        result = Message("the end of the process that read it (exit code {code})", code=code)
    raise Exceeded("died", result)


def _run(request: bytes, log, memory: int, seconds: float) -> tuple[int | None, bytes]:
    """Return the exit code and the answer; None if the time was over."""
    command = [sys.executable, "-m", "kvlab.host.limited", str(memory), str(int(seconds) + 1)]
    environment = {name: value for name, value in os.environ.items() if name != "KVLAB_TOKEN"} | _QUIET
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
    try:
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, start_new_session=True, **pipes)
    except OSError as error:
        raise Exceeded("died", errors.system_reason(error)) from None
    try:
        answer, _ = process.communicate(request, timeout=seconds)
    except subprocess.TimeoutExpired:
        return None, b""
    finally:
        if process.poll() is None:
            process.kill()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
    return process.returncode, answer if process.returncode == 0 else b""


def _limit(memory: int, seconds: int) -> None:
    if resource is None:
        return
    wanted = {
        "RLIMIT_DATA": memory,
        "RLIMIT_AS": memory + _RESERVED,
        "RLIMIT_CPU": seconds,
        "RLIMIT_FSIZE": _WRITTEN,
        "RLIMIT_CORE": 0,
    }
    for name, most in wanted.items():
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with suppress(ValueError, OSError):  # a system without this limit
            resource.setrlimit(kind, (most, hard if name == "RLIMIT_CPU" else most))


def main() -> None:
    """Read a request on stdin, answer on stdout; prints of libraries go to stderr."""
    memory, seconds = map(int, sys.argv[1:])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _limit(memory, seconds)
    try:
        answer = json.dumps(("value", _perform(json.loads(sys.stdin.buffer.readline()))), default=as_json)
    except errors.KvlabError as error:
        answer = json.dumps(("error", {"class": type(error).__name__, **error.to_dict()}))
    except MemoryError:
        answer = json.dumps(("memory", None))
    except BaseException as error:  # whatever a library raises, also a panic of Rust
        lines = str(error).strip().splitlines() or [type(error).__name__]
        answer = json.dumps(("died", lines[0][:200]))
    answers.write(answer.encode())
    answers.flush()
    os._exit(0)  # threads of libraries may still work


def as_json(value: Any) -> Any:
    """Return the fields of a dataclass or a Message, which json.dumps does not know."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Message):
        return value.to_dict()
    raise TypeError(f"{type(value).__name__} in an answer")


def _perform(request: dict[str, Any]) -> Any:
    options = request["options"]
    if request["data"]:
        options["data"] = sys.stdin.buffer.read()
    module, _, name = request["function"].partition(":")
    return getattr(importlib.import_module(module), name)(*request["arguments"], **options)


if __name__ == "__main__":
    main()
