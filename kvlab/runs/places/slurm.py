"""Run on a cluster: submit runs to Slurm through submitit, follow their jobs, and end them.

The run's folder stays the truth; a file per run in runs/.queue/slurm/ names those whose job may not be over. One
``squeue`` for all of them, at most every LOOK seconds, says what waits and why, and what ended without a word.
"""

import getpass
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvlab import PROJECT
from kvlab.errors import KvlabError, RunError
from kvlab.host import privacy
from kvlab.language import Message, phrase
from kvlab.runs import locks, store
from kvlab.runs.places import slurm_job
from kvlab.runs.records import Status
from kvlab.runs.run_queue import FOLDER, RUN_LOCK

DEFAULTS = "slurm.yaml"  # of the site: in runs/, else in the project
HERE, JOBS = "slurm", "slurm-jobs"  # the index in runs/.queue/, and submitit's files there
LOOK = 5.0  # seconds at least between two looks at Slurm
PATIENCE = 30.0  # seconds for a command of Slurm to answer
GONE_WITHIN = 60.0  # seconds for a cancelled job to be gone
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING", "SPECIAL_EXIT")
AT_WORK = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")

# Why jobs wait, in words; other reasons are shown as Slurm says them.
REASONS = {
    "Resources": phrase("it waits for free nodes"),
    "Priority": phrase("other jobs come first"),
    "Dependency": phrase("it waits for another job"),
    "BeginTime": phrase("it was put back and starts again in a moment"),
    "JobArrayTaskLimit": phrase("as many runs of its experiment run at once as were allowed"),
    "QOSMaxJobsPerUserLimit": phrase("you have as many jobs as your account may run at once"),
    "AssocGrpGRES": phrase("your group uses all the GPUs that it may"),
    "PartitionTimeLimit": phrase("its time limit is above that of the partition"),
    "ReqNodeNotAvail": phrase("a node that it needs is down or reserved"),
    "JobHeldUser": phrase("it is held; scontrol release lets it go"),
    "JobHeldAdmin": phrase("an administrator holds it"),
    "launch failed requeued held": phrase("it could not be started and is held; scontrol release lets it go"),
}
# How jobs end without the run's own word: kind, what was found, what to do.
ENDS = {
    "TIMEOUT": (
        "slurm-timeout",
        phrase("its time limit, before it had saved and put itself back"),
        phrase("resume it from its last checkpoint, with a longer --time-limit or --grace"),
    ),
    "DEADLINE": ("slurm-timeout", phrase("its deadline"), phrase("resume it from its last checkpoint")),
    "OUT_OF_MEMORY": (
        "out-of-memory",
        phrase("the job took more memory than it had asked for"),
        phrase("ask for more (--mem), or make batches smaller: --batch_size 1 --gradient_accumulation_steps 4"),
    ),
    "NODE_FAIL": ("slurm-node", phrase("a node of the job failed"), phrase("resume it from its last checkpoint")),
    "BOOT_FAIL": ("slurm-node", phrase("a node of the job failed"), phrase("resume it from its last checkpoint")),
    "PREEMPTED": (
        "slurm-preempted",
        phrase("another job took its place"),
        phrase("resume it from its last checkpoint"),
    ),
    "CANCELLED": ("slurm-cancelled", phrase("the job was cancelled in Slurm"), phrase("resume it")),
    "FAILED": ("slurm-failed", phrase("the job failed"), phrase("its output in the run's folder says more; resume it")),
    "COMPLETED": (
        "slurm-unsaid",
        phrase("the job ended, and the run did not say how"),
        phrase("its output in the run's folder says more; resume it"),
    ),
    "": (
        "slurm-unknown",
        phrase("Slurm does not know the job any more, and the run did not say how it ended"),
        phrase("resume it"),
    ),
}


class SlurmSettings(BaseModel):
    """What a job asks Slurm for; ``slurm.yaml`` holds the site's defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: str | None = None
    gpus: int = Field(0, ge=0)  # per node; one process each, or one for all where it splits its teacher
    nodes: int = Field(1, ge=1)
    cpus: int | None = Field(None, ge=1)  # per process
    mem: str | None = None
    time_limit: str = "1:00:00"
    account: str | None = None
    qos: str | None = None
    grace: int = Field(120, ge=1)  # seconds before the time limit at which a run saves and puts itself back
    at_once: int = Field(4, ge=1)  # runs of an experiment
    setup: tuple[str, ...] = ()  # shell commands before each job, such as "module load cuda"
    extra: dict[str, bool | str] = {}  # other options of sbatch; true for one without a value

    @property
    def minutes(self) -> int:
        """Return the time limit in minutes. Raises ValueError for what Slurm would not understand."""
        found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+)(?::(\d+))?", self.time_limit)
        if not found:
            raise ValueError(self.time_limit)
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        if found[2] and not found[4] and not found[1]:  # MM:SS
            hours, minutes, seconds = 0, hours, minutes
        return max(1, (days * 24 + hours) * 60 + minutes + (seconds > 0))


class Job(NamedTuple):
    """A job as squeue shows it."""

    state: str
    reason: str


def found() -> bool:
    """Return whether this machine can submit to Slurm."""
    return shutil.which("sbatch") is not None


def settings(given: dict[str, Any], root: Path) -> SlurmSettings:
    """Return the settings ``given``, over the defaults of the site. Raises RunError ``slurm-settings``."""
    place = next((at / DEFAULTS for at in (root, PROJECT) if (at / DEFAULTS).is_file()), None)
    try:
        defaults = yaml.safe_load(place.read_text(encoding="utf-8")) if place else {}
        chosen = SlurmSettings.model_validate({**(defaults or {}), **given})
        _ = chosen.minutes
        return chosen
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        words = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)[:200]
        raise RunError(
            "slurm-settings",
            expected=Message("what a job asks Slurm for, such as --partition gpu --gpus 4 --time-limit 2:00:00"),
            found=words,
            remedy=Message("correct the flag, or {file}", file=place or DEFAULTS),
        ) from error


def submit(folders: Sequence[Path], asked: SlurmSettings) -> None:
    """Submit queued runs of one runs/ folder, several as one job array. Raises RunError ``slurm-refused``."""
    folders = [folder.absolute() for folder in folders]
    root = folders[0].parent
    for folder in folders:  # before the job can start
        store.write_status(folder, queue={"host": HERE, "device": "slurm"}, job={"settings": asked.model_dump()})
        _enter(folder)
    try:
        # A teacher that is split over the GPUs belongs to one process.
        alone = bool(store.read_config(folders[0]).get("split_teacher"))
        ids = _submitted(root, folders[0].name, [(slurm_job.work, str(folder)) for folder in folders], asked, alone)
    except KvlabError:
        for folder in folders:
            leave(folder)
        raise
    for folder, job_id in zip(folders, ids, strict=True):
        _note(folder, id=job_id)


def submit_command(root: Path, arguments: Sequence[str], asked: SlurmSettings, alone: bool) -> tuple[str, Path]:
    """Submit ``python -m kvlab ARGUMENTS`` in the current folder. Return the job's id and the file of its output.

    One process works ``alone`` with all GPUs, else one on each. Raises RunError ``slurm-refused``.
    """
    task = (slurm_job.command, (str(Path.cwd()), *arguments))
    (job_id,) = _submitted(root, arguments[0], [task], asked, alone)
    return job_id, _jobs(root) / f"{job_id}_0_log.out"


def _submitted(root: Path, name: str, tasks: Sequence[tuple[Any, Any]], asked: SlurmSettings, alone: bool) -> list[str]:
    try:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError
    except ImportError as error:
        raise RunError(
            "slurm-package",
            expected=Message("the Python package {name}", name="submitit"),
            found=str(error),
            remedy=Message("install it: pip install -r requirements-slurm.txt"),
        ) from error
    with store.disk_errors(root):
        store.make_root(root)
        privacy.make(root / FOLDER)
        privacy.make(_jobs(root))
    options = {"partition": asked.partition, "cpus_per_task": asked.cpus, "mem": asked.mem}
    options |= {"account": asked.account, "qos": asked.qos, "gpus_per_node": asked.gpus or None}
    extra = {"requeue": True, "chdir": str(PROJECT), **asked.extra}
    try:
        executor = SlurmExecutor(_jobs(root))
        executor.update_parameters(
            job_name=f"kvlab-{name}"[:60],
            time=asked.minutes,
            nodes=asked.nodes,
            ntasks_per_node=1 if alone else max(1, asked.gpus),
            signal_delay_s=asked.grace,
            array_parallelism=asked.at_once,
            stderr_to_stdout=True,
            setup=[f"export PYTHONPATH={shlex.quote(str(PROJECT))}", *asked.setup],
            additional_parameters=extra,
            **{option: value for option, value in options.items() if value is not None},
        )
        with executor.batch():
            jobs = [executor.submit(call, argument) for call, argument in tasks]
        return [job.job_id for job in jobs]
    except (FailedJobError, FailedSubmissionError, RuntimeError, ValueError, OSError) as error:
        raise RunError(
            "slurm-refused",
            expected=Message("Slurm to take the job"),
            found=" ".join(str(error).split())[-500:],
            remedy=Message("correct what it names, or run it on this machine, without --submit"),
        ) from error


def leave(folder: Path) -> None:
    """Take a run out of the index of runs whose job may not be over."""
    for marker in (folder.parent / FOLDER / HERE).glob(f"*-{folder.name}"):
        with suppress(OSError):
            marker.unlink()


def job_of(status: dict[str, Any]) -> str | None:
    """Return the id of the job of a run that was submitted; else None."""
    return Status.of(status).job.get("id")


def cancel(folder: Path, wait: bool = True) -> None:
    """Cancel a run's job; with ``wait`` return when it is gone. Raises RunError ``slurm-unreachable``."""
    job_id = job_of(store.read_status(folder))
    if job_id is None:
        return
    _ask("scancel", job_id)
    deadline = time.monotonic() + GONE_WITHIN
    while wait:
        job = _squeue().get(job_id)
        if job is None or job.state not in (*WAITING, *AT_WORK):
            return
        if time.monotonic() > deadline:
            raise RunError(
                "run-unkillable",
                expected=Message("job {id} to be gone {seconds:g} s after scancel", id=job_id, seconds=GONE_WITHIN),
                found=Message("Slurm says {state}", state=job.state),
                remedy=Message("ask your administrator, if it does not end by itself"),
            )
        time.sleep(0.5)


_looking = threading.Lock()
_looked: dict[Path, tuple[float, RunError | None]] = {}  # runs/ -> when, and the problem found


def look(root: Path, every: float = LOOK) -> RunError | None:
    """Write into the runs what Slurm says of their jobs. Return why it could not be asked; nothing is lost by that.

    Cheap without submitted runs, and for ``every`` seconds after a look.
    """
    with _looking:
        when, problem = _looked.get(root, (float("-inf"), None))
        folders = [root / marker.name.partition("-")[2] for marker in (root / FOLDER / HERE).glob("*-*")]
        if not folders:
            return None
        if time.monotonic() - when < every:
            return problem
        statuses = {folder: store.read_status(folder) for folder in folders}  # before squeue, which knows later jobs
        try:
            jobs, problem = _squeue(), None
        except RunError as error:
            jobs, problem = {}, error
        for folder, status in statuses.items() if problem is None else ():
            with suppress(RunError):
                _settle(folder, status, jobs)
        _looked[root] = time.monotonic(), problem
        return problem


def reason_words(status: dict[str, Any]) -> Message | None:
    """Say why a submitted run waits; None for a run that was not submitted or whose job does not wait."""
    job = Status.of(status).job
    if not job.get("id"):
        return None
    reason = job.get("reason")
    if not reason or reason == "None":
        return Message("Slurm job {id}", id=job["id"])
    known = REASONS.get(str(reason).partition(",")[0])
    return Message("Slurm job {id}: {reason}", id=job["id"], reason=Message(known) if known else str(reason))


def _settle(folder: Path, status: dict[str, Any], jobs: dict[str, Job]) -> None:
    """Bring one run up to what Slurm says of its job."""
    job_id, state = job_of(status), status.get("state")
    if not folder.is_dir() or state in store.FINAL:
        leave(folder)
        return
    if job_id is None:  # it is being submitted
        return
    job = jobs.get(job_id)
    if job and job.state in WAITING:
        if (job.state, job.reason) != (status["job"].get("state"), status["job"].get("reason")):
            _note(folder, state=job.state, reason=job.reason)
        return
    if job and job.state in AT_WORK:
        return
    with locks.held(folder / RUN_LOCK) as mine:
        now = store.read_status(folder)
        if not mine or now.get("state") in store.FINAL or job_of(now) != job_id:
            return  # its process still writes, or it said how it ended, or it was resumed
        ended = job.state if job and job.state in ENDS else "FAILED" if job else ""
        kind, what, remedy = ENDS[ended]
        expected = Message("job {id} to bring the run to its end", id=job_id)
        error = RunError(kind, expected=expected, found=Message(what), remedy=Message(remedy)).to_dict()
        waited = now.get("state") == "queued"
        if ended == "CANCELLED" or (waited and not job):
            store.write_status(folder, state="cancelled", error=None, cause=None if waited else error)
        else:
            store.write_status(folder, state="failed", error=error)
        leave(folder)


def _note(folder: Path, **fields: Any) -> None:
    """Change fields of the job in the status of a run that waits; the process of one at work writes its own."""
    with locks.held(folder / RUN_LOCK) as mine:
        status = store.read_status(folder)
        if mine and status.get("state") == "queued":
            store.write_status(folder, job={**Status.of(status).job, **fields})


def _enter(folder: Path) -> None:
    with store.disk_errors(folder.parent):
        for place in (folder.parent / FOLDER, folder.parent / FOLDER / HERE):
            privacy.make(place)
        (folder.parent / FOLDER / HERE / f"{time.time_ns():020d}-{folder.name}").touch()


def _jobs(root: Path) -> Path:
    return root / FOLDER / JOBS


def _squeue() -> dict[str, Job]:
    """Return this account's jobs by id, also those that ended minutes ago. Raises RunError ``slurm-unreachable``."""
    shown = _ask("squeue", "--states=all", "--array", "--noheader", "--user", getpass.getuser(), "--format=%i|%T|%r")
    jobs = {}
    for line in shown.splitlines():
        job_id, _, rest = line.strip().partition("|")
        state, _, reason = rest.partition("|")
        jobs[job_id] = Job(state, reason)
    return jobs


def _ask(*command: str) -> str:
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if asked.returncode == 0:
            return asked.stdout
        found_words: Message | str = " ".join(asked.stderr.split())[-300:]
    except (OSError, subprocess.TimeoutExpired) as error:
        found_words = str(error)[:300]
    raise RunError(
        "slurm-unreachable",
        expected=Message("an answer of Slurm to {command}", command=command[0]),
        found=found_words,
        remedy=Message("wait until its controller is back; runs that are at work go on, and nothing is lost"),
    )
