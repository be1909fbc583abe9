"""Ask the worker and read the run folders for the pages; cache what is slow."""

import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.host import bundled, models
from kvlab.language import plural, say
from kvlab.request.align import AnalysisRequest
from kvlab.request.prompts import RUN_PROMPTS, read_prompts, write_prompts
from kvlab.request.settings import checked
from kvlab.results import run_name, summary
from kvlab.results.alignment import data
from kvlab.results.alignment.data import Alignment
from kvlab.results.style import KIND_NAME, written
from kvlab.runs import monitor, store
from kvlab.runs.monitor import View
from kvlab.shapes import Document, Geometry
from kvlab.web.language import local_time
from kvlab.web.server import worker
from kvlab.web.widgets import distinct

Result = TypeVar("Result")
SAMPLE = "sample"
PAIR_OF_SAMPLE = ("demo/teacher", "demo/student")
QUESTION_SECONDS = 180  # a geometry waits while the worker loads a large model
LISTED = 50  # older runs open by their address


def ready() -> bool:
    """Return whether the worker has finished importing. Do not wait long: pages ask twice a second."""
    try:
        return worker().ready()
    except KvlabError:
        return False


def ask(call: str, **arguments: Any) -> Any:
    """Ask the worker a short question. Raises the KvlabError of its answer."""
    return worker().ask(call, timeout=QUESTION_SECONDS, **arguments)


def geometry(name: str) -> Geometry:
    """Read a model's geometry: from disk for the sample, else from the worker. Raises KvlabError."""
    if name not in PAIR_OF_SAMPLE:
        with st.spinner(say("Reading the model's configuration…")):
            return _asked_geometry(name)
    sample = alignment_of(SAMPLE)
    return Geometry.from_dict(sample.teacher if name == PAIR_OF_SAMPLE[0] else sample.student)


@st.cache_data(show_spinner=False, ttl=3600, max_entries=200)
def _asked_geometry(name: str) -> Geometry:
    return Geometry.from_dict(ask("geometry", name=name))


@st.cache_data(show_spinner=False, ttl=60)
def model_names() -> list[str]:
    """List the demo models and those in the local Hugging Face cache."""
    return models.local_names()


def folder_of(run_id: str) -> Path:
    """Return the folder of a run. Raises RunError for an invalid id or a deleted run."""
    return bundled.ANALYSIS if run_id == SAMPLE else store.find(store.runs_root(), run_id)


def alignment_of(run_id: str, teacher: int = 1) -> Alignment:
    """Read the result of one teacher in a finished analysis. Raises RunError or AlignError."""
    folder = folder_of(run_id)
    if teacher > 1:
        folder /= data.OTHER_TEACHER.format(teacher)
    return read_once(data.read, folder / data.JSON_NAME)


def read_once(read: Callable[[Path], Result], file: Path) -> Result:
    """Return ``read`` of the folder of ``file``, cached until the file changes."""
    return _result(read, file, file.stat().st_mtime_ns if file.exists() else 0)


@st.cache_resource(show_spinner=False, max_entries=16)
def _result(_read: Callable[[Path], Result], file: Path, written: int) -> Result:
    return _read(file.parent)


def view_of(run_id: str) -> View:
    """Return the state of a run. If its worker has just died, wait for the reason. Raises RunError like folder_of."""
    folder = folder_of(run_id)
    view = monitor.view(folder)
    if view.state == "lost":
        worker().await_record(view.pid)
        view = monitor.view(folder)
    return view


def listed(kind: str) -> list[View]:
    """Return the latest runs of one kind, newest first."""
    return [monitor.view(folder) for folder in _runs(kind)[:LISTED]]


def not_listed() -> int:
    """Count the analyses that are too old to be listed."""
    return max(len(_runs("analysis")) - LISTED, 0)


def _runs(kind: str) -> list[Path]:
    folders = []
    for folder in store.listing(store.runs_root()):
        with suppress(LookupError):
            if _kind(folder) == kind:
                folders.append(folder)
    return folders


@functools.lru_cache(maxsize=10_000)
def _kind(folder: Path) -> str:
    """Read the kind of a run, which never changes. Raises LookupError, which is not cached, if the status lacks it."""
    return store.read_status(folder)["kind"]


def labels(views: Sequence[View]) -> dict[str, str]:
    """Return the labels of the sample and of these runs, by id."""
    sample = {SAMPLE: say("Sample: demo/teacher → demo/student, bundled prompts")}
    return sample | distinct({view.id: label(view) for view in views}, lambda run_id: run_id[-4:])


def label(view: View, results: bool = True) -> str:
    """Return the name of a run with how many prompts it read, what came out (``results``), and when it was created."""
    parts = [run_name.of_run(view.folder, view.kind, view.name)]
    found = summary.of_run(view.folder, view.kind)
    documents = found.documents or run_name.documents_of(view.folder)
    if documents:
        parts.append(plural(documents, "{n} prompt", "{n:,} prompts"))
    if not results:
        found = summary.NOTHING
    gains = [(KIND_NAME["key"], found.gain_key), (KIND_NAME["value"], found.gain_value)]
    known = [f"{kind} {written(gain, 2, '+')}" for kind, gain in gains if gain is not None]
    if known:
        parts.append(say("gain {gains}", gains=known))
    if found.kl is not None:
        parts.append(say("KL {kl:.2f}", kl=found.kl))
    if (created := store.created(view.id)) is not None:
        parts.append(local_time(created))
    return " · ".join(parts)


def shown_name(run_id: str, teacher: int) -> str:
    """Name the result of one teacher of an analysis in widgets and files."""
    return run_id if teacher == 1 else f"{run_id}-teacher-{teacher}"


def launch(
    request: AnalysisRequest, documents: list[Document], kind: str = "analysis", extra: dict[str, str] | None = None
) -> str:
    """Create the run folder, submit it to the worker, return the run's id. ``extra``: further files, name -> text."""
    name = run_name.automatic((*request.teachers, request.student))
    folder = store.create(store.runs_root(), kind, name, request.model_dump())
    write_prompts(documents, folder / RUN_PROMPTS)
    for file, text in (extra or {}).items():
        store.replace(folder / file, text.encode())
    worker().submit(folder)
    return folder.name


def compare_rules(run_id: str) -> str:
    """Repeat an analysis with the comparison of time rules; return the new run's id. Raises KvlabError."""
    folder = folder_of(run_id)
    fields = store.read_config(folder)
    fields["settings"] = fields.get("settings", {}) | {"compare_rules": True}
    return launch(checked(AnalysisRequest, fields), read_prompts(folder / RUN_PROMPTS))


def again(folder: Path) -> None:
    """Submit a run without a result to the worker again. Raises RunError."""
    worker().submit(folder)
