"""From the settings of the form to a run in the queue; what can be refused without weights is refused here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st

from kvlab.errors import KvlabError, RunError, TrainError
from kvlab.host import memory, models
from kvlab.language import Message, say
from kvlab.request.prompts import RUN_PROMPTS, read_prompts, write_prompts
from kvlab.request.refusals import check as check_shapes
from kvlab.request.refusals import check_functional
from kvlab.request.settings import checked
from kvlab.request.train import DEMO_DATA, OWN_PROMPTS, TrainConfig
from kvlab.runs import run_queue, store, training
from kvlab.runs.failures import advise
from kvlab.runs.monitor import View
from kvlab.shapes import Document
from kvlab.web import backend, server
from kvlab.web.server import worker
from kvlab.web.training.source import settings_of
from kvlab.web.widgets import show_error

CHOSEN = "validation-run"  # of the session: the run that the Validation page shows
LEAST_DOCUMENTS = 3
MAY_BE_MEMORY = ("out-of-memory", "run-killed")  # kinds of an error that less memory may mend


@dataclass(frozen=True)
class Asked:
    """What the form asks for. ``documents``: uploaded ones, which go into the run's folder."""

    settings: dict[str, Any]
    documents: list[Document] = field(default_factory=list)


def show(run_id: str) -> None:
    """Make a run the one that the Validation page shows."""
    st.session_state[CHOSEN] = run_id
    st.query_params["run"] = run_id


def config_of(asked: Asked) -> TrainConfig:
    """The settings, checked, with absolute paths. Raises TrainError, ModelError."""
    settings = dict(asked.settings)
    if not settings.get("teachers"):
        raise TrainError(
            "config-invalid",
            expected=Message("at least one teacher"),
            found=Message("none"),
            remedy=Message("choose one under Teachers, for example demo/teacher"),
        )
    settings["teachers"] = [_absolute(name) for name in settings["teachers"]]
    settings["student"] = _absolute(settings["student"])
    if settings["data"] == OWN_PROMPTS:
        _enough(asked.documents)
    elif settings["data"] != DEMO_DATA:
        settings["data"] = _place(settings["data"])
    return checked(TrainConfig, settings)


def check(config: TrainConfig) -> None:
    """What the worker can tell from the models' configurations: raises ModelError and TrainError.

    A worker that cannot answer now does not hold a run up: its own process asks the same before it loads weights.
    """
    check_functional(config)
    device = memory.device_memory(config.device).device
    try:
        *teachers, student = [backend.geometry(name) for name in (*config.teachers, config.student)]
    except RunError:
        return
    check_shapes(teachers, student, config.use_kv_projector, config.precision, device)


def launch(config: TrainConfig, documents: Sequence[Document] = ()) -> str:
    """Queue the run -> its id. Raises RunError as training.launch does."""
    name = "-".join(name.rstrip("/").rsplit("/", 1)[-1] for name in (*config.teachers, config.student))

    def fill(folder: Path) -> None:
        if config.data == OWN_PROMPTS:
            write_prompts(list(documents), folder / RUN_PROMPTS)

    return training.launch(config.model_dump(mode="json"), name, config.device, fill=fill)


def again(folder: Path, changes: dict[str, Any] | None = None) -> str:
    """Queue a new run with the settings and prompts of the one in ``folder``, but for ``changes`` -> its id.

    Raises TrainError, RunError.
    """
    if not changes:
        return training.again(folder, (RUN_PROMPTS,))
    config = checked(TrainConfig, {**store.read_config(folder), **changes})
    return launch(config, read_prompts(folder / RUN_PROMPTS) if config.data == OWN_PROMPTS else ())


def changes_of(view: View) -> dict[str, Any]:
    """Settings with which a failed run may do better, as it recorded them itself.

    A run that the system killed could not record any: the usual cause is memory.
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
    """Set the queue going again when nobody looks after it, and show why when that fails."""
    if error := server.problem():
        st.warning(say("The run queue is not moving: no waiting run is started."), icon=":material/pause_circle:")
        show_error(error)


def ahead(device: str) -> int:
    """How many runs that wait or run on this host would have to end before one on ``device`` starts."""
    asked = "cuda:0" if device == "cuda" else device
    busy = [run_queue.device(store.read_status(entry.folder)) for entry in run_queue.entries(store.runs_root())]
    return sum(1 for other in busy if run_queue.ANY_DEVICE in (asked, other) or asked == other)


def held_on(device: str) -> list[str]:
    """The models that the warm worker holds on the GPU which a run on ``device`` would use; none on a processor."""
    if not memory.device_memory(device).device.startswith("cuda") or not worker().alive:
        return []
    try:
        return list(worker().ask("loaded", timeout=2))
    except KvlabError:  # still starting: then it holds nothing yet
        return []


def _absolute(name: str) -> str:
    """A local folder by its whole path, as a run starts in another folder; other names as they are."""
    source = models.resolve(name)
    bundled = name.strip() in models.DEMO
    return str(source.folder) if source.folder is not None and not bundled else name.strip()


def _place(text: str) -> str:
    place = Path(text.strip()).expanduser().absolute()
    if not text.strip() or not place.exists():
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
