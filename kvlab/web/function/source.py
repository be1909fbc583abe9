"""Functional tests for the page: read the sample and those under runs/, and launch new ones."""

from kvlab.errors import KvlabError
from kvlab.host import bundled
from kvlab.request import inject
from kvlab.request.inject import InjectionRequest
from kvlab.request.prompts import RUN_PROMPTS, read_prompts, samples
from kvlab.request.settings import checked
from kvlab.results.function import data
from kvlab.results.function.data import Injection
from kvlab.runs import store
from kvlab.runs.monitor import View
from kvlab.shapes import Document
from kvlab.web import backend

KIND = "injection"
FROM = "analysis.txt"  # in the folder of a test: the id of the analysis that it tests


def tests() -> list[View]:
    """Return the latest functional tests under runs/, newest first."""
    return backend.listed(KIND)


def injection_of(run_id: str) -> Injection:
    """Read a finished functional test, cached. Raises RunError or AlignError."""
    folder = bundled.FUNCTION if run_id == backend.SAMPLE else backend.folder_of(run_id)
    return backend.read_once(data.read, folder / data.JSON_NAME)


def launch(request: InjectionRequest, documents: list[Document], analysis: str | None = None) -> str:
    """Launch a test of ``analysis``, if any; return its id. Raises AlignError ``rule-looks-ahead``, RunError."""
    inject.check_causal(request.settings.time)
    return backend.launch(request, documents, KIND, {FROM: analysis} if analysis else {})


def launch_like(analysis: str) -> str:
    """Launch a test with the models, prompts and settings of an analysis; return its id. Raises KvlabError."""
    folder = backend.folder_of(analysis)
    if analysis == backend.SAMPLE:
        sample = backend.alignment_of(analysis)
        teacher, *more = sample.teachers
        fields = {"teacher": teacher, "more_teachers": more, "student": sample.student["name"]}
        documents = samples()
    else:
        fields = store.read_config(folder)
        documents = read_prompts(folder / RUN_PROMPTS)
    settings = fields.get("settings", {}) | {"compare_rules": False}
    return launch(checked(InjectionRequest, {**fields, "settings": settings}), documents, analysis)


def of_analysis(analysis: str) -> Injection | None:
    """Return the latest finished functional test of an analysis; for the sample, the bundled one."""
    if analysis == backend.SAMPLE:
        return injection_of(analysis)
    for view in tests():
        try:
            if view.state == "done" and (view.folder / FROM).read_text(encoding="utf-8").strip() == analysis:
                return injection_of(view.id)
        except (OSError, ValueError, KvlabError):  # a damaged test does not hide the others
            continue
    return None
