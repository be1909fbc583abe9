"""Functional tests for the page: the sample, those under runs/, and how one is launched."""

from kvlab.errors import KvlabError
from kvlab.host import bundled
from kvlab.language import say
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
FROM = "analysis.txt"  # in a run's folder: the id of the analysis that it was started from


def tests() -> list[View]:
    """The newest functional tests under runs/, newest first."""
    return backend.listed(KIND)


def labels(views: list[View]) -> dict[str, str]:
    """Id -> what the picker calls it."""
    return backend.labels(views) | {backend.SAMPLE: say("Sample: demo/teacher → demo/student, bundled prompts")}


def injection_of(run_id: str) -> Injection:
    """A finished functional test, read once. Raises RunError or AlignError."""
    folder = bundled.FUNCTION if run_id == backend.SAMPLE else backend.folder_of(run_id)
    return backend.read_once(data.read, folder / data.JSON_NAME)


def launch(request: InjectionRequest, documents: list[Document], analysis: str | None = None) -> str:
    """The id of the new run. ``analysis``: that it was started from. AlignError ``rule-looks-ahead``; RunError."""
    inject.check_causal(request.settings.time)
    return backend.launch(request, documents, KIND, {FROM: analysis} if analysis else {})


def launch_like(analysis: str) -> str:
    """The same models, prompts and settings as an analysis. Raises as ``launch``, and where its folder is damaged."""
    folder = backend.folder_of(analysis)
    if analysis == backend.SAMPLE:
        found = backend.alignment_of(analysis)
        teacher, *more = found.teachers
        fields = {"teacher": teacher, "more_teachers": more, "student": found.student["name"]}
        documents = samples()
    else:
        fields = store.read_config(folder)
        documents = read_prompts(folder / RUN_PROMPTS)
    settings = fields.get("settings", {}) | {"compare_rules": False}
    return launch(checked(InjectionRequest, {**fields, "settings": settings}), documents, analysis)


def of_analysis(analysis: str) -> Injection | None:
    """The newest finished functional test that was started from an analysis; the sample's is the sample."""
    if analysis == backend.SAMPLE:
        return injection_of(analysis)
    for view in tests():
        try:
            if view.state == "done" and (view.folder / FROM).read_text(encoding="utf-8").strip() == analysis:
                return injection_of(view.id)
        except (OSError, KvlabError):
            continue
    return None
