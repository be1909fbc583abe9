"""A new training run with the settings of an old one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from kvlab.errors import RunError
from kvlab.runs import queue, store, training


def again(folder: Path, inputs: Sequence[str] = ()) -> str:
    """Queue a new run with the settings, name and device of the run in ``folder`` -> its id.

    ``inputs``: names of files that the old run was given beside its settings; those that are there are copied.
    Raises RunError ``run-not-found``, ``settings-unreadable``, and as training.launch does.
    """
    root = folder.parent
    store.find(root, folder.name)
    status, config = store.read_status(folder), store.read_config(folder)
    if not config:
        raise RunError(
            "settings-unreadable",
            expected=f"the run's settings in {store.CONFIG}",
            found="no table of settings that can be read",
            remedy="launch a new run on the Validation page",
        )
    name = status.get("name")
    new = store.create(root, "training", name if isinstance(name, str) else "", config)
    try:
        with store.disk_errors(new):
            for file in inputs:
                if (folder / file).is_file() and not (folder / file).is_symlink():
                    shutil.copyfile(folder / file, new / os.path.basename(file))
        training.submit(new, queue.device(status))
    except RunError:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return new.name
