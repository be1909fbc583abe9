"""Where runs run: this machine, whose queue is kvlab.runs.run_queue, or a cluster with Slurm."""

from pathlib import Path

from kvlab.errors import KvlabError, RunError
from kvlab.runs import run_queue
from kvlab.runs.places import slurm


def attend(root: Path) -> KvlabError | None:
    """Keep the runs of every place moving and their states true. Return what prevents that, if anything. Cheap."""
    problem = slurm.look(root)
    try:
        run_queue.attend(root)
    except RunError as error:
        return error
    return problem
