"""Measure how the settings of an alignment affect a student on the projected cache, beside the controls.

    python -m kvlab.bench.function                 # the table of docs/benchmarks.md, as Markdown
    python -m kvlab.bench.function --rows 1,2      # some of its rows

`linear` looks ahead. Here it reads the prefix alone, whose end it may know, but nothing of the continuation: an offline
diagnostic, which `python -m kvlab inject` refuses. All rows are judged on the same documents.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
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

FIRST, SECOND, STUDENT = "demo/teacher", "demo/teacher-b", "demo/student"


@dataclass(frozen=True)
class Setting:
    name: str
    teachers: tuple[str, ...] = (FIRST,)
    settings: dict[str, Any] = field(default_factory=dict)


SETTINGS = {
    1: Setting("`floor`, ridge, keys before RoPE (default)"),
    2: Setting("`linear` within the prefix (looks ahead there)", settings={"time": "linear"}),
    3: Setting("keys after RoPE", settings={"keys": "post-rope"}),
    4: Setting("structured projector", settings={"projector": "structured"}),
    5: Setting("group mean (nothing fitted)", settings={"projector": "group-mean"}),
    6: Setting("`demo/teacher-b` alone", teachers=(SECOND,)),
    7: Setting("two teachers, fused", teachers=(FIRST, SECOND)),
}
HEADER = ["settings", "KL", "ΔCE", *(f"KL {name}" for name in results.COMPARED), "n"]


def measure(setting: Setting, loaded: dict[str, LoadedModel]) -> Injection:
    """Run a functional test on the bundled samples, without swaps and texts, which the table does not show."""
    asked = InjectSettings(curve=(), swap_layers=0, texts=0)
    teachers = [loaded[name] for name in setting.teachers]
    align = AlignSettings(**setting.settings)
    return judge(teachers, loaded[STUDENT], prompts.samples(), align, asked, offline=True)


def line(setting: Setting, injection: Injection) -> str:
    """Format one row of the Markdown table."""
    if not injection.reproduces:
        return f"| {setting.name} | the own cache does not reproduce the logits |"
    projected = injection.score("projected")
    cells = [setting.name, _with_error(projected.kl, projected.kl_se)]
    cells.append(_with_error(projected.delta_ce, projected.delta_ce_se))
    cells += [f"{injection.score(name).kl:.3f}" for name in results.COMPARED]
    return "| " + " | ".join([*cells, f"{projected.n:,} ({projected.documents})"]) + " |"


def _with_error(value: float, error: float) -> str:
    return f"{value:.3f} ± {error:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser, every = run.parser("function", __doc__), ",".join(map(str, SETTINGS))
    parser.add_argument("--rows", default=every, metavar="1,2,..", help="which rows (default: all)")
    options = parser.parse_args(arguments)
    transformers_logging.disable_progress_bar()
    loaded = {name: load(name, options.device) for name in (FIRST, SECOND, STUDENT)}
    about = run.print_surroundings(loaded[STUDENT].device)
    print("\n| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    rows = {}
    for number in map(int, options.rows.split(",")):
        injection = measure(SETTINGS[number], loaded)
        print(line(SETTINGS[number], injection), flush=True)
        rows[SETTINGS[number].name] = [asdict(row) for row in injection.injected]
    if options.out:
        run.write_json(options.out, {**about, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
