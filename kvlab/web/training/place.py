"""The choice where a run runs: this machine, or Slurm where its ``sbatch`` is found."""

from pathlib import Path
from typing import Any

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import phrase, say
from kvlab.runs import store
from kvlab.runs.places import slurm
from kvlab.runs.places.slurm import SlurmSettings
from kvlab.runs.records import Status
from kvlab.web import language
from kvlab.web.widgets import segments, show_error

PLACES = {"here": phrase("This machine"), "slurm": phrase("Slurm")}
KEY = "train-place-{}"


def panel() -> SlurmSettings | None:
    """Draw the choice where there is one; return what a job asks for, None for this machine.

    Raises RunError ``slurm-settings``, after it has drawn.
    """
    if not slurm.found():
        return None
    try:
        usual = slurm.settings({}, store.runs_root())
    except KvlabError as error:
        show_error(error)
        return None
    language.keep_choice(KEY.format("where"), "here")
    if segments(say("Where it runs"), PLACES, KEY.format("where")) == "here":
        return None
    names = ("partition", "gpus", "nodes", "time_limit")
    for name in names:
        value = getattr(usual, name)
        language.keep_choice(KEY.format(name), "" if value is None else value)
    partition, gpus, nodes, limit = st.columns(4)
    given: dict[str, Any] = {
        "partition": partition.text_input(say("Partition"), key=KEY.format("partition")).strip() or None,
        "gpus": int(gpus.number_input(say("GPUs per node"), 0, step=1, key=KEY.format("gpus"))),
        "nodes": int(nodes.number_input(say("Nodes"), 1, step=1, key=KEY.format("nodes"))),
        "time_limit": limit.text_input(say("Time limit"), key=KEY.format("time_limit"), placeholder="2:00:00").strip(),
    }
    return slurm.settings(given, store.runs_root())


def of_run(folder: Path) -> SlurmSettings | None:
    """Return what the job of a run asked for; None for a run of this machine. Raises RunError ``slurm-settings``."""
    asked = Status.of(store.read_status(folder)).job.get("settings")
    return slurm.settings(asked, folder.parent) if asked else None
