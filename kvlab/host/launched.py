"""The processes of one command, as torchrun, ``accelerate launch`` or MPI start them. No torch here.

A launcher tells each process its number and how many there are in its environment.
"""

import os

from kvlab.errors import ModelError, RunError
from kvlab.language import Message

RANK = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
LOCAL = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "MV2_COMM_WORLD_LOCAL_RANK")
COUNT = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def rank() -> int:
    """Return the number of this process, from 0."""
    return _first_of(RANK, 0)


def local_rank() -> int:
    """Return the number of this process among those of its machine: the number of its GPU."""
    return _first_of(LOCAL, 0)


def count() -> int:
    """Return the number of processes."""
    return _first_of(COUNT, 1)


def first() -> bool:
    """Return whether this is the only process or the first one, which alone writes."""
    return rank() == 0


def check(device: str) -> None:
    """Refuse a launcher that started one process of several, and one GPU for all processes.

    Raises RunError ``launcher-one-process`` and ModelError ``device-shared``.
    """
    # `accelerate launch --cpu --num_processes N` sets these and leaves the processes to MPI. Without it there is one.
    if os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_PORT" in os.environ and count() == 1:
        raise RunError(
            "launcher-one-process",
            expected=Message("as many processes as accelerate launch was asked for"),
            found=Message("one: on processors it leaves the others to MPI, and --mpirun_hostfile was not given"),
            remedy=Message("start them with torchrun: {command}", command="torchrun --nproc_per_node N -m kvlab ..."),
        )
    if count() > 1 and ":" in device:
        raise ModelError(
            "device-shared",
            expected=Message("a GPU of its own for each of {n} processes", n=count()),
            found=Message("{device} for all of them", device=device),
            remedy=Message("use --device cuda; CUDA_VISIBLE_DEVICES says which GPUs the processes share out"),
        )


def check_alone(command: str) -> None:
    """Refuse several processes of a command that shares no work. Raises RunError ``one-process-only``."""
    if count() > 1:
        raise RunError(
            "one-process-only",
            expected=Message("one process of {command}", command=command),
            found=Message("{n} processes, each of which would do the same work", n=count()),
            remedy=Message("start it without a launcher; align and train share their work"),
        )


def _first_of(names: tuple[str, ...], otherwise: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), otherwise)
