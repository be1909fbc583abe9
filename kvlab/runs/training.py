"""Launch, stop, kill, resume, repeat and delete training runs, given their folders.

A run is a detached process that outlives the web server; the queue starts it when its device is free. A run without a
process may change only under its lock.
"""

import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kvlab.errors import RunError
from kvlab.language import Message
from kvlab.runs import locks, monitor, process, run_queue, store
from kvlab.runs.places import slurm
from kvlab.runs.places.slurm import SlurmSettings
from kvlab.runs.records import Status
from kvlab.runs.run_queue import ANY_DEVICE, STOP
from kvlab.shapes import phase_message

GONE_WITHIN = 10.0  # seconds for a killed process to be gone
PATIENCE = 5.0  # seconds to wait for a run's lock: its process holds it to its end, others for an instant
RESUMABLE = ("failed", "cancelled", "lost")
DELETED = ".{}.deleted"  # name of a folder during its deletion


def launch(
    config: dict[str, Any],
    name: str,
    device: str = ANY_DEVICE,
    root: Path | None = None,
    fill: Callable[[Path], None] | None = None,
    place: SlurmSettings | None = None,
) -> str:
    """Create a training run, queue it, and return its id. It starts at once if its device is free.

    ``config`` becomes config.yaml; its paths are absolute, because the run starts in the project's folder.
    ``device``: "cpu", "cuda:1" ...; runs on one device run one after the other, and a run on "auto" shares the host
    with no other.
    ``fill`` writes the run's other inputs into its folder. ``place``: submit it to Slurm, not to this machine's queue.
    Raises RunError ``runs-unwritable``, ``disk-full``, ``keeper-unstartable``, and as slurm.submit does.
    """
    folder = create(config, name, root, fill)
    try:
        submit(folder, device, place)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder.name


def create(
    config: dict[str, Any], name: str, root: Path | None = None, fill: Callable[[Path], None] | None = None
) -> Path:
    """Create a training run as ``launch`` does, and do not queue it yet. Return its folder."""
    folder = store.create((root or store.runs_root()).absolute(), "training", name, config)
    try:
        if fill:
            with store.disk_errors(folder):
                fill(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def submit(folder: Path, device: str = ANY_DEVICE, place: SlurmSettings | None = None) -> None:
    """Queue a run that store.create has made. Raises as launch does; then the run is not in the queue."""
    folder = folder.absolute()  # the keeper has another working folder
    if place is not None:
        slurm.submit([folder], place)
        return
    try:
        run_queue.add(folder, device)
        run_queue.attend(folder.parent)
    except RunError:
        run_queue.remove(folder)
        raise


def stop(folder: Path) -> str:
    """Ask a run to end. Its status then records the end.

    Returns "cancelled" for a run that only waited, "stopping" for a run that finishes its step and saves.
    Raises RunError ``run-not-active``, ``run-not-training``, and as store.disk_errors does.
    """
    _training(folder)
    with store.disk_errors(folder):
        (folder / STOP).touch()  # first, so that a process about to begin the run sees it too
    with locks.held(folder / run_queue.RUN_LOCK) as free:
        state = monitor.judge(store.read_status(folder))
        if free and state == "queued":
            store.write_status(folder, state="cancelled", error=None)
            run_queue.remove(folder)
            with suppress(RunError):  # the job would find that it is not wanted
                slurm.cancel(folder, wait=False)
            return "cancelled"
    if state not in store.ACTIVE:
        (folder / STOP).unlink(missing_ok=True)
        expected = Message("a run that waits or runs")
        raise _state_error("run-not-active", expected, state, Message("there is nothing to stop"))
    return "stopping"


def gone(folder: Path) -> bool:
    """Return whether a run and its process have ended. The process lives a moment longer than its record says."""
    status = store.read_status(folder)
    here = status.get("host") == socket.gethostname()
    lives = here and process.exists(status.get("pid"), status.get("process_started"))
    return not lives and monitor.judge(status) not in store.ACTIVE


def kill(folder: Path) -> None:
    """Kill a run's process and its children without saving, and wait until they are gone.

    Raises RunError ``run-not-active``, ``run-elsewhere``, ``run-not-training``, ``run-unkillable``.
    """
    status = _training(folder)
    if slurm.job_of(status) and monitor.judge(status) == "running":
        slurm.cancel(folder)
        _record_kill(folder)
        return
    pid, started = status.get("pid"), status.get("process_started")
    if status.get("host") not in (None, socket.gethostname()) and monitor.judge(status) == "running":
        raise RunError(
            "run-elsewhere",
            expected=Message("a run on this host, {host}", host=socket.gethostname()),
            found=Message("one on {host}", host=status.get("host")),
            remedy=Message("kill it there; stop reaches it from here"),
        )
    if not process.exists(pid, started):
        state, remedy = monitor.judge(status), Message("resume it")
        if state == "queued":
            remedy = Message("it only waits: stop takes it out of the queue")
        raise _state_error("run-not-active", Message("a run with a process"), state, remedy)
    if not process.end(pid, GONE_WITHIN) or process.exists(pid, started):
        raise RunError(
            "run-unkillable",
            expected=Message(
                "process {pid} to be gone {seconds:g} s after signal 9 (SIGKILL)", pid=pid, seconds=GONE_WITHIN
            ),
            found=Message("it is still there"),
            remedy=Message("it waits for a disk or a driver; when it does not end by itself, ask your administrator"),
        )
    _record_kill(folder)


def _record_kill(folder: Path) -> None:
    with _changing(folder) as status:
        if status.get("state") not in store.FINAL:
            store.write_status(folder, state="cancelled", error=None, cause=_killed(status))


def resume(folder: Path, root: Path | None = None) -> Path:
    """Queue an unfinished run again; it resumes from its last checkpoint. Return its path among the runs.

    ``root``: the folder of runs that lists it from now on, for a run that lies elsewhere.
    Raises RunError ``run-not-resumable``, ``run-busy``, ``run-not-training``, and as launch does.
    """
    folder = folder.absolute()
    _resumable(_training(folder))  # refuse at once, without waiting for the lock of a live run
    folder = store.enlist(root.absolute(), folder) if root else folder
    with _changing(folder) as status:
        state = _resumable(status)
        with store.disk_errors(folder):
            (folder / STOP).unlink(missing_ok=True)
        history = status.get("history")
        ended = {key: status.get(key) for key in ("started", "updated", "elapsed_s", "phase", "done", "total")}
        ended |= {"state": state, "error": monitor.view(folder).error or status.get("cause")}
        ended["resumed"] = store.timestamp()
        history = [*(history if isinstance(history, list) else []), ended]
        cleared = (
            "error",
            "cause",
            "pid",
            "process_started",
            "next_heartbeat_due",
            "started",
            "elapsed_s",
            "heartbeat",
        )
        waiting = {"kind": "training", "state": "queued", "phase": "waiting", "done": 0, "total": 0}
        waiting |= dict.fromkeys(cleared)
        store.write_status(folder, **waiting, history=history)
        asked = Status.of(status).job.get("settings")
        if not asked:
            run_queue.add(folder, _device(folder, status))
    if asked:  # without the lock, which the job takes
        slurm.submit([folder], slurm.settings(asked, folder.parent))
    run_queue.attend(folder.parent)
    return folder


def _device(folder: Path, status: dict[str, Any]) -> str:
    """Return the device that a run was queued for, or that its settings name if it never was."""
    if status.get("queue"):
        return run_queue.device(status)
    device = store.read_config(folder).get("device")
    return device if isinstance(device, str) else ANY_DEVICE


def delete(folder: Path) -> None:
    """Delete an ended run and its files; it disappears at once and completely. Does not follow links in it.

    A run that lies outside of runs/ only leaves the list; its own folder stays.

    Raises RunError ``run-active``, ``run-busy``, and as store.disk_errors does.
    """
    root = folder.parent
    _check_ended(store.read_status(store.find(root, folder.name)))
    with _changing(folder) as status:
        _check_ended(status)
        run_queue.remove(folder)
        with store.disk_errors(root):
            if folder.is_symlink():
                folder.unlink()
            else:
                folder.rename(root / DELETED.format(folder.name))
    sweep(root)


def sweep(root: Path) -> None:
    """Remove the leftovers of deleted runs; the next call tries again what cannot be removed now."""
    with suppress(OSError):
        for path in root.glob(DELETED.format("*")):
            if store.valid_id(path.name.removeprefix(".").removesuffix(".deleted")) and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)


def ended(folder: Path) -> None:
    """Return if the folder holds a training run that is over. Raises RunError ``run-active``, ``run-not-training``."""
    status = store.read_status(folder)
    _check_kind(folder, status)
    _check_ended(status)


@contextmanager
def _changing(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the status of a run without a process. Inside ``with``, nobody else starts or changes the run."""
    with locks.held(folder / run_queue.RUN_LOCK, PATIENCE) as mine:
        if not mine:
            raise locks.busy(folder / run_queue.RUN_LOCK)
        yield store.read_status(folder)


def _resumable(status: dict[str, Any]) -> str:
    state = monitor.judge(status)
    if state not in RESUMABLE:
        expected = Message("a run that was stopped, has failed or is lost")
        remedy = Message("wait for its end, or stop it")
        if state == "done":
            remedy = Message("launch a new run with its settings")
        raise _state_error("run-not-resumable", expected, state, remedy)
    return state


def _check_ended(status: dict[str, Any]) -> None:
    state = monitor.judge(status)
    if state in store.ACTIVE:
        raise _state_error("run-active", Message("a run that has ended"), state, Message("stop it first"))


def _training(folder: Path) -> dict[str, Any]:
    """Return the status of a training run, also a damaged one. Refuses analyses, which the web app computes."""
    if not store.is_run(folder):
        store.find(folder.parent, folder.name)  # which says why
    status = store.read_status(folder)
    _check_kind(folder, status)
    return status


def _check_kind(folder: Path, status: dict[str, Any]) -> None:
    if status.get("kind") in store.COMPUTED:
        raise RunError(
            "run-not-training",
            expected=Message("a training run"),
            found=Message("an analysis, {name}", name=folder.name),
            remedy=Message("cancel or repeat it on its page in the app"),
        )


def _killed(status: dict[str, Any]) -> dict[str, Any]:
    return RunError(
        "run-killed-by-user",
        expected=Message("the run to end by itself or to be stopped"),
        found=Message(
            "it was killed while {phase}, {done} of {total}",
            phase=phase_message(str(status.get("phase") or "starting")),
            done=status.get("done"),
            total=status.get("total"),
        ),
        remedy=Message("resume it from its last checkpoint"),
    ).to_dict()


def _state_error(kind: str, expected: Message, state: str, remedy: Message) -> RunError:
    return RunError(
        kind, expected=expected, found=Message("it is {state}", state=Message(store.STATES[state])), remedy=remedy
    )


def again(folder: Path, inputs: Sequence[str] = ()) -> str:
    """Queue a new run with the settings, name and device of the run in ``folder``, and return its id.

    ``inputs``: names of the old run's other input files; those that exist are copied.
    Raises RunError ``run-not-found``, ``settings-unreadable``, and as launch does.
    """
    root = folder.parent
    store.find(root, folder.name)
    status, config = store.read_status(folder), store.read_config(folder)
    if not config:
        raise RunError(
            "settings-unreadable",
            expected=Message("the run's settings in {file}", file=store.CONFIG),
            found=Message("no table of settings that can be read"),
            remedy=Message("launch a new run on the Validation page"),
        )

    def copy(new: Path) -> None:
        for file in inputs:
            if (folder / file).is_file() and not (folder / file).is_symlink():
                shutil.copyfile(folder / file, new / os.path.basename(file))

    name = status.get("name")
    asked = Status.of(status).job.get("settings")
    place = slurm.settings(asked, root) if asked else None
    return launch(config, name if isinstance(name, str) else "", run_queue.device(status), root, copy, place)
