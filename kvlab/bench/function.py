"""Measure how the settings of an alignment affect a student on the projected cache, beside the controls.

    python -m kvlab.bench.function                 # the table of docs/benchmarks.md, as Markdown
    python -m kvlab.bench.function --rows 1,2 --folds 5    # some of its rows, every document judged

`linear` looks ahead. Here it reads the prefix alone, whose end it may know, but nothing of the continuation: an offline
diagnostic, which `python -m kvlab inject` refuses. All rows are judged on the same documents.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from statistics import fmean
from typing import Any

from transformers.utils import logging as transformers_logging

from kvlab.bench import run
from kvlab.inject.pipeline import judge
from kvlab.models.loading import LoadedModel, load
from kvlab.request import prompts
from kvlab.request.align import AlignSettings
from kvlab.request.inject import InjectSettings
from kvlab.results.function import data as results
from kvlab.results.function.data import Injection
from kvlab.shapes import KINDS

FIRST, SECOND, STUDENT = "demo/teacher", "demo/teacher-b", "demo/student"


@dataclass(frozen=True)
class Setting:
    name: str
    teachers: tuple[str, ...] = (FIRST,)
    settings: dict[str, Any] = field(default_factory=dict)


ONE_LAYER = {"layers": "depth"}
SETTINGS = {
    1: Setting("`floor`, ridge by class of row, keys before RoPE (default)"),
    2: Setting("one map, fitted on exact rows", settings={"rows": "exact"}),
    3: Setting("one map, fitted on exact rows; one teacher layer", settings={"rows": "exact", **ONE_LAYER}),
    4: Setting("one teacher layer", settings=ONE_LAYER),
    5: Setting("`linear` within the prefix (looks ahead there)", settings={"time": "linear"}),
    6: Setting("keys after RoPE", settings={"keys": "post-rope"}),
    7: Setting("structured projector", settings={"projector": "structured"}),
    8: Setting("group mean (nothing fitted)", settings={"projector": "group-mean"}),
    9: Setting("`demo/teacher-b` alone", teachers=(SECOND,)),
    10: Setting("two teachers, fused", teachers=(FIRST, SECOND)),
}
HEADER = ["settings", "source", "R² of K", "R² of V", "KL", "less own tokens", "ΔCE", "n"]


def measure(setting: Setting, loaded: dict[str, LoadedModel], folds: Sequence[int] = (0,)) -> Injection:
    """Run a functional test on the bundled samples, without swaps and texts, which the table does not show."""
    asked = InjectSettings(curve=(), swap_layers=0, texts=0)
    teachers = [loaded[name] for name in setting.teachers]
    align = AlignSettings(**setting.settings)
    return judge(teachers, loaded[STUDENT], prompts.samples(), align, asked, offline=True, folds=folds)


def lines(setting: Setting, injection: Injection) -> list[str]:
    """Format the rows of the Markdown table: one for each source, the projected cache first."""
    if not injection.reproduces:
        return [f"| {setting.name} | the own cache does not reproduce the logits |"]
    measured = {row.variant for row in injection.injected}
    return [
        line(setting if name == "projected" else None, injection, name)
        for name in ("projected", *results.COMPARED)
        if name in measured
    ]


def line(setting: Setting | None, injection: Injection, name: str) -> str:
    score, own = injection.score(name), injection.score("own-tokens")
    cells = [setting.name if setting else "", name]
    for kind in KINDS:
        errors = [head.error if name == "projected" else head.controls[name] for head in injection.projection]
        of_kind = [e for e, head in zip(errors, injection.projection) if head.kind == kind and isfinite(e)]
        cells.append(f"{1 - fmean(of_kind):.3f}")
    cells.append(_with_error(score.kl, score.kl_se))
    # Standard errors are of differences to the projected cache, so only its own difference has one.
    less = score.kl - own.kl
    cells.append(_with_error(less, own.kl_over_projected_se, "+") if name == "projected" else f"{less:+.3f}")
    cells.append(_with_error(score.delta_ce, score.delta_ce_se))
    return "| " + " | ".join([*cells, f"{score.n:,} ({score.documents})"]) + " |"


def _with_error(value: float, error: float, sign: str = "") -> str:
    return f"{value:{sign}.3f} ± {error:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser, every = run.parser("function", __doc__), ",".join(map(str, SETTINGS))
    parser.add_argument("--rows", default=every, metavar="1,2,..", help="which rows (default: all)")
    parser.add_argument("--folds", default=1, type=int, choices=range(1, 6), help="judged folds of 32 documents")
    options = parser.parse_args(arguments)
    transformers_logging.disable_progress_bar()
    loaded = {name: load(name, options.device) for name in (FIRST, SECOND, STUDENT)}
    about = run.print_surroundings(loaded[STUDENT].device)
    print("\n| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    rows = {}
    for number in map(int, options.rows.split(",")):
        injection = measure(SETTINGS[number], loaded, range(options.folds))
        print("\n".join(lines(SETTINGS[number], injection)), flush=True)
        rows[SETTINGS[number].name] = [asdict(row) for row in injection.injected]
    if options.out:
        run.write_json(options.out, {**about, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
