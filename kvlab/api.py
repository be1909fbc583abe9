"""kvlab for programs: the commands as functions, their results as objects with tables and figures.

    import kvlab

    aligned = kvlab.align("demo/teacher", "demo/student")
    print(aligned.answer)
    aligned.figure("gain", kind="key").show()

Settings are those of the command line, by the same names (``python -m kvlab align --help``) with underscores. Errors
are ``kvlab.errors.KvlabError``: what was expected, what was found, what to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import plotly.graph_objects as go

from kvlab.errors import KvlabError, RunError
from kvlab.language import Message
from kvlab.request import prompts as reading
from kvlab.request.align import PASTED, SAMPLES, AnalysisRequest
from kvlab.request.certify import CertifyRequest
from kvlab.request.command import name_of, settings_of
from kvlab.request.folders import read_path
from kvlab.request.inject import InjectionRequest, check_causal
from kvlab.request.settings import Request, checked
from kvlab.request.train import TrainConfig
from kvlab.results import answer as answers
from kvlab.results.alignment import heads
from kvlab.results.alignment.data import Alignment
from kvlab.results.certificate import data as certificates
from kvlab.results.certificate import figures as of_certificates
from kvlab.results.certificate import words
from kvlab.results.certificate.data import Certificate
from kvlab.results.function import figures as of_tests
from kvlab.results.function import tables as tables_of_tests
from kvlab.results.function.data import Injection
from kvlab.results.training import helps
from kvlab.runs import metrics, monitor, store, training
from kvlab.runs.lenient import read_json
from kvlab.runs.records import VERDICT
from kvlab.shapes import Document, Progress, no_progress

if TYPE_CHECKING:
    from kvlab.inject.map_file import MapFile
    from kvlab.models.loading import LoadedModel
    from kvlab.shapes import HeadMap

Prompts = str | Path | Sequence[str] | Sequence[Document] | None
Asked = TypeVar("Asked", bound=Request)
PAIR = ("teacher", "more_teachers", "teachers", "student", "prompts")
LOOK = 0.5  # seconds between two looks at a run


@dataclass(frozen=True)
class Analysis:
    """A finished analysis: of each teacher its scores, and its maps (``"key"``, ``"value"``)."""

    alignments: list[Alignment]
    maps: list[dict[str, HeadMap]]

    @property
    def answer(self) -> str:
        """Yes, in part, no, or it cannot be told; and why. Of the first teacher."""
        return answers.of_analysis(self.alignments[0]).line()

    def to_pandas(self, teacher: int = 0) -> pd.DataFrame:
        """Return a row per student head: held-out R² beside every control, standard errors, n."""
        return self.alignments[teacher].table()

    def figure(self, name: str = "sources", kind: str = "key", teacher: int = 0) -> go.Figure:
        """Draw "sources" (means of K and V), "gain" over the strongest control, or "r2", of ``kind`` per head."""
        alignment = self.alignments[teacher]
        drawn: dict[str, Callable[[], go.Figure]] = {
            "sources": lambda: heads.mean_sources(alignment, 400),
            "gain": lambda: heads.gain_map(alignment, kind),
            "r2": lambda: heads.r2_map(alignment, kind),
        }
        return _chosen(drawn, name)()

    def save(self, folder: Path | str) -> None:
        """Write what ``align --out`` writes. Raises OSError."""
        from kvlab.align import run

        Path(folder).mkdir(parents=True, exist_ok=True)
        run.write(list(zip(self.alignments, self.maps, strict=True)), Path(folder))


@dataclass(frozen=True)
class FunctionalTest:
    """A finished functional test, and the map that was judged."""

    injection: Injection
    map: MapFile

    @property
    def answer(self) -> str:
        """Whether the student can use the teacher's cache, and why."""
        return answers.of_test(self.injection).line()

    def to_pandas(self, table: str = "variants") -> pd.DataFrame:
        """Return a table: "variants", "projection", "attention", "swaps", "correlations", "hybrid", "documents"..."""
        found = {name.removesuffix(".csv"): frame for name, frame in tables_of_tests.tables(self.injection).items()}
        return _chosen(found, table)

    def figure(self, name: str = "variants", column: str = "kl") -> go.Figure:
        """Draw "variants" or "curve" of a ``column`` ("kl", "delta_ce"), "hybrid", or "accuracy"."""
        test = self.injection
        drawn: dict[str, Callable[[], go.Figure]] = {
            "variants": lambda: of_tests.variants(test.at(test.injection["prefix"]), column),
            "curve": lambda: of_tests.curve(test, column),
            "hybrid": lambda: of_tests.hybrid(test),
            "accuracy": lambda: of_tests.accuracy(test.accuracy),
        }
        return _chosen(drawn, name)()

    def save(self, folder: Path | str) -> None:
        """Write what ``inject --out`` writes. Raises OSError."""
        from kvlab.inject import run
        from kvlab.inject.map_file import NAME

        Path(folder).mkdir(parents=True, exist_ok=True)
        self.map.save(Path(folder) / NAME)
        run.write(self.injection, Path(folder))


@dataclass(frozen=True)
class Certified:
    """A certificate, the functional test that it stands on, and the map that it is of."""

    certificate: Certificate
    injection: Injection
    map: MapFile

    @property
    def answer(self) -> str:
        """Hand over, hand over with own layers, or prefill anew; and why."""
        return words.answered(self.certificate).line()

    def to_pandas(self, table: str = "rungs") -> pd.DataFrame:
        """Return "rungs", "injected", "groups", "documents", "heads", "outputs", "lengths", "latency", "tasks"..."""
        rows = _chosen({name: rows for name, rows in self.certificate if isinstance(rows, tuple)}, table)
        return pd.DataFrame([dict(row) for row in rows])

    def figure(self, name: str = "ladder", kind: str = "key") -> go.Figure:
        """Draw "ladder" (gates over own layers), "lengths", "latency", or "heads" of ``kind``."""
        drawn: dict[str, Callable[[], go.Figure]] = {
            "ladder": lambda: of_certificates.ladder(self.certificate),
            "lengths": lambda: of_certificates.lengths(self.certificate),
            "latency": lambda: of_certificates.latency(self.certificate),
            "heads": lambda: of_certificates.heads(self.certificate, kind),
        }
        return _chosen(drawn, name)()

    def accepts(self, models: Sequence[str], length: int) -> certificates.Acceptance:
        """Answer an engine, see ``Certificate.accepts``."""
        return self.certificate.accepts(models, length)


@dataclass(frozen=True)
class TrainingRun:
    """A training run in a process of its own, which goes on when this one ends."""

    folder: Path

    @property
    def state(self) -> str:
        """queued, running, done, failed, cancelled or lost."""
        return monitor.view(self.folder).state

    def wait(self, seconds: float | None = None) -> TrainingRun:
        """Wait until it has ended, at most ``seconds``. Raises RunError ``run-not-finished``, or its own error."""
        end = None if seconds is None else time.monotonic() + seconds
        while (view := monitor.view(self.folder)).active:
            if end is not None and time.monotonic() > end:
                raise RunError(
                    "run-not-finished",
                    expected=Message("a run that ends within {seconds:g} s", seconds=seconds),
                    found=Message(
                        "{state}, step {done} of {total}", state=view.state, done=view.done, total=view.total
                    ),
                    remedy=Message("wait longer, or look at it in the app"),
                )
            time.sleep(LOOK)
        if view.state != "done" and view.error:
            raise KvlabError.from_dict(view.error)
        return self

    @property
    def verdict(self) -> dict[str, Any]:
        """Return verdict.json: whether it runs, checkpoint by checkpoint; empty until it has one."""
        return read_json(self.folder / VERDICT) or {}

    @property
    def helps(self) -> helps.Helps | None:
        """Return whether it helps its student, against before and its controls; None until it is measured."""
        return helps.of_run(self.folder)

    def to_pandas(self) -> pd.DataFrame:
        """Return a row per logged step: the loss and its terms, the rate, seconds."""
        return pd.DataFrame(metrics.Steps(self.folder).read().columns).set_index("step")

    def figure(self, name: str = "loss") -> go.Figure:
        """Draw a column of ``to_pandas`` over the steps."""
        frame = self.to_pandas()
        column = _chosen({column: frame[column] for column in frame}, name)
        return go.Figure(go.Scatter(x=frame.index, y=column, name=name)).update_layout(
            xaxis_title="step", yaxis_title=name
        )


def align(
    teacher: str | Sequence[str],
    student: str,
    prompts: Prompts = None,
    *,
    progress: Progress = no_progress,
    **settings: Any,
) -> Analysis:
    """Align a teacher's cache, or several, with a student's: held-out R² of every head beside its controls.

    ``teacher``, ``student``: a Hugging Face id, a folder, or demo/teacher. ``prompts``: texts, Documents, or the path
    of a file; None: the bundled samples. ``settings``: ``folds``, ``time``, ``layers``, ``device``, ``dtype``...
    Raises KvlabError.
    """
    request, documents = _request(AnalysisRequest, teacher, student, prompts, settings)
    from kvlab.align import run
    from kvlab.models.loading import ModelCache

    aligned = run.compute(request, documents, ModelCache(), progress)
    return Analysis([alignment for alignment, _ in aligned], [maps for _, maps in aligned])


def inject(
    teacher: str | Sequence[str],
    student: str,
    prompts: Prompts = None,
    *,
    progress: Progress = no_progress,
    **settings: Any,
) -> FunctionalTest:
    """Let the student go on from the teacher's projected cache, on documents that the map was not fitted on.

    Arguments as of ``align``. Raises KvlabError.
    """
    request, documents = _request(InjectionRequest, teacher, student, prompts, settings)
    check_causal(request.settings.time)
    from kvlab.inject import run
    from kvlab.inject.map_file import load_map
    from kvlab.models.loading import ModelCache

    with TemporaryDirectory() as place:
        injection = run.compute(request, documents, ModelCache(), progress, Path(place))
        return FunctionalTest(injection, load_map(place))


def certify(
    teacher: str | Sequence[str],
    student: str,
    prompts: Prompts = None,
    *,
    out: Path | str | None = None,
    progress: Progress = no_progress,
    **settings: Any,
) -> Certified:
    """Judge by gates whether an engine may hand the teacher's cache over to the student.

    Arguments as of ``align``; gates: ``kl_p95``, ``head_output_cosine``, ``every_group``, ``beats_random``. ``out``:
    a folder that gets certificate.json, certificate.html, map.safetensors and the functional test. Raises KvlabError.
    """
    request, documents = _request(CertifyRequest, teacher, student, prompts, settings)
    check_causal(request.settings.time)
    from kvlab.inject import certify as certifying
    from kvlab.inject.map_file import load_map
    from kvlab.models.loading import ModelCache
    from kvlab.results.function import data

    with TemporaryDirectory() as spare:
        place = Path(out or spare)
        place.mkdir(parents=True, exist_ok=True)
        certificate = certifying.compute(request, documents, ModelCache(), progress, place)
        return Certified(certificate, data.read(place), load_map(place))


def train(
    teacher: str | Sequence[str],
    student: str,
    *,
    name: str = "",
    root: Path | str | None = None,
    **settings: Any,
) -> TrainingRun:
    """Launch a short distillation run in a process of its own and return at once; ``.wait()`` waits for it.

    ``settings``: those of ``python -m kvlab train --help``. ``root``: the folder of all runs (default: runs/ or
    $KVLAB_RUNS). Raises KvlabError.
    """
    teachers = [teacher] if isinstance(teacher, str) else list(teacher)
    switches = {"use_kv_projector": True, "use_safe_resample": True}
    given = switches | _nested(TrainConfig, settings) | {"teachers": teachers, "student": student}
    config = checked(TrainConfig, given)
    place = Path(root) if root else store.runs_root()
    fields = config.model_dump(mode="json")
    run_id = training.launch(fields, name or "-".join(map(_last, (*teachers, student))), config.device, place)
    return TrainingRun(place / run_id)


def load_model(name: str, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """Load a model for ``MapFile.handoff``; ``.model`` and ``.tokenizer`` are transformers' own. Raises ModelError."""
    from kvlab.models.loading import load

    return load(name, device, dtype)


def load_map(path: Path | str) -> MapFile:
    """Read ``map.safetensors``, see ``kvlab.inject.map_file``. Raises ModelError ``map-unreadable``."""
    from kvlab.inject.map_file import load_map as read

    return read(path)


def load_certificate(path: Path | str) -> Certificate:
    """Read ``certificate.json`` of a file or a folder. Raises AlignError ``certificate-unreadable``."""
    return certificates.read(path)


def fingerprint(loaded: LoadedModel) -> str:
    """Return what a certificate calls a model beside its name: of configuration, tokenizer and weights."""
    from kvlab.models.identity import fingerprint as of_identity
    from kvlab.models.identity import identity

    return of_identity(identity(loaded))


def _request(
    model: type[Asked], teacher: str | Sequence[str], student: str, prompts: Prompts, settings: dict[str, Any]
) -> tuple[Asked, list[Document]]:
    """Return the request, checked, and the documents. Raises KvlabError."""
    first, *more = [teacher] if isinstance(teacher, str) else teacher
    documents, source = _documents(prompts)
    fields = {"teacher": first, "more_teachers": more, "student": student, "prompts": source}
    return checked(model, {**_nested(model, settings), **fields}), documents


def _documents(prompts: Prompts) -> tuple[list[Document], str]:
    if prompts is None:
        return reading.samples(), SAMPLES
    if isinstance(prompts, str | Path):
        return read_path(prompts).documents, Path(prompts).name
    made = (text if isinstance(text, Document) else Document(f"text-{n}", text) for n, text in enumerate(prompts, 1))
    return list(made), PASTED


def _nested(model: type[Asked], settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings by the names of their flags, nested like the model. Raises its refusal for an unknown one."""
    paths = {name_of(path).replace("-", "_"): path for path, _ in settings_of(model) if path not in PAIR}
    unknown = [name for name in settings if name not in paths]
    if unknown:
        raise model.refusal(
            model.refusal_kind,
            expected=Message("settings of {command}: {names}", command=model.command, names=sorted(paths)),
            found=", ".join(unknown),
            remedy=Message("`python -m kvlab {command} --help` says what each means", command=model.command),
        )
    fields: dict[str, Any] = {}
    for name, value in settings.items():
        *parents, last = paths[name].split(".")
        inner = fields
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return fields


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


Thing = TypeVar("Thing")


def _chosen(known: dict[str, Thing], name: str) -> Thing:
    if name not in known:
        raise ValueError(f"expected one of {', '.join(known)}; found {name!r}")
    return known[name]
