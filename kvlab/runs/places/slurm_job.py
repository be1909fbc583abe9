"""The body of a Slurm job, called by submitit in every task; then this process becomes the run's own.

The process that takes over hears USR2 (saves, and puts the job back) as soon as it has imported its libraries; until
then the signal is ignored, because its default would end it unsaved.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kvlab.runs import begin, locks, run_queue, store
from kvlab.runs.records import Status

SUBMITTED = "KVLAB_SUBMITTED"  # set in a job, so that its command does not submit another one
TRIES = 20  # to take the lock of a run
PATIENCE = 60.0  # seconds for the process of a job that was put back to be gone
JOB = "SLURM_JOB_ID"
PREEMPTED = re.compile(r"\bPreemptTime=(?!None)\S")  # as scontrol shows a job that must make room
ANSWERS = 20.0  # seconds for scontrol


def work(folder: str) -> None:
    """Carry out a run: the first task begins it, as the queue would, and the others join it."""
    _join()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    place, command = Path(folder), run_queue.TRAINER
    if os.environ.get("RANK", "0") != "0":
        os.execvp(command[0], [*command, folder])
    _sign(place)
    _write_to(place / "output.log")
    for _ in range(TRIES):  # returns only if the run is not wanted, or while somebody looks at it
        begin.begin(place, command)
        if store.read_status(place).get("state") != "queued":
            return
        time.sleep(1)


def command(arguments: Sequence[str]) -> None:
    """Become ``python -m kvlab ARGUMENTS``. The first of ``arguments`` is the folder to work in."""
    where, *rest = arguments
    _join()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    os.environ[SUBMITTED] = "1"
    os.chdir(where)
    os.execvp(sys.executable, [sys.executable, "-P", "-m", "kvlab", *rest])


def preempted() -> bool:
    """Return whether Slurm ends the job of this process because another takes its place."""
    with suppress(OSError, subprocess.SubprocessError):
        return bool(PREEMPTED.search(_scontrol("show", "job", "--oneliner")))
    return False


def put_back() -> None:
    """Put the job of this process back into the queue, which ends the process. Raises OSError, SubprocessError."""
    _scontrol("requeue")


def _scontrol(*words: str) -> str:
    command = ["scontrol", *words, os.environ[JOB]]
    return subprocess.run(command, capture_output=True, text=True, timeout=ANSWERS, check=True).stdout


def _join() -> None:
    """Set what torch.distributed reads, for several tasks."""
    from submitit.helpers import TorchDistributedEnvironment

    if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        address = os.environ.get("MASTER_ADDR")  # of a site whose node names do not resolve
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        if address:
            os.environ["MASTER_ADDR"] = address


def _sign(folder: Path) -> None:
    """Write the job's id into the run's status, and queue a run again whose process died with its node."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job_id = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    with locks.held(folder / run_queue.RUN_LOCK, PATIENCE) as mine:
        if not mine:
            return
        status = store.read_status(folder)
        changes = {"job": {**Status.of(status).job, "id": job_id}}
        if status.get("state") == "running" and int(os.environ.get("SLURM_RESTART_COUNT", "0")):
            changes |= {"state": "queued", "pid": None, "process_started": None, "next_heartbeat_due": None}
        store.write_status(folder, **changes)


def _write_to(log: Path) -> None:
    """Append what the process prints to a file of the run, as the queue does."""
    with open(log, "ab", opener=store.private) as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
