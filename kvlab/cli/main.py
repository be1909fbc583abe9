"""The command line, with the same calls as the pages. Exit codes: 0 done, 1 a check failed, 2 bad input or usage."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from kvlab.bench import ROWS
from kvlab.cli import analysis, experiment, runs, train
from kvlab.cli.flags import Parser
from kvlab.errors import KvlabError
from kvlab.language import DEFAULT, LANGUAGES, say, speaking
from kvlab.request.align import AnalysisRequest
from kvlab.request.certify import CertifyRequest
from kvlab.request.inject import InjectionRequest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Print an error as one message with its remedy; add a traceback with --debug."""
    options = parser().parse_args(arguments)
    options.arguments = arguments
    with speaking(options.language):
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        code = options.run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("kvlab:", say("interrupted; what was not finished is not there."), file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output has stopped, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        unknown = say("Unexpected {kind}: {error}. --debug shows where.", kind=type(error).__name__, error=error)
        print("kvlab:", error if isinstance(error, KvlabError) else unknown, file=sys.stderr)
        return 2


def parser() -> Parser:
    """Build the parser of all commands and their flags."""
    whole = Parser(prog="python -m kvlab", description="Can a teacher's KV cache be aligned?")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show a traceback on errors")
    about = f"of what is printed, and of reports: {' or '.join(LANGUAGES)} (default: {DEFAULT})"
    common.add_argument("--language", choices=list(LANGUAGES), default=DEFAULT, help=about)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run, words: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[common], help=words)
        added.set_defaults(run=run)
        return added

    analysis.add(command("align", analysis.align, "align a teacher's cache with a student's"), AnalysisRequest)
    analysis.add(command("inject", analysis.inject, "can the student use the teacher's cache?"), InjectionRequest)
    about = "may an engine hand the cache over? A verdict by gates, and a map that other programs can use"
    analysis.add(command("certify", analysis.certify, about), CertifyRequest)
    train.add(command("train", train.run, "a short training run with a verdict"))
    experiment.add(command("experiment", experiment.run, "arms × seeds of a training run, compared seed by seed"))
    runs.add(commands, common)
    command("check", _check, "the seven KV checks")
    command("doctor", _doctor, "what is missing, and how to fix it")
    _add_bench(command("bench", _bench, "how fast, as ratios measured side by side"))
    return whole


def _add_bench(bench: argparse.ArgumentParser) -> None:
    rows = "; ".join(f"{number} {row}" for number, row in ROWS.items())
    bench.add_argument("--rows", type=_rows, default=list(ROWS), metavar="1,2,..", help=f"{rows} (default: all)")
    about = "teacher layers for each student layer, rows 1, 7, 11 and 14 (default: as a trained pair takes; 11: 8)"
    bench.add_argument("--layers-per-student", type=int, metavar="N", help=about)
    bench.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    bench.add_argument("--out", type=Path, metavar="FILE", help="write the numbers as JSON")
    bench.add_argument("--quick", action="store_true", help="tiny sizes, to try the code: no verdicts")


def _rows(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",") if part.strip().isdigit()]
    if not numbers or len(numbers) != len(text.split(",")) or not set(numbers) <= set(ROWS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers from 1 to {max(ROWS)}, such as 1,3")
    return numbers


def _check(options: argparse.Namespace) -> int:
    from kvlab.align.checks import print_checks

    return 0 if print_checks() else 1


MARK = {"ok": "✓", "warn": "!", "fail": "✗"}


def _doctor(options: argparse.Namespace) -> int:
    from kvlab.doctor import examine
    from kvlab.runs import store

    findings = examine(deep=True, runs=store.runs_root())
    for finding in findings:
        print(say("{mark} {name}: {found}", mark=MARK[finding.status], name=finding.name, found=finding.found))
        if finding.remedy and finding.status != "ok":
            print(f"    {finding.remedy}")
    return 1 if any(finding.status == "fail" for finding in findings) else 0


def _bench(options: argparse.Namespace) -> int:
    if options.out:
        analysis.check_out(options.out.parent)
    from transformers.utils import logging as transformers_logging

    from kvlab.bench.run import run

    transformers_logging.disable_progress_bar()
    rows = run(options.rows, options.device, options.quick, options.out, options.layers_per_student)
    return 1 if any(row.holds is False for row in rows) else 0
