"""Become the process of a run: ``python -m kvlab.runs.begin FOLDER COMMAND ...`` executes COMMAND ... FOLDER.

It takes the run's lock, checks that the run is still queued and wanted, and records its process. The command inherits
the lock and holds it while it lives. So a run starts only once, whichever process dies and however many try.
"""

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kvlab.errors import RunError, system_reason
from kvlab.language import Message
from kvlab.runs import locks, store
from kvlab.runs.process import identity
from kvlab.runs.run_queue import RUN_LOCK, STOP

FIRST_SIGN = timedelta(minutes=10)  # until the command has imported its libraries and writes the status itself


def begin(folder: Path, command: Sequence[str]) -> None:
    """Start the run in place of this process. Returns only if the run is not wanted or another process has it."""
    lock = locks.take(folder / RUN_LOCK)
    if lock is None or store.read_status(folder).get("state") != "queued":
        return
    if (folder / STOP).exists():
        store.write_status(folder, state="cancelled", error=None)
        return
    now = datetime.now(UTC)
    store.write_status(
        folder,
        state="running",
        phase="starting",
        error=None,
        started=store.timestamp(now),
        heartbeat=store.timestamp(now),
        next_heartbeat_due=store.timestamp(now + FIRST_SIGN),
        **identity(),
    )
    os.set_inheritable(lock, True)
    try:
        os.execvp(command[0], [*command, str(folder)])
    except OSError as error:
        unstartable = RunError(
            "trainer-unstartable",
            expected=Message("the command of the run to start"),
            found=Message("{reason}: {command}", reason=system_reason(error), command=command[0]),
            remedy=Message("python -m kvlab doctor shows what is missing on this machine"),
        )
        store.write_status(folder, state="failed", error=unstartable.to_dict())


if __name__ == "__main__":
    begin(Path(sys.argv[1]), sys.argv[2:])
