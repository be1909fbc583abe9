"""``python -m kvlab align | inject | certify``. Import no torch before the request is checked."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from kvlab.cli import flags, output, slurm
from kvlab.errors import AlignError, KvlabError, system_reason
from kvlab.host import launched
from kvlab.language import Message, say
from kvlab.request import prompts
from kvlab.request.align import AnalysisRequest
from kvlab.request.certify import CertifyRequest
from kvlab.request.folders import read_path
from kvlab.request.formats import AS_TEXT, FORMATS, Form
from kvlab.request.inject import InjectionRequest, check_causal
from kvlab.request.settings import checked
from kvlab.request.uploads import EXTENSIONS
from kvlab.runs.failures import kind_of, out_of_memory
from kvlab.shapes import Document, phase_words

WRITTEN = ("alignment.json", "arrays.safetensors", "projector.safetensors", "heads.csv", "report.html", "export.zip")
Asked = TypeVar("Asked", bound=AnalysisRequest)

ELSEWHERE = ("teacher", "more_teachers", "prompts")  # settings behind --teacher and --prompts
ANALYSIS_ONLY = ("settings.inspect", "settings.compare_rules")  # settings that a functional test ignores


def add(parser: argparse.ArgumentParser, model: type[Asked]) -> None:
    """Add the flags of an analysis, a functional test or a certificate."""
    test = issubclass(model, InjectionRequest)
    about = "repeat for several teachers"
    parser.add_argument("--teacher", dest="teachers", required=True, action="append", metavar="NAME", help=about)
    about = f"{' '.join(EXTENSIONS)}, also .gz, or a folder of these or of a data set (default: the samples)"
    parser.add_argument("--prompts", dest="prompt_file", type=Path, metavar="FILE", help=about)
    about = "what a record is (default: auto, as the names of its fields say)"
    parser.add_argument("--format", choices=list(FORMATS), default="auto", help=about)
    parser.add_argument("--column", help="the column or field that holds the prompts")
    parser.add_argument("--answer", help="the column or field that holds the answers")
    written = "injection.json is written" if model is InjectionRequest else "the results are written"
    if not test:
        about = "say the memory that the analysis takes, and end; no weights are loaded and nothing is written"
        parser.add_argument("--forecast", action="store_true", help=about)
    parser.add_argument("--out", required=test, type=Path, metavar="DIR", help=f"where {written}")
    flags.add(parser, model, (*ELSEWHERE, *ANALYSIS_ONLY) if test else ELSEWHERE)
    slurm.add(parser)


def request_of(model: type[Asked], options: argparse.Namespace) -> Asked:
    """Return the request that the flags name. Raises AlignError ``request-invalid``."""
    fields = flags.given(model, options) | {"teacher": options.teachers[0], "more_teachers": options.teachers[1:]}
    fields |= {name: flags.path_of(fields[name]) for name in ("teacher", "student")}
    fields["more_teachers"] = [flags.path_of(name) for name in fields["more_teachers"]]
    if options.prompt_file:
        fields["prompts"] = Path(os.path.expanduser(options.prompt_file)).resolve().name
    return checked(model, fields)


def align(options: argparse.Namespace) -> int:
    """Run an analysis and return the exit code. The same command resumes an interrupted analysis.

    Under torchrun every process calls this and reads a share of the documents.
    """
    request = request_of(AnalysisRequest, options)
    if options.forecast:
        return _forecast(request, options)
    if options.out is None:
        raise AlignError(
            "request-invalid",
            expected=Message("a folder for the results: --out DIR"),
            found=Message("none"),
            remedy=Message("name one, or ask for the memory alone: --forecast"),
        )
    slurm.listen()
    with _working_in(options.out):
        return _align(request, options)


def _align(request: AnalysisRequest, options: argparse.Namespace) -> int:
    documents = _documents(request, options)
    if place := slurm.asked(options):
        return slurm.submit(options, place, shared=True)
    from kvlab.align import run
    from kvlab.models.loading import ModelCache
    from kvlab.results import answer
    from kvlab.results.alignment.sentences import fusion_sentence, sentence

    try:
        with Bar() as progress:
            aligned = run.compute(request, documents, ModelCache(), progress, options.out)
    except KeyboardInterrupt as ended:
        return _interrupted(ended)
    if not launched.first():  # which writes for all
        return 0
    run.write(aligned, options.out, options.language)
    alignments = [alignment for alignment, _ in aligned]
    findings = [sentence(alignment) for alignment in alignments]
    if alignments[0].fusion:
        findings.append(fusion_sentence(alignments[0]))
    notes = list(dict.fromkeys(note for alignment in alignments for note in alignment.notes))
    _print(findings, notes, options.out, WRITTEN)
    for alignment in alignments:
        answered = answer.of_analysis(alignment).line()
        one_of_many = say("{teacher}: {answer}", teacher=alignment.teacher["name"], answer=answered)
        print(answered if len(alignments) == 1 else one_of_many)
    return 0


def _forecast(request: AnalysisRequest, options: argparse.Namespace) -> int:
    documents = _documents(request, options)
    from kvlab.align import run

    for line in run.forecast(request, documents):
        print(line)
    return 0


def inject(options: argparse.Namespace) -> int:
    """Run a functional test and return the exit code: 1 if the student's own cache changes its logits.

    The same command resumes an interrupted refinement.
    """
    return _judge(InjectionRequest, options, _tested)


def certify(options: argparse.Namespace) -> int:
    """Make a certificate and return the exit code: 1 where it says to prefill anew.

    The same command resumes an interrupted refinement.
    """
    return _judge(CertifyRequest, options, _certified)


Work = Callable[[], int]  # what is left to do behind the progress bar: say the result and return the exit code


def _judge(model: type[Asked], options: argparse.Namespace, work: Callable[..., Work]) -> int:
    launched.check_alone(model.command)
    request = request_of(model, options)
    check_causal(request.settings.time)
    slurm.listen()
    with _working_in(options.out):
        documents = _documents(request, options)
        if place := slurm.asked(options):
            return slurm.submit(options, place, shared=False)
        from kvlab.align.unfinished import REFINEMENT
        from kvlab.models.loading import ModelCache

        try:
            with Bar() as progress:
                tell = work(request, documents, ModelCache(), progress, options.out, options.language)
        except KeyboardInterrupt as ended:
            if not (options.out / REFINEMENT).exists():
                raise
            return _interrupted(ended)
        return tell()


def _tested(request, documents, cache, progress, folder: Path, language: str) -> Work:
    from kvlab.inject import run
    from kvlab.inject.map_file import NAME
    from kvlab.results import answer
    from kvlab.results.function.data import JSON_NAME, sentence
    from kvlab.results.function.sentences import hybrid_sentence, verdict_sentence

    result = run.compute(request, documents, cache, progress, folder)

    def tell() -> int:
        run.write(result, folder, language)
        findings = [sentence(result)]
        if result.reproduces:
            answers = verdict_sentence(result, request.injection.prefix), hybrid_sentence(result)
            findings += [answer for answer in answers if answer]
        _print(findings, result.notes, folder, (JSON_NAME, run.REPORT_NAME, NAME))
        print(answer.of_test(result).line())
        return 0 if result.reproduces else 1

    return tell


def _certified(request, documents, cache, progress, folder: Path, language: str) -> Work:
    from kvlab.inject import certify, run
    from kvlab.inject.map_file import NAME
    from kvlab.results.certificate import data, words
    from kvlab.results.function.data import JSON_NAME

    made = certify.compute(request, documents, cache, progress, folder, language)

    def tell() -> int:
        files = (data.NAME, data.REPORT, NAME, JSON_NAME, run.REPORT_NAME)
        _print([words.scope(made), words.gates_line(made)], list(map(Message.read, made.notes)), folder, files)
        print(words.answered(made).line())
        return 0 if made.approximate else 1

    return tell


@contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """Hold the folder of the results, after a look at what is in it. Raises as the calls in it do.

    Of several processes the first one holds it.
    """
    if not launched.first():
        yield
        return
    output.refuse_foreign_results(folder)
    check_out(folder)
    with output.locked(folder):
        yield


def _interrupted(ended: KeyboardInterrupt) -> int:
    if isinstance(ended, slurm.MadeWay):  # said before, because putting back ends this process
        print("kvlab:", say("interrupted; its job is put back, and goes on where this stopped."), file=sys.stderr)
        slurm.put_back()
        return 2
    print("kvlab:", say("interrupted; the same command goes on where this stopped."), file=sys.stderr)
    return 2


def _print(findings: Sequence[str], notes: Sequence[Message], folder: Path, files: Sequence[str]) -> None:
    print(*findings, sep="\n")
    for note in notes:
        print(say("Note: {note}", note=note))
    print(say("Written: {files}", files=f"{folder}/{', '.join(files)}"))


def _documents(request: AnalysisRequest, options: argparse.Namespace) -> list[Document]:
    """Read the prompts, after the checks that need no weights."""
    # Import after the first checks: torch takes seconds, and a usage error should not.
    from transformers.utils import logging as transformers_logging

    from kvlab.models.loading import geometry

    transformers_logging.disable_progress_bar()
    documents = prompts.samples() if options.prompt_file is None else _read(options, request.settings.chat)
    for name in {*request.teachers, request.student}:
        geometry(name)
    return documents


def _read(options: argparse.Namespace, chat: bool) -> list[Document]:
    file = options.prompt_file
    reading = read_path(file, Form(options.format, options.column, options.answer))
    if not launched.first():  # which says what follows
        return reading.documents
    print(say("{file} was read as: {words}", file=file.name or file, words=reading.recognised()), file=sys.stderr)
    if reading.turns and not chat:
        print(say("Note: {note}", note=Message(AS_TEXT)), file=sys.stderr)
    for problem in reading.problems:
        words = {"file": file.name, "where": problem.where, "problem": problem.message}
        print(say("{file}, {where}: {problem}", **words), file=sys.stderr)
    if reading.duplicates:
        print(say("Duplicates left out: {n}.", n=reading.duplicates), file=sys.stderr)
    for cut in reading.cut:
        print(say("{where}: cut from {characters:,} to {kept:,} characters.", **vars(cut)), file=sys.stderr)
    return reading.documents


def check_out(folder: Path) -> None:
    """Check now, not after an hour, that the results can be written. Raises AlignError ``out-unwritable``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise AlignError(
            "out-unwritable",
            expected=Message("a folder that can be written: --out {folder}", folder=folder),
            found=system_reason(error),
            remedy=Message("choose another folder, or free space"),
        ) from error


class Bar(tqdm):
    """A progress bar on a terminal, silent elsewhere. Serves as a Progress callback."""

    def __init__(self):
        super().__init__(
            disable=not (sys.stderr.isatty() and launched.first()), leave=False, unit="", dynamic_ncols=True
        )
        self.stage = ""

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Raise RunError ``out-of-memory`` in place of an exception that says it, with what was being allocated."""
        super().__exit__(kind, error, trace)
        if error is not None and not isinstance(error, KvlabError) and kind_of(error) == "out-of-memory":
            raise out_of_memory(error, self.stage) from error

    def __call__(self, stage: str, done: int, total: int) -> None:
        new, self.stage = stage != self.stage, stage
        if self.disable:
            return
        if new:
            self.reset(total)
            self.set_description(phase_words(stage), refresh=False)
        self.total, self.n = total, done
        self.refresh()
