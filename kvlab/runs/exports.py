"""Export the student of a run in a process of its own, which outlives the web server.

``STATE``, a hidden folder in the run's own, holds the status of the last export, as a run's folder does. The process
holds the run's lock, so that nobody resumes or deletes the run meanwhile. No torch here.
"""

import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from kvlab.errors import PARTS, RunError
from kvlab.host import privacy
from kvlab.language import Message
from kvlab.runs import locks, monitor, process, store
from kvlab.runs.failures import last_words
from kvlab.runs.monitor import View

STATE = ".export"
LOCK, OUTPUT = ".lock", "output.log"  # in STATE
FOLDERS = "export-step-*"  # in the run's folder: what was exported (kvlab.train.export.beside)
# -P: do not import a torch.py of the current folder.
COMMAND = (sys.executable, "-P", "-m", "kvlab.train.export")


def start(folder: Path, merged: bool = False, language: str = "en") -> None:
    """Begin to export into the run's own folder. ``view`` tells how it goes.

    Raises RunError ``export-active``, and as store.disk_errors and locks.take do.
    """
    place = folder.resolve() / STATE
    with store.disk_errors(folder):
        privacy.make(place)
    with locks.held(place / LOCK) as mine:
        if not mine or monitor.judge(store.read_status(place)) in store.ACTIVE:
            raise RunError(
                "export-active",
                expected=Message("a run that is not being exported"),
                found=Message("an export that has begun already"),
                remedy=Message("wait for its end"),
            )
        due = store.timestamp(datetime.now(UTC) + store.UNCLAIMED)
        cleared = dict.fromkeys(("error", "pid", "process_started", "started", "elapsed_s", "heartbeat"))
        store.write_status(place, state="queued", phase="starting", next_heartbeat_due=due, **cleared)
        command = [*COMMAND, str(folder.resolve()), language, *(["--merged"] if merged else [])]
        try:
            with store.disk_errors(place), open(place / OUTPUT, "wb", opener=store.private) as output:
                pipes = {"stdout": output, "stderr": output}
                child = subprocess.Popen(command, **pipes, **process.DETACHED, env=process.environment())
        except RunError as error:
            store.write_status(place, state="failed", error=error.to_dict())
            raise
    threading.Thread(target=child.wait, name="end of an export", daemon=True).start()  # or it stays as a zombie


def view(folder: Path) -> View | None:
    """Return the state of the run's last export; None if there was none."""
    place = folder / STATE
    return monitor.view(place) if place.is_dir() and store.read_status(place) else None


def failure(last: View) -> RunError | None:
    """Return why an export has ended without a model; None for any other."""
    if last.state == "failed":
        return RunError.from_dict({"kind": "", **dict.fromkeys(PARTS, "?"), **(last.error or {})})
    if last.state != "lost":
        return None
    tail = last_words(last.folder / OUTPUT)
    how = Message("it is gone")
    return RunError(
        "export-lost",
        expected=Message("the process of the export to say how it ended"),
        found=Message("{how}; from the end of its log:\n{log}", how=how, log=tail) if tail else how,
        remedy=Message("export it again; a machine out of memory is the usual cause"),
    )
