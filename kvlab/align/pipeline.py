"""Run one analysis: from text to held-out scores.

text -> Tokens -> KV -> time [Lt,Ht,Tt,Dt]->[Lt,Ht,Ts,Dt] -> layers -> heads ->[Ls,Hs,Ts,Ds] -> scores

Every document is read once. The first batches stay in memory as a sample, on which layers are chosen and controls are
measured. Of all other batches only sums stay.
"""

import time as clock
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from kvlab.align import outcome, processes
from kvlab.align.align_sums import AlignSums, side_by_side
from kvlab.align.batches import InOrder, Read, Rows, read
from kvlab.align.compare_rules import Cached, RuleScores, compare
from kvlab.align.controls import (
    Controls,
    Fits,
    RandomRows,
    random_in_place,
    random_rows,
    random_weights,
    rows_apart,
    teacher_and_shuffled,
)
from kvlab.align.crossfit import ridge_by_class
from kvlab.align.first_look import first_look
from kvlab.align.fold_sums import APART, FITTED, HOST, SCORED, FoldSums
from kvlab.align.fusion import FusionSums, OverRandom, fuse
from kvlab.align.inspection import MOST_BYTES, RULE_TABLE_DOCUMENTS, inspect, that_fit, timeline_summary
from kvlab.align.items import Item, Reader
from kvlab.align.layers import LayerSearch, choose, every_layer, nearest
from kvlab.align.outcome import concentrated
from kvlab.align.sample import Sample, read_sample
from kvlab.align.scoring import Scored, fixed_fits, score
from kvlab.align.shapes import target_shape
from kvlab.align.unfinished import Unfinished
from kvlab.align.unseen_tokens import unseen_tokens
from kvlab.errors import AlignError, ModelError
from kvlab.host import launched
from kvlab.language import Message
from kvlab.models.loading import LoadedModel, random_like, rounded
from kvlab.request.align import AlignSettings
from kvlab.results.alignment.data import Alignment, FusedScore
from kvlab.results.alignment.so_far import SoFar
from kvlab.shapes import KINDS, Document, HeadMap, Progress, no_progress

READING = "reading caches"
WINDOWS_AT_ONCE = 8  # read together where sums go from the device to the host
COUNTED = ("documents", "calibration_documents", "student_tokens")

Aligned = tuple[Alignment, dict[str, HeadMap]]


def align(
    teacher: LoadedModel,
    student: LoadedModel,
    documents: Sequence[Document],
    settings: AlignSettings | None = None,
    calibration: Sequence[Document] = (),
    progress: Progress = no_progress,
) -> Aligned:
    """Measure how much of each student head's K and V the teacher explains on ``documents``, held out by document.

    Maps are also fitted on ``calibration`` documents, which are never scored. Returns the result and, per kind, the map
    fitted on every document. Raises AlignError when nothing can be held out; Cancelled comes from ``progress``.
    """
    return align_several([teacher], student, documents, settings, calibration, progress)[0]


def align_several(
    teachers: Sequence[LoadedModel],
    student: LoadedModel,
    documents: Sequence[Document],
    settings: AlignSettings | None = None,
    calibration: Sequence[Document] = (),
    progress: Progress = no_progress,
    unfinished: Unfinished | None = None,
    so_far: Callable[[SoFar], None] | None = None,
) -> list[Aligned]:
    """Run ``align`` for each teacher on its own timeline; every model reads every document once.

    Each result also holds the fusion of all teachers in the student's space. ``unfinished``: the file from which an
    interrupted analysis resumes its sums. ``so_far`` takes the first teacher's scores on the first documents.
    Of several processes (``processes.joined``) the first one returns the results, the others nothing.
    """
    settings = settings or AlignSettings()
    reader = Reader(teachers, student, documents, calibration, settings)
    work = _Work(teachers, student, settings, reader, progress, so_far)
    work.read_sample()
    if launched.first():
        work.measure_controls()
    work.read_rest(unfinished)
    return work.results() if launched.first() else []


@dataclass
class _Work:
    """The state of one running analysis."""

    teachers: Sequence[LoadedModel]
    student: LoadedModel
    settings: AlignSettings
    reader: Reader
    progress: Progress
    so_far: Callable[[SoFar], None] | None = None
    documents_read: int = 0
    batches_read: int = 0  # by any process
    longest: int = 0  # student tokens of the longest scored document
    counted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    notes: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started = clock.perf_counter()
        self.teacher_tokens = [0] * len(self.teachers)
        self.timings: dict[str, float] = {}
        self.scored_items: list[Item] = []  # the first ones, for views and rates
        self.stream = InOrder(self._windows(), self.settings.batch_tokens)
        geometry = self.student.geometry
        self.heads = [target_shape(geometry, KINDS[0], n)[0] for n in range(len(geometry.kv_layers))]
        self.token_layers = side_by_side(geometry, self.settings.row_weights != "equal")

    def _windows(self) -> Iterator[list[Item]]:
        for window in self.reader.windows():
            room = max(RULE_TABLE_DOCUMENTS, self.settings.inspect) - len(self.scored_items)
            self.scored_items += [item for item in window if item.scored][:room]
            yield window

    def _timed(self, name: str) -> None:
        now = clock.perf_counter()
        self.timings[name] = self.timings.get(name, 0.0) + now - self.started
        self.started = now

    def _count(self, batch: list[Item]) -> None:
        self.documents_read += len(batch)
        self.batches_read += 1
        for item in batch:
            self.counted["documents" if item.scored else "calibration_documents"] += 1
            if item.scored:
                self.teacher_tokens = [n + len(tokens) for n, tokens in zip(self.teacher_tokens, item.teachers)]
                self.counted["student_tokens"] += len(item.student)
                self.longest = max(self.longest, len(item.student))
        self.progress(READING, self.documents_read, len(self.reader))

    def read_sample(self) -> None:
        """Read the first batches, keep their rows and choose layers on them."""
        self.progress(READING, 0, len(self.reader))
        self.caches: list[list[Cached]] = [[] for _ in self.teachers]
        tokens, folds = self.settings.sample_tokens, self.reader.folds
        first = read_sample(self.stream, self._read_cached, tokens, folds, self._first_look)
        self.batches, self.whole_sample = first.batches, first.whole
        self._timed("read_sample_s")
        # Of each teacher, of its own sample and of the common one.
        both = zip(first.rows, first.common) if first.common else ((rows,) for rows in first.rows)
        self.sample_rows = [[[r.places() for r in rows] for rows in of_teacher] for of_teacher in both]
        # A sample copies its rows: those of the batches go as soon as they are in it.
        teachers = range(len(self.teachers))
        self.samples = [self._sample(t, first.rows.pop(0)) for t in teachers]
        self.common = [self._sample(t, first.common.pop(0)) for t in teachers if first.common]
        self.layers: list[LayerSearch] = []
        self.sums: list[AlignSums] = []
        for sample in self.samples:
            self._choose_and_sum(sample)

    def _choose_and_sum(self, sample: Sample) -> None:
        """Choose layers, and sum the sample's rows: before, where the search looks at the sums of all layers."""
        every = every_layer(sample, self.settings)
        if every is None:
            search = choose(sample, self.settings, self.progress)
            self._timed("choose_layers_s")
        sums = AlignSums(every or search.choices, self.reader.folds, self.token_layers)
        for group in sample.groups:
            if group[1].use not in APART:
                sums.add(*group, sample, group)
        self._timed("sum_s")
        if every is not None:
            search = choose(sample, self.settings, self.progress, sums.together)
            for kind, choices in search.choices.items():
                search.choices[kind] = [choice.among(of_all) for choice, of_all in zip(choices, every[kind])]
            sums.choices = search.choices
            self._timed("choose_layers_s")
        self.layers.append(search)
        self.sums.append(sums)

    def _read_cached(self, batch: list[Item]) -> Read:
        batch_read = self._read(batch)
        if self.settings.compare_rules:
            for cached, rows in zip(self.caches, batch_read.teachers):
                cached.append(Cached(batch, rows.teacher, rows.student))
        self._count(batch)
        return batch_read

    def _first_look(self, rows: list[Rows]) -> None:
        """Hand on what the first teacher's rows of the first documents say."""
        if self.so_far is None:
            return
        scores = first_look(
            self._unchecked_sample(0, rows),
            self.heads,
            self.teachers[0].name,
            self.student.geometry,
            self.documents_read,
            len(self.reader),
        )
        if scores is not None:
            self.so_far(scores)

    def _unchecked_sample(self, t: int, rows: list[Rows]) -> Sample:
        layers_t, layers_s = len(self.teachers[t].geometry.kv_layers), len(self.student.geometry.kv_layers)
        return Sample(rows, layers_t, layers_s, self.reader.folds, self.settings.seed)

    def _sample(self, t: int, rows: list[Rows]) -> Sample:
        sample = self._unchecked_sample(t, rows)
        _check_rows(sample, self.documents_read, self.settings)
        return sample

    def measure_controls(self) -> None:
        self.controls: list[Controls] = []
        self.random: list[Message] = []
        features: list[list[RandomRows]] = []  # of random weights in the place of each of several teachers
        heads = {(kind, layer): count for kind in KINDS for layer, count in enumerate(self.heads)}
        for t, (teacher, sample, search, sums) in enumerate(zip(self.teachers, self.samples, self.layers, self.sums)):
            # So far the sums are those of the sample.
            of_teacher, shuffled = teacher_and_shuffled(sums, sample, self.heads, self.progress)
            controls, why_random = Controls(of_teacher, shuffled), Message("not asked for")
            controls.apart = rows_apart(sample, sums)
            if self.whole_sample:
                controls.unseen = unseen_tokens(sample, sums)
            if self.settings.random_teacher:
                try:
                    controls.random, random_features = self._random(t, teacher, sample, search)
                    features.append(random_features)
                    why_random = Message("seed {n}", n=self.settings.seed)
                except ModelError as error:
                    why_random = Message("not measured: {found}", found=error.found)
                    self.notes.append(
                        Message("No control by random weights of {name}: {error}", name=teacher.name, error=error)
                    )
            if self.settings.projector != "ridge" and not self.whole_sample:
                controls.chosen = fixed_fits(sums, heads, teacher.geometry, self.settings.projector)
            self.controls.append(controls)
            self.random.append(why_random)
        self.over_random: dict[tuple[str, int], OverRandom] = {}
        if len(features) == len(self.common) > 1:
            choices = [search.choices for search in self.layers]
            self.over_random = random_in_place(
                self.samples, self.common, features, self.controls, choices, self.heads, self.progress
            )
        del features
        self.concentrated = concentrated(self.samples[0], self.heads, outcome.MOST)
        self._timed("controls_s")
        self.rules = [self._rules(t) for t in range(len(self.teachers))]
        del self.caches
        self._timed("compare_rules_s")

    def _rules(self, t: int) -> RuleScores:
        """Compare the time rules for one teacher; empty where the settings do not ask for it."""
        if not self.settings.compare_rules:
            return RuleScores({}, {})
        sample, heads = self.samples[t], {(k, n): count for k in KINDS for n, count in enumerate(self.heads)}
        choices = nearest(sample)
        scores = compare(self.caches[t], t, choices, self.heads, self.reader.folds, self.settings, self.progress)
        if self.settings.time not in scores.rows:
            pairings = {(k, n): sample.pairing(k, choices[k][n].union, [n]) for k, n in heads}
            scores.add(self.settings.time, ridge_by_class(pairings, heads), self.layers[t].rows, common=False)
        return scores

    def _random(
        self, t: int, teacher: LoadedModel, sample: Sample, search: LayerSearch
    ) -> tuple[Fits, list[RandomRows]]:
        """Fit the control by random weights. With several teachers, also return its features on own and common rows."""
        self.progress("reading with random weights", 0, len(self.batches))
        random = random_like(teacher, self.settings.seed)
        rows = self.sample_rows[t]
        features = random_rows(random, self.batches, rows, t, search.choices, self.settings, self.progress)
        fits = random_weights(sample, features[0], search.choices, self.heads, self.progress)
        return fits, features if self.common else []

    def read_rest(self, unfinished: Unfinished | None) -> None:
        """The sums over the sample and over every other document."""
        self.fusion = FusionSums([search.choices for search in self.layers], self.reader.folds)
        for group in self.common[0].groups if self.common else []:
            self.fusion.add(*group, self.common, group)
        del self.sample_rows, self.samples, self.common
        self._timed("sum_s")
        if self.student.device != HOST:
            self.stream.fold_by_fold(WINDOWS_AT_ONCE)
        processes.begin(self._sums())
        if unfinished is None:
            for batch in self.stream:
                self._add(self._read_share(batch))
                self._count(batch)
        else:
            continued = unfinished.go_through(self.stream, self._sums(), self._read_share, self._add, self._count)
            if continued:
                self.notes.append(Message("Continued: {n} batches had been read before an interruption.", n=continued))
        processes.add_up(self._sums())
        self._timed("read_rest_s")

    def _sums(self) -> dict[str, FoldSums]:
        named = {f"{t}/{name}": s for t, sums in enumerate(self.sums) for name, s in sums.all().items()}
        return named | {f"fusion/{name}": s for name, s in self.fusion.all().items()}

    def _read_share(self, batch: list[Item]) -> Read | None:
        """Read the batch if it is this process's turn."""
        return self._read(batch) if self.batches_read % launched.count() == launched.rank() else None

    def _read(self, batch: list[Item]) -> Read:
        return read(self.teachers, self.student, batch, self.settings, checked=False)

    def _add(self, batch_read: Read | None) -> None:
        if batch_read is None:
            return
        with torch.inference_mode():
            for sums, rows in zip(self.sums, batch_read.teachers):
                sums.add_batch(rows)
            self.fusion.add_batch(batch_read.common)
            batch_read.check()  # last, because it waits for the device to finish the sums

    def results(self) -> list[Aligned]:
        student = self.student.geometry
        scored = [
            score(sums, controls, self.whole_sample, teacher.geometry, student, self.settings.projector, self.progress)
            for sums, controls, teacher in zip(self.sums, self.controls, self.teachers)
        ]
        fusion = self._fused(scored)
        self._timed("fit_and_score_s")
        wanted = self.scored_items[: self.settings.inspect]
        inspected = that_fit(wanted, student, [teacher.geometry for teacher in self.teachers], self.settings.time)
        if len(inspected) < len(wanted):
            self.notes.append(
                Message(
                    "{n} of {total} documents are not kept token by token: the arrays of all would be larger "
                    "than {most} MiB.",
                    n=len(wanted) - len(inspected),
                    total=len(wanted),
                    most=MOST_BYTES // 2**20,
                )
            )
        views = inspect(self.teachers, self.student, inspected, self.sums, scored, self.settings, self.progress)
        self._timed("token_by_token_s")
        return [
            (self._alignment(t, teacher_scores, *views[t], fusion), teacher_scores.maps)
            for t, teacher_scores in enumerate(scored)
        ]

    def _fused(self, scored: list[Scored]) -> list[FusedScore]:
        scores = []
        for number, ((kind, layer), common) in enumerate(self.fusion.pairings.items()):
            self.progress("fusing teachers", number, len(self.fusion.pairings))
            own = [sums.pairing(kind, layer) for sums in self.sums]
            widths = self.fusion.widths(kind, layer)
            fused = fuse(common, own, [s.ridges[kind, layer].fits for s in scored], widths, self.heads[layer])
            for head in range(self.heads[layer]):
                numbers = {name: float(getattr(fused, name)[head]) for name in ("r2", "se", "gain", "gain_se")}
                if over := self.over_random.get((kind, layer)):
                    best = int(fused.best[head])
                    numbers |= {
                        "gain_random": float(over.gain[best, head]),
                        "gain_random_se": float(over.gain_se[best, head]),
                        "n_control": over.n,
                    }
                lists = {name: getattr(fused, name)[:, head].tolist() for name in ("r2_alone", "weights")}
                at = self.student.geometry.kv_layers[layer]
                scores.append(FusedScore(kind, at, head, **numbers, **lists, n=fused.n))
        return scores

    def _alignment(self, t: int, scored: Scored, views: list, arrays: dict, fusion: list[FusedScore]) -> Alignment:
        teacher, search, settings = self.teachers[t], self.layers[t], self.settings
        data = outcome.data(self.sums[t], self.counted | {"teacher_tokens": self.teacher_tokens[t]})
        data["repeated_tokens"] = self.reader.repeated_tokens  # they count once, in an earlier document
        warnings = outcome.notes(settings, data, scored.heads, self.longest, self.concentrated)
        warnings += outcome.unstable(scored.fits, self.student.geometry.kv_layers)
        warnings += rounded(teacher, self.student)
        return Alignment(
            settings=settings.model_dump(),
            teacher=teacher.geometry.to_dict(),
            student=self.student.geometry.to_dict(),
            data=data,
            timeline=timeline_summary(self.scored_items[:RULE_TABLE_DOCUMENTS], t),
            layer_map=outcome.layer_map(search, teacher.geometry.kv_layers, settings),
            heads=scored.heads,
            inspected=views,
            notes=self.reader.notes() + self.reader.shared_notes() + self.notes + warnings,
            versions=outcome.versions(teacher),
            capture=outcome.self_tests(teacher, self.student, settings),
            controls={
                "rows": scored.heads[0].n_control,
                "whole_sample": self.whole_sample,
                "random_teacher": self.random[t],
                "rules": self.rules[t].rows,
            },
            teachers=[m.name for m in self.teachers],
            fusion=fusion,
            timings=dict(self.timings),
            arrays=outcome.arrays(
                scored.contributions, scored.spectrum_arrays(), search.matrices, self.rules[t].arrays, arrays
            ),
        )


def _check_rows(sample: Sample, documents: int, settings: AlignSettings) -> None:
    fitted, scored = ([0] * sample.folds for _ in range(2))
    for fold, part in sample.groups:
        count = sample.count((fold, part))
        fitted[fold] += count * (part.use in FITTED)
        scored[fold] += count * (part.use in SCORED)
    # The map that a fold is scored by is fitted on the other folds.
    fitted_without = [sum(fitted) - of_fold for of_fold, held_out in zip(fitted, scored) if held_out]
    if min(fitted_without, default=0) >= 2:
        return
    if sum(fitted) == 0 and sum(scored) > 0:
        raise AlignError(
            "no-exact-rows",
            expected=Message("tokens that end at the same byte in both models, to fit a map on"),
            found=Message(
                "none among {n} tokens that have a teacher step, rule {rule}", n=sum(scored), rule=settings.time
            ),
            remedy=Message("choose a rule that does not need them (--time linear or nearest), or other prompts"),
        )
    raise AlignError(
        "no-rows",
        expected=Message(
            "tokens after the first {n} of a prompt that both models have read alike, in at least two documents",
            n=settings.sinks,
        ),
        found=Message(
            "{fitted} rows to fit and {scored} to score in {documents} documents, rule {rule}",
            fitted=sum(fitted),
            scored=sum(scored),
            documents=documents,
            rule=settings.time,
        ),
        remedy=Message("use more or longer prompts, a smaller --sinks, or also fit on the bundled samples"),
    )
