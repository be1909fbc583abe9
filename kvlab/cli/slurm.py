"""The flags of ``--submit slurm``, for every command that can run on a cluster."""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from kvlab.errors import RunError
from kvlab.host import launched
from kvlab.language import Message, say
from kvlab.runs import store
from kvlab.runs.places import slurm, slurm_job
from kvlab.runs.places.slurm import SlurmSettings
from kvlab.runs.places.slurm_job import SUBMITTED

# Setting -> its flag's help; the flags are named like the settings.
FLAGS: dict[str, tuple[type, str]] = {
    "partition": (str, "of the cluster"),
    "gpus": (int, "per node, one process each (default: 0)"),
    "nodes": (int, "(default: 1)"),
    "cpus": (int, "per process"),
    "mem": (str, "of a node, such as 64G"),
    "time_limit": (str, "or --time, such as 2:00:00; before it ends a run saves and is put back (default: 1:00:00)"),
    "account": (str, "that pays for the job"),
    "qos": (str, "quality of service"),
    "grace": (int, "seconds before the time limit at which a run saves (default: 120)"),
    "at_once": (int, "runs of an experiment at once (default: 4)"),
}


class MadeWay(KeyboardInterrupt):
    """A job was interrupted before its time limit, or by another job that takes its place."""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("on a cluster", f"the site's defaults are in {slurm.DEFAULTS} of runs/")
    group.add_argument("--submit", choices=["slurm"], help="as a job of Slurm instead of on this machine")
    for name, (kind, about) in FLAGS.items():
        group.add_argument(_flag(name), dest=_place(name), type=kind, metavar=name.upper(), help=about)


def asked(options: argparse.Namespace) -> SlurmSettings | None:
    """Return what a job asks for; None to run on this machine. Raises RunError ``slurm-settings``."""
    if options.submit is None or SUBMITTED in os.environ:
        return None
    given = {name: getattr(options, _place(name)) for name in FLAGS}
    return slurm.settings({name: value for name, value in given.items() if value is not None}, store.runs_root())


def submit(options: argparse.Namespace, place: SlurmSettings, shared: bool) -> int:
    """Submit the same command without ``--submit``, say where its output is, and return the exit code.

    A command that is ``shared`` runs once on each GPU. Any other runs once, on one node, with all GPUs over which it
    splits its teacher. Raises RunError ``slurm-settings`` for GPUs that would lie idle.
    """
    split = bool(vars(options).get("split_teacher"))
    alone = split or not shared
    if alone and (place.nodes > 1 or (place.gpus > 1 and not split)):
        raise RunError(
            "slurm-settings",
            expected=Message("one node and one GPU, or several GPUs of a node with --split-teacher"),
            found=Message("{nodes} nodes, {gpus} GPUs on each", nodes=place.nodes, gpus=place.gpus),
            remedy=Message(
                "ask for what one process can use; align without --split-teacher and train share their work"
            ),
        )
    job_id, output = slurm.submit_command(store.runs_root(), _without(options.arguments), place, alone)
    print(say("Submitted as Slurm job {id}; its output: {file}", id=job_id, file=output))
    return 0


def listen() -> None:
    """In a job that ``submit`` began: let the signals of Slurm interrupt the command, as Ctrl-C does."""
    if SUBMITTED in os.environ:
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, _hear)


def put_back() -> None:
    """Put the job of this command back into the queue, which ends its processes; say why if Slurm does not take it.

    Of several processes the first one asks for it.
    """
    if not launched.first():
        return
    sys.stderr.flush()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it comes of being put back
    try:
        slurm_job.put_back()
    except (OSError, subprocess.SubprocessError) as problem:
        print(f"the job could not be put back: {problem}", file=sys.stderr)


def _hear(number: int, *_: object) -> None:
    raise MadeWay if number == signal.SIGUSR2 or slurm_job.preempted() else KeyboardInterrupt


def _without(arguments: Sequence[str] | None) -> list[str]:
    given, left = list(sys.argv[1:] if arguments is None else arguments), []
    flags = {"--submit", *map(_flag, FLAGS)}
    while given:
        argument = given.pop(0)
        name, equals, _ = argument.partition("=")
        if name.replace("_", "-") not in flags:
            left.append(argument)
        elif not equals and given:
            given.pop(0)
    return left


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _place(name: str) -> Any:
    return f"slurm.{name}"
