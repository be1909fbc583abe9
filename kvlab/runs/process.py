"""Identify and end processes by pid and start time, because another process may have the pid by now."""

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from typing import Any

import psutil

from kvlab import PROJECT
from kvlab.language import Message

# The start time counts from the machine's boot time, which the system gives in whole seconds.
START_TOLERANCE = 2.0  # seconds
# Popen arguments of a process that outlives this one.
DETACHED = {"stdin": subprocess.DEVNULL, "cwd": PROJECT, "start_new_session": True}


def identity(pid: int | None = None) -> dict[str, Any]:
    """Return ``host``, ``pid`` and ``process_started`` (Unix seconds; None if it is gone); default: this process."""
    pid = os.getpid() if pid is None else pid
    try:
        started = psutil.Process(pid).create_time()
    except psutil.Error:
        started = None
    return {"host": socket.gethostname(), "pid": pid, "process_started": started}


def exists(pid: object, started: object) -> bool:
    """Return whether the process with this pid and start time (Unix seconds) runs on this machine.

    A zombie does not count, nor does another process that has the pid now.
    """
    if not (isinstance(pid, int) and 0 < pid < 2**31 and isinstance(started, int | float)):
        return False
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) <= START_TOLERANCE and not _dead(process)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # it exists, but belongs to another user
        return True


def is_ancestor(pid: object, started: object) -> bool:
    """Return whether this process is, or descends from, the one with this pid and start time."""
    with suppress(psutil.Error):
        this = psutil.Process()
        return exists(pid, started) and pid in [one.pid for one in (this, *this.parents())]
    return False


def end(pid: int, seconds: float = 10.0) -> bool:
    """Kill a process with its children, and with its group if it leads one; False after ``seconds``.

    A process started in a terminal can share its group with a foreign script or pipeline. A launcher of several
    processes gives each a group of its own.
    """
    deadline = time.monotonic() + seconds
    family, leads = [], False
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    with suppress(ProcessLookupError):
        leads = os.getpgid(pid) == pid
    if leads and not end_group(pid, seconds):
        return False
    while family := [member for member in family if _runs(member)]:
        if time.monotonic() > deadline:
            return False
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        time.sleep(0.01)
    return True


def end_group(group: int, seconds: float = 10.0) -> bool:
    """Kill a process group and wait until none of it runs; False after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        if not group_members(group):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)


def end_leftovers(pid: object, started: object, seconds: float = 10.0) -> None:
    """Kill the processes that the ended leader of a process group left running in it.

    The system reuses no pid that is still a group's number: if another process has the pid, the group is gone.
    """
    if not (isinstance(pid, int) and 1 < pid < 2**31 and isinstance(started, int | float)):
        return
    with suppress(psutil.NoSuchProcess):
        if abs(psutil.Process(pid).create_time() - started) > START_TOLERANCE:
            return
    if not exists(pid, started):
        end_group(pid, seconds)


def group_members(group: int) -> list[int]:
    """Return the pids of a process group that still run; zombies do not count."""
    members = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and not _dead(process):
                members.append(process.pid)
    return members


def exit_words(code: int) -> Message:
    """Say how a process ended. ``code`` is Popen's exit code; a negative one is a signal's."""
    if code >= 0:
        return Message("it ended with exit code {n}", n=code)
    if code == -signal.SIGKILL:
        return Message("it ended by signal 9 (SIGKILL); the system may have been out of memory")
    try:
        return Message("it ended by signal {n} ({name})", n=-code, name=signal.Signals(-code).name)
    except ValueError:
        return Message("it ended by signal {n}", n=-code)


def environment() -> dict[str, str]:
    """Return the environment of computing processes: this kvlab, quiet libraries, a traceback on a crash."""
    path = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": str(PROJECT) + (os.pathsep + path if path else ""),
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUTF8": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def _dead(process: psutil.Process) -> bool:
    return process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and not _dead(process)
    return False
