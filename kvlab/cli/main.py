"""The command line: the same calls as the pages. Exit codes: 0 done, 1 a check failed, 2 bad input or usage."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from kvlab.bench import ROWS
from kvlab.cli import flags, runs
from kvlab.cli import inject as inject_flags
from kvlab.cli import train as train_flags
from kvlab.errors import AlignError, KvlabError
from kvlab.language import DEFAULT, Message, say, speaking
from kvlab.request import align as asked
from kvlab.request.align import AlignSettings
from kvlab.results.alignment.data import Alignment
from kvlab.shapes import phase_words


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Errors are one message with its remedy; a traceback only with --debug."""
    options = _parser().parse_args(arguments)
    with speaking(getattr(options, "language", DEFAULT)):
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        code = options.run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("kvlab:", say("interrupted; what was not finished is not there."), file=sys.stderr)
        return 2
    except BrokenPipeError:  # what reads the output wants no more of it, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        known = isinstance(error, KvlabError)
        unknown = say("Unexpected {kind}: {error}. --debug shows where.", kind=type(error).__name__, error=error)
        print("kvlab:", error if known else unknown, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kvlab", description="Can a teacher's KV cache be aligned?")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show a traceback on errors")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_align(commands, common)
    inject = commands.add_parser("inject", parents=[common], help="can the student use the teacher's cache?")
    inject.set_defaults(run=_inject)
    inject_flags.add(inject)
    train = commands.add_parser("train", parents=[common], help="a short training run with a verdict")
    train.set_defaults(run=train_flags.run)
    train_flags.add(train)
    runs.add(commands, common)
    check = commands.add_parser("check", parents=[common], help="the seven KV checks")
    check.set_defaults(run=_check)
    doctor = commands.add_parser("doctor", parents=[common], help="what is missing, and the command that mends it")
    doctor.set_defaults(run=_doctor)
    _add_bench(commands, common)
    return parser


def _add_align(commands, common) -> None:
    align = commands.add_parser("align", parents=[common], help="align a teacher's cache with a student's")
    align.set_defaults(run=_align)
    flags.add(align, "the results are written", "the findings and of report.html")
    flags.setting(align, AlignSettings, "inspect", type=int)
    flags.setting(align, AlignSettings, "compare_rules", action=argparse.BooleanOptionalAction)


def _add_bench(commands, common) -> None:
    described = "; ".join(f"{number} {what}" for number, what in ROWS.items())
    bench = commands.add_parser("bench", parents=[common], help="how fast, as ratios measured side by side")
    bench.set_defaults(run=_bench)
    bench.add_argument("--rows", type=_rows, default=list(ROWS), metavar="1,2,..", help=f"{described} (default: all)")
    bench.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    bench.add_argument("--out", type=Path, metavar="FILE", help="write the numbers as JSON")
    bench.add_argument("--quick", action="store_true", help="tiny sizes, to try the code: no verdicts")


def _rows(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",") if part.strip().isdigit()]
    if not numbers or len(numbers) != len(text.split(",")) or not set(numbers) <= set(ROWS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers from 1 to {max(ROWS)}, such as 1,3")
    return numbers


def _align(options: argparse.Namespace) -> int:
    request = asked.checked(flags.fields_of(options))
    _check_out(options.out)
    # torch and the models' libraries take seconds to import; a usage error should not.
    from transformers.utils import logging as transformers_logging

    from kvlab.align import run as analysis
    from kvlab.models.loading import ModelCache, geometry
    from kvlab.request import prompts

    transformers_logging.disable_progress_bar()
    documents = _documents(prompts, options)
    for name in {*options.teacher, options.student}:
        geometry(name)  # refuse what cannot be used before loading anything
    cache = ModelCache()
    try:
        with Bar() as progress:
            aligned = analysis.compute(request, documents, cache, progress, options.out)
    except KeyboardInterrupt:
        print("kvlab:", say("interrupted; the same command goes on where this stopped."), file=sys.stderr)
        return 2
    analysis.write(aligned, options.out, options.language)
    _tell([alignment for alignment, _ in aligned])
    print(say("Written: {files}", files=f"{options.out}/alignment.json, heads.csv, report.html, export.zip"))
    return 0


def _tell(alignments: Sequence[Alignment]) -> None:
    """The findings, on standard output."""
    from kvlab.results.alignment.sentences import fusion_sentence, sentence

    for alignment in alignments:
        print(sentence(alignment))
    if alignments[0].fusion:
        print(fusion_sentence(alignments[0]))
    for note in dict.fromkeys(note for alignment in alignments for note in alignment.notes):
        print(say("Note: {note}", note=note))


def _inject(options: argparse.Namespace) -> int:
    _check_out(options.out)
    from kvlab.request import prompts

    return inject_flags.run(options, lambda: _documents(prompts, options), Bar)


def _documents(prompts, options: argparse.Namespace) -> list:
    if options.prompts is None:
        return prompts.samples()
    reading = prompts.read_file(options.prompts, options.column)
    for problem in reading.problems:
        where, message = problem.where, problem.message
        print(f"{options.prompts.name}, {where}: {message}", file=sys.stderr)
    if reading.duplicates:
        print(say("Duplicates left out: {n}.", n=reading.duplicates), file=sys.stderr)
    for cut in reading.cut:
        where, sizes = cut.where, {"characters": cut.characters, "kept": cut.kept}
        print(say("{where}: cut from {characters:,} to {kept:,} characters.", where=where, **sizes), file=sys.stderr)
    return reading.documents


def _check_out(folder: Path) -> None:
    """Find out now, not after an hour, that the results cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise AlignError(
            "out-unwritable",
            expected=Message("a folder that can be written: --out {folder}", folder=folder),
            found=Message("{name}: {strerror}", name=type(error).__name__, strerror=error.strerror),
            remedy=Message("choose another folder, or free space"),
        ) from error


def _check(options: argparse.Namespace) -> int:
    from kvlab.align.checks import print_checks

    return 0 if print_checks() else 1


MARK = {"ok": "✓", "warn": "!", "fail": "✗"}


def _doctor(options: argparse.Namespace) -> int:
    from kvlab.doctor import examine
    from kvlab.runs import store

    findings = examine(deep=True, runs=store.runs_root())
    for finding in findings:
        print(f"{MARK[finding.status]} {finding.name}: {finding.found}")
        if finding.remedy and finding.status != "ok":
            print(f"    {finding.remedy}")
    return 1 if any(f.status == "fail" for f in findings) else 0


def _bench(options: argparse.Namespace) -> int:
    if options.out:
        _check_out(options.out.parent)
    from transformers.utils import logging as transformers_logging

    from kvlab.bench.run import run

    transformers_logging.disable_progress_bar()
    rows = run(options.rows, options.device, options.quick, options.out)
    return 1 if any(row.holds is False for row in rows) else 0


class Bar:
    """A progress bar on a terminal, silence elsewhere. Usable as a Progress callback."""

    def __enter__(self) -> Bar:
        self.bar = tqdm(disable=not sys.stderr.isatty(), leave=False, unit="", dynamic_ncols=True)
        self.stage = ""
        return self

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self.bar.disable:
            return
        if stage != self.stage:
            self.stage = stage
            self.bar.reset(total)
            self.bar.set_description(phase_words(stage), refresh=False)
        self.bar.total, self.bar.n = total, done
        self.bar.refresh()

    def __exit__(self, *exception) -> None:
        self.bar.close()
