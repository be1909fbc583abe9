"""Why a process ended without saying so itself: from its exit code and the last words in its log."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from kvlab.errors import RunError
from kvlab.runs.process import exit_words

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
        expected="the process of the run to report how it ended",
        found=f"it {how}" + (f"; from the end of its log:\n{words}" if words else ""),
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
