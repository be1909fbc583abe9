"""Turn the settings of the form into a queued run, or refuse what fails before loading weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st

from kvlab.errors import KvlabError, RunError, TrainError
from kvlab.host import memory, models
from kvlab.language import Message, say
from kvlab.request.folders import INFO
from kvlab.request.prompts import RUN_PROMPTS, read_prompts, write_prompts
from kvlab.request.refusals import check as check_shapes
from kvlab.request.refusals import check_functional, check_heads, check_log
from kvlab.request.settings import checked
from kvlab.request.train import DEMO_DATA, OWN_PROMPTS, TrainConfig
from kvlab.results import run_name
from kvlab.runs import run_queue, store, training
from kvlab.runs.failures import advise
from kvlab.runs.monitor import View
from kvlab.runs.places.slurm import SlurmSettings
from kvlab.shapes import Document
from kvlab.web import backend, server
from kvlab.web.server import worker
from kvlab.web.training import place
from kvlab.web.training.source import settings_of
from kvlab.web.widgets import show_error

CHOSEN = "validation-run"  # in the session: the run that the Validation page shows
LEAST_DOCUMENTS = 3
MAY_BE_MEMORY = ("out-of-memory", "run-killed")  # kinds of errors that using less memory may fix


@dataclass(frozen=True)
class Asked:
    """The values of the form. ``documents``: uploaded ones, which go into the run's folder."""

    settings: dict[str, Any]
    documents: list[Document] = field(default_factory=list)


def show(run_id: str) -> None:
    """Show a run on the Validation page from now on."""
    st.session_state[CHOSEN] = run_id
    st.query_params["run"] = run_id


def config_of(asked: Asked) -> TrainConfig:
    """Check the settings and make their paths absolute. Raises TrainError, ModelError."""
    settings = dict(asked.settings)
    if not settings.get("teachers"):
        raise TrainError(
            "config-invalid",
            expected=Message("at least one teacher"),
            found=Message("none"),
            remedy=Message("choose one under Teachers, for example demo/teacher"),
        )
    settings["teachers"] = [models.absolute(name) for name in settings["teachers"]]
    settings["student"] = models.absolute(settings["student"])
    if settings["data"] == OWN_PROMPTS:
        _enough(asked.documents)
    elif settings["data"] != DEMO_DATA:
        settings["data"] = _place(settings["data"])
    return checked(TrainConfig, settings)


def check(config: TrainConfig, to: SlurmSettings | None = None) -> None:
    """Refuse a run that the models' configurations rule out. Raises ModelError and TrainError.

    Let the run pass if the worker cannot answer now, and whatever device this machine has if it goes to another: the
    run's own process checks again before it loads weights.
    """
    check_functional(config)
    check_log(config)
    elsewhere = to is not None and config.device != "cpu"
    device = "cuda" if elsewhere else memory.device_memory(config.device).device
    try:
        *teachers, student = [backend.geometry(name) for name in (*config.teachers, config.student)]
    except RunError:
        return
    check_shapes(teachers, student, config.use_kv_projector, config.precision, device)
    check_heads(config, student)


def launch(config: TrainConfig, documents: Sequence[Document] = (), to: SlurmSettings | None = None) -> str:
    """Queue the run, or submit it to Slurm, and return its id. Raises RunError like training.launch."""

    def fill(folder: Path) -> None:
        if config.data == OWN_PROMPTS:
            write_prompts(list(documents), folder / RUN_PROMPTS)

    return training.launch(config.model_dump(mode="json"), name_of(config), config.device, fill=fill, place=to)


def name_of(config: TrainConfig) -> str:
    """Name a run after its models."""
    return run_name.automatic((*config.teachers, config.student))


def again(folder: Path, changes: dict[str, Any] | None = None) -> str:
    """Queue a run with the settings and prompts of the one in ``folder``, except for ``changes``; return its id.

    Raises TrainError, RunError.
    """
    if not changes:
        return training.again(folder, (RUN_PROMPTS,))
    config = checked(TrainConfig, {**store.read_config(folder), **changes})
    documents = read_prompts(folder / RUN_PROMPTS) if config.data == OWN_PROMPTS else ()
    return launch(config, documents, place.of_run(folder))


def changes_of(view: View) -> dict[str, Any]:
    """Return the settings with which a failed run may succeed, as it recorded them.

    A run that the system killed could not record any. Advise it to use less memory, the usual cause.
    """
    error = view.error or {}
    changes = error.get("changes")
    if isinstance(changes, dict) and changes:
        return changes
    killed = error.get("kind") == "out-of-memory" or "SIGKILL" in str(Message.read(error.get("found")))
    settings = settings_of(view.config)
    if view.state == "lost" and error.get("kind") in MAY_BE_MEMORY and killed and settings:
        return advise(MemoryError(), settings, view.phase).changes
    return {}


def attend() -> None:
    """Restart a queue that has stalled, and follow the jobs of Slurm; show the error if that fails."""
    if error := server.problem():
        if error.kind == "slurm-unreachable":
            st.warning(say("Slurm does not answer: what its jobs do is not known now."), icon=":material/cloud_off:")
        else:
            st.warning(say("The run queue is not moving: no waiting run is started."), icon=":material/pause_circle:")
        show_error(error)


def ahead(device: str) -> int:
    """Count the queued and running runs on this host that must end before a run on ``device`` starts."""
    asked = "cuda:0" if device == "cuda" else device
    busy = [run_queue.device(store.read_status(entry.folder)) for entry in run_queue.entries(store.runs_root())]
    return sum(1 for other in busy if run_queue.ANY_DEVICE in (asked, other) or asked == other)


def held_on(device: str) -> list[str]:
    """Return the models that the warm worker holds on the GPU that ``device`` names; empty for a processor."""
    if not memory.device_memory(device).device.startswith("cuda") or not worker().alive:
        return []
    try:
        return list(worker().ask("loaded", timeout=2))
    except KvlabError:  # still starting, so it holds nothing yet
        return []


def _place(text: str) -> str:
    place = Path(text.strip()).expanduser().absolute()
    listed = (place.parent / INFO).is_file()  # FOLDER/NAME, a data set of a LLaMA-Factory folder
    if not text.strip() or not (place.exists() or listed):
        raise TrainError(
            "data-not-found",
            expected=Message("a file or folder with documents"),
            found=Message("nothing at {place}", place=place) if text.strip() else Message("no path"),
            remedy=Message("give the path as it is on the machine that runs this app, or use the bundled text"),
        )
    return str(place)


def _enough(documents: Sequence[Document]) -> None:
    texts = len({document.text for document in documents})
    if texts < LEAST_DOCUMENTS:
        raise TrainError(
            "data-too-little",
            expected=Message("at least three documents of different text: two to train on, one held out"),
            found=Message("{n} in the upload", n=texts),
            remedy=Message("add documents, or use the bundled text"),
        )
