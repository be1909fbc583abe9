"""Run a functional test, from models and documents to its result: can the student use the teachers' cache?"""

import time as clock
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import nan

from kvlab.align import outcome
from kvlab.align.items import Item
from kvlab.align.unfinished import Unfinished
from kvlab.errors import AlignError, ModelError
from kvlab.inject import controls
from kvlab.inject import texts as greedy
from kvlab.inject.attention import Heard, heard
from kvlab.inject.fit import Fit, fit
from kvlab.inject.heads import ProjectionSums, attention_errors
from kvlab.inject.hybrid import Hybrids
from kvlab.inject.own import check_cache
from kvlab.inject.prefix import Models, Prefix, Reading, cut_at, prefix_of, read_document
from kvlab.inject.refine import refine
from kvlab.inject.scores import Damaged, PerDocument, correlations, of_document
from kvlab.inject.split import JUDGED_FOLD, split
from kvlab.inject.swaps import Budget, Swaps, head_places, layer_places, worst_layers
from kvlab.inject.trial import TOLERANCE, tried
from kvlab.language import Message
from kvlab.models.forward import empty_cache
from kvlab.models.loading import LoadedModel, random_like, rounded
from kvlab.request.align import AlignSettings
from kvlab.request.inject import InjectSettings, check_causal
from kvlab.request.segments import Markers
from kvlab.request.time_rules import RULES
from kvlab.results.function.data import COMPARED, DocumentDamage, Injected, Injection, Text, own_tokens_of
from kvlab.shapes import Document, Progress, no_progress

LAYERS_SHARE = 0.5  # of the budget for swaps: the rest is for single heads
INJECTING, SWAPPING_HEADS = "continuing from replaced caches", "replacing single heads"
CONTINUING = "greedy continuations"


def judge(
    teachers: Sequence[LoadedModel],
    student: LoadedModel,
    documents: Sequence[Document],
    settings: AlignSettings | None = None,
    injection: InjectSettings | None = None,
    calibration: Sequence[Document] = (),
    markers: Markers | None = None,
    progress: Progress = no_progress,
    offline: bool = False,
    folds: Sequence[int] = (JUDGED_FOLD,),
    unfinished: Unfinished | None = None,
    keep: Callable[[Fit], None] = lambda fit: None,
) -> Injection:
    """Fit a map on most of the documents and try its cache on the others.

    ``folds``: which of the documents' folds are judged, each by a map fitted on the others; of several, single heads
    are not replaced and no text is continued.
    ``offline``: admit time rules that look ahead, for comparisons. Every rule is evaluated on the prefix alone and
    knows nothing of the continuation, but a running student could not do it. The result says so.
    ``unfinished``: the file from which an interrupted refinement resumes. ``keep`` takes the fit of every fold.
    Raises AlignError ``rule-looks-ahead``, ``injection-state``, ``too-short`` and as ``split`` and ``fit``; Cancelled
    comes from ``progress``.
    """
    settings, injection = settings or AlignSettings(), injection or InjectSettings()
    if not offline or RULES[settings.time].per_head:
        check_causal(settings.time)
    check_cache(student, empty_cache(student))
    work = _Work(teachers, student, settings, injection, markers or Markers(), progress, unfinished)
    for fold in folds:
        work.fit(documents, calibration, fold)
        keep(work.fitted)
        if not work.inject():
            return work.result(offline)
    if len(folds) == 1:  # single heads and texts would need the map of each document's own fold
        work.swap_heads()
        work.continue_greedily()
    return work.result(offline)


@dataclass
class _Work:
    """The state of one running functional test."""

    teachers: Sequence[LoadedModel]
    student: LoadedModel
    settings: AlignSettings
    injection: InjectSettings
    markers: Markers
    progress: Progress
    unfinished: Unfinished | None = None
    notes: list[Message] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    injected: dict[tuple[str, float], PerDocument] = field(default_factory=dict)
    listened: list[Heard] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    difference: float = 0.0  # of the own cache's logits
    layers_swapped: int = 0  # documents

    def __post_init__(self) -> None:
        self.notes += rounded(*self.teachers, self.student)
        self.projection = ProjectionSums(self.student.geometry)
        self.hybrids = Hybrids(self.student, self.settings.batch_tokens)
        self.used: list[Item] = []
        self.judged, self.rows, self.cached = 0, 0, 0

    def fit(self, documents: Sequence[Document], calibration: Sequence[Document], fold: int) -> None:
        self.started = clock.perf_counter()
        most = self.injection.documents
        self.split = split(self.teachers, self.student, documents, calibration, self.settings, most, fold)
        self.judged += len(self.split.judged)
        self.notes += [note for note in self.split.notes if note not in self.notes]
        self.randoms, self.random_note = self._random_teachers()
        self.models = Models(self.teachers, self.randoms, self.student, self.settings)
        self.fitted: Fit = fit(self.teachers, self.randoms, self.student, self.split, self.settings, self.progress)
        if self.injection.refine:
            of_fitted = self.models, self.fitted, self.split.fitted
            refined = refine(*of_fitted, self.injection.prefix, self.progress, self.unfinished)
            self.fitted.sources |= refined.sources
            self.notes += refined.notes
            self.timings |= refined.timings
        self.swaps = Swaps(self.models, Budget(self.injection.seconds, self.injection.forwards))
        self._timed("fit_s")

    def _random_teachers(self) -> tuple[list[LoadedModel], Message]:
        if not self.settings.random_teacher:
            return [], Message("not asked for")
        try:
            randoms = [random_like(t, self.settings.seed) for t in self.teachers]
            return randoms, Message("seed {n}", n=self.settings.seed)
        except ModelError as error:
            self.notes.append(Message("No control by random weights: {error}", error=error))
            return [], Message("not measured: {found}", found=error.found)

    def _timed(self, name: str) -> None:
        now = clock.perf_counter()
        self.timings[name] = now - self.started
        self.started = now

    @property
    def names(self) -> list[str]:
        """Return the variants, the own cache first."""
        known = {*self.fitted.sources, *controls.ROWS}
        return ["own", "projected", *(name for name in COMPARED if name in known)]

    def inject(self) -> bool:
        """Continue all judged documents; stop with False when the own cache does not give the student's logits."""
        shares = sorted({self.injection.prefix, *self.injection.curve})
        for number, item in enumerate(self.split.judged):
            self.progress(INJECTING, number, len(self.split.judged))
            if not cut_at(self.injection.prefix, item):
                continue
            reading = read_document(self.models, item)
            for share in shares:
                prefix = prefix_of(self.models, self.fitted, reading, cut_at(share, item))
                if prefix is None:
                    continue
                damaged = self._continue_from(reading, prefix, share)
                if not damaged:
                    return False
                if share == self.injection.prefix:
                    self.rows, self.cached = self.rows + len(prefix.rows), self.cached + prefix.cut
                    self.used.append(item)
                    self._listen(reading, prefix)
                    self.projection.add(reading, prefix)
                    self._swap(reading, prefix)
                    if self.injection.hybrid:
                        self._leave_own(reading, prefix, damaged)
        if not self.used:
            raise AlignError(
                "too-short",
                expected=Message(
                    "judged documents whose prefix of {share} has tokens to replace, after {sinks} sinks",
                    share=f"{self.injection.prefix:.0%}",
                    sinks=self.settings.sinks,
                ),
                found=Message("none in {n}", n=self.judged),
                remedy=Message("use longer prompts, a larger --prefix, or fewer --sinks"),
            )
        self.replaced = self.rows / self.cached
        left_out = self.judged - len(self.used)
        if left_out:
            self.notes.append(
                Message("{n} judged documents are too short for the prefix and were left out.", n=left_out)
            )
        self._timed("inject_s")
        return True

    def _continue_from(self, reading: Reading, prefix: Prefix, share: float) -> dict[str, Damaged]:
        trial = tried(self.student, reading.own, prefix, self.names, self.settings.batch_tokens)
        self.difference = max(self.difference, trial.difference)
        for name, damaged in trial.damaged.items():
            self.injected.setdefault((name, share), PerDocument()).documents.append(damaged)
        return trial.damaged

    def _leave_own(self, reading: Reading, prefix: Prefix, damaged: dict[str, Damaged]) -> None:
        begun = clock.perf_counter()
        self.hybrids.add(reading.item.document, reading.own, prefix, damaged)
        self.timings["hybrid_s"] = self.timings.get("hybrid_s", 0.0) + clock.perf_counter() - begun

    def _listen(self, reading: Reading, prefix: Prefix) -> None:
        variants = [prefix.variant(name) for name in self.names[1:]]
        try:
            outputs = heard(self.student, reading.own, prefix.cut, prefix.rows, variants, self.settings.batch_tokens)
            self.listened.append(outputs)
        except AlignError as error:
            if error.kind != "attention-unavailable":
                raise
            note = Message("No error of the heads' outputs: {found}.", found=error.found)
            if note not in self.notes:
                self.notes.append(note)

    def _swap(self, reading: Reading, prefix: Prefix) -> None:
        if self.injection.swap_layers and not (self.layers_swapped and self.swaps.budget.over(LAYERS_SHARE)):
            self.swaps.add(reading, prefix, layer_places(self.student.geometry))
            self.layers_swapped += 1
            self.timings["layer_swaps_s"] = self.swaps.budget.spent

    def swap_heads(self) -> None:
        """Swap the heads of the worst layers, on as many documents as the budget allows; they are in random order."""
        if not self.injection.swap_layers or not self.swaps.harmed:
            return
        if self.layers_swapped < len(self.used):
            self.notes.append(
                Message(
                    "The budget for swaps was used up: whole layers were replaced on {done} of {all} documents.",
                    done=self.layers_swapped,
                    all=len(self.used),
                )
            )
        geometry = self.student.geometry
        layers = worst_layers(self.swaps.harmed, geometry, self.injection.swap_layers)
        if len(layers) < len(geometry.kv_layers):
            self.notes.append(
                Message(
                    "Heads were replaced one by one in the {n} layers that cost most: {layers}.",
                    n=len(layers),
                    layers=[geometry.kv_layers[n] for n in layers],
                )
            )
        places = head_places(geometry, layers)
        begun = clock.perf_counter()
        done = 0
        for number, item in enumerate(self.used):
            self.progress(SWAPPING_HEADS, number, len(self.used))
            if done and self.swaps.budget.over():
                break
            reading = read_document(self.models, item)
            prefix = prefix_of(self.models, self.fitted, reading, cut_at(self.injection.prefix, item))
            self.swaps.add(reading, prefix, places)
            done = number + 1
            if done == 1:
                self.timings["head_swaps_forecast_s"] = (clock.perf_counter() - begun) * len(self.used)
        if done < len(self.used):
            self.notes.append(
                Message(
                    "The budget for swaps was used up: single heads were replaced on {done} of {all} documents.",
                    done=done,
                    all=len(self.used),
                )
            )
        self._timed("head_swaps_s")

    def continue_greedily(self) -> None:
        self.started = clock.perf_counter()
        cuts = [(item, greedy.prompt_cut(item.student, item.document)) for item in self.split.judged]
        asked = [(item, cut) for item, cut in cuts if cut is not None][: self.injection.texts]
        if self.injection.texts and not asked:
            self.notes.append(
                Message("No judged document has a prompt and something behind it, so none was continued greedily.")
            )
        for number, (item, cut) in enumerate(asked):
            self.progress(CONTINUING, number, len(asked))
            reading = read_document(self.models, item)
            prefix = prefix_of(self.models, self.fitted, reading, cut)
            if prefix is not None:
                most = self.injection.new_tokens
                self.texts.append(greedy.continuations(self.student, reading, prefix, self.names, most, self.markers))
        self._timed("texts_s")

    def result(self, offline: bool) -> Injection:
        settings, tolerance = self.settings, TOLERANCE[self.student.dtype]
        reproduces = self.difference <= tolerance
        injection = Injection(
            settings=settings.model_dump(),
            injection=self.injection.model_dump(),
            teachers=[t.geometry.to_dict() for t in self.teachers],
            student=self.student.geometry.to_dict(),
            data={
                "split": "by document: no judged text was fitted on",
                "documents_judged": self.judged,
                "documents_fitted": len(self.split.fitted),
                "longest_fitted": max(len(item.student) for item in self.split.fitted),  # student tokens
                "calibration_documents": sum(not item.scored for item in self.split.fitted),
                "rows_fitted": self.fitted.rows,
                "random_teacher": self.random_note,
                "offline": offline,
            },
            own={"largest_difference": self.difference, "tolerance": tolerance, "reproduces": reproduces},
            notes=self.notes,
            versions=outcome.versions(self.student),
            timings=self.timings,
        )
        if not reproduces:
            return injection
        injection.data |= {"share_replaced": self.replaced, "forwards_of_swaps": self.swaps.budget.used}
        injection.notes += self._cautions(offline)
        swaps, projection = self.swaps.results(), self.projection.errors()
        heard_all = bool(self.listened) and len(self.listened) == len(self.used)
        attention = attention_errors(self.listened, self.student.geometry) if heard_all else []
        return replace(
            injection,
            injected=self._injected(),
            attention=attention,
            projection=projection,
            swaps=swaps,
            correlations=correlations(swaps, projection, attention),
            hybrid=self.hybrids.results(),
            documents=self._of_documents(),
            texts=self.texts,
            accuracy=greedy.accuracies(self.texts),
        )

    def _injected(self) -> list[Injected]:
        rows = []
        for name, share in sorted(self.injected, key=lambda key: (key[1], self.names.index(key[0]))):
            variant, projected = self.injected[name, share], self.injected["projected", share]
            damage = (*variant.mean("kl"), *variant.mean("delta_ce"), variant.mean("same_choice")[0])
            over_projected = (*variant.less(projected, "kl"), *variant.less(projected, "delta_ce"))
            own_tokens = self.injected.get((own_tokens_of(name), share))
            gain = own_tokens.less(variant, "kl") if own_tokens is not None else (nan, nan)
            quantiles = variant.kl_quantile(0.95), variant.kl_quantile(0.99)
            rows.append(Injected(name, share, *damage, *over_projected, variant.n, len(variant), *gain, *quantiles))
        return rows

    def _of_documents(self) -> list[DocumentDamage]:
        return [
            of_document(name, item.document, damaged)
            for (name, share), variant in self.injected.items()
            if share == self.injection.prefix
            for item, damaged in zip(self.used, variant.documents, strict=True)
        ]

    def _cautions(self, offline: bool) -> list[Message]:
        cautions = [
            Message(
                "{share} of the prefix' tokens are replaced; special tokens, the first {sinks} content tokens and "
                "tokens without a teacher step keep the student's own keys and values.",
                share=f"{self.replaced:.0%}",
                sinks=self.settings.sinks,
            )
        ]
        if offline:
            cautions.append(
                Message(
                    "Offline diagnostic: the {rule} rule was evaluated on the prefix alone, so it knows nothing of the "
                    "continuation, but within the prefix it may look ahead.",
                    rule=self.settings.time,
                )
            )
        if len(self.used) < 10:
            cautions.append(Message("Only {n} documents are judged: standard errors are rough.", n=len(self.used)))
        maps = self.fitted.sources["projected"].maps.values()
        features = max(len(of_teacher.weights[0]) for of_problem in maps for of_teacher in of_problem)
        cautions += outcome.weighted_rows(self.settings)
        return cautions + outcome.few_rows(self.fitted.rows / features)
