"""Read the functional test of a training run, and find the finished runs that are its controls."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kvlab.errors import KvlabError
from kvlab.request.settings import checked
from kvlab.request.train import TrainConfig
from kvlab.runs import monitor, store
from kvlab.runs.lenient import finite
from kvlab.runs.records import REPORT, Damage, Functional, Report

CONTROLS = ("ce-only", "shuffled-teacher", "random-teacher")  # the most telling first
VARIANTS = ("projected", "mean", "shuffled")  # of these the last two are controls
BY_DOCUMENT = "ce_by_document"  # of a held-out measurement: nats and predicted tokens of each document
NEWEST = 200  # runs to search for controls
APART = (
    "control",
    "functional",
    "eval_documents",
    "checkpoint_every",
    "checkpoint_minutes",
    "device",
    "log",
    "thresholds",
)  # may differ

Fields = dict[str, Any]


def read(functional: Any) -> Fields | None:
    """Return ``variants`` {variant: {"before" | "after" | "change": numbers}} and facts; None for a run without a test.

    ``functional``: of report.json. ``numbers`` are kl, kl_se, delta_ce, delta_ce_se; None if not measured.
    ``reproduces`` is False if the own cache failed to give the student's logits before or after.
    """
    test = Functional.of(functional)
    measured = [at for at in (test.before, test.after) if at is not None and at.model_fields_set]
    if not measured:
        return None

    def numbers(variants: object, name: str) -> Fields:
        return getattr(variants, name, Damage()).model_dump()

    last, differences = measured[-1], [at.own.largest_difference for at in measured]
    return {
        "variants": {
            name: {
                "before": numbers(test.before and test.before.variants, name),
                "after": numbers(test.after and test.after.variants, name),
                "change": numbers(test.change, name),
            }
            for name in VARIANTS
        },
        **{name: getattr(last, name) for name in ("documents", "n", "prefix", "share_replaced")},
        "reproduces": all(at.own.reproduces for at in measured),
        "largest_difference": max(differences) if None not in differences else None,
        "tolerance": last.own.tolerance,
    }


def measured(report: Report, when: str) -> Fields:
    """Return the held-out numbers "before" or "after" the training; empty until they are measured."""
    numbers = getattr(report, when)
    return numbers.model_dump(exclude_unset=True) if numbers is not None and numbers.model_fields_set else {}


@dataclass(frozen=True)
class Kin:
    """A finished run, as another run of the same settings sees it."""

    id: str
    control: str  # "none" for a run with teachers
    alike: str  # the settings that runs must share to be compared
    possible: tuple[str, ...]  # the controls that can be run with its settings
    report: Report

    def sums(self, when: str) -> dict[str, list[list[float]]]:
        """Return the held-out sums and tokens of each document, by measure; of older runs one mean, of one token."""
        found = {}
        numbers = measured(self.report, when)
        if (rows := _rows(numbers.get(BY_DOCUMENT), 0, 1)) or finite(numbers.get("ce")) is not None:
            found["ce"] = rows or [[numbers["ce"], 1]]
        test = getattr(self.report.functional, when) if self.report.functional else None
        if test and test.own.reproduces and (rows := _rows(test.by_document.get("projected"), 0, -1)):
            found["kl"] = rows
        return found

    def fields(self) -> Fields:
        numbers = {when: measured(self.report, when) for when in ("before", "after")}
        return {"id": self.id, "control": self.control, **numbers, "functional": read(self.report.functional)}


def _rows(rows: object, value: int, count: int) -> list[list[float]]:
    """Return a sum and its tokens per document; empty for anything damaged."""
    try:
        pairs = [[finite(row[value]), finite(row[count])] for row in rows]
    except (TypeError, LookupError):
        return []
    whole = all(number is not None and tokens for number, tokens in pairs)
    return pairs if whole else []


def kin_of(folder: Path) -> Kin | None:
    """Return a run that has measured its student before and after; None for any other."""
    try:
        file = (folder / REPORT).lstat()
    except OSError:
        return None
    return _kin(folder, file.st_mtime_ns, file.st_size)


@lru_cache(maxsize=4 * NEWEST)
def _kin(folder: Path, written: int, size: int) -> Kin | None:
    report = Report.read(folder / REPORT)
    control, config = report.config.get("control", "none"), report.config
    if not measured(report, "before") or not measured(report, "after") or not isinstance(control, str):
        return None
    return Kin(folder.name, control, alike(config), possible_controls(config), report)


def finished(root: Path) -> list[Kin]:
    """Return the newest runs that have measured their student before and after, newest first."""
    known = map(kin_of, store.listing(root)[:NEWEST])
    return [run for run in known if run is not None]


def controls_among(mine: Kin, runs: Sequence[Kin]) -> list[Kin]:
    """Return the newest of ``runs`` of each other control (for a control, also of ``none``) with the same settings."""
    newest: dict[str, Kin] = {}
    for run in runs:
        if mine.alike and run.alike == mine.alike and run.control != mine.control and run.id != mine.id:
            newest.setdefault(run.control, run)
    return [newest[name] for name in ("none", *CONTROLS) if name in newest]


def controls(folder: Path) -> list[Fields]:
    """Return the runs that are compared with this one: id, control, before, after, functional."""
    mine = kin_of(folder)
    return [run.fields() for run in controls_among(mine, finished(folder.parent))] if mine else []


def under_way(folder: Path, config: Fields) -> dict[str, str]:
    """Return the controls of a run that wait or run now: control -> id of its run."""
    found: dict[str, str] = {}
    mine = alike(config)
    for other in store.listing(folder.parent)[:NEWEST]:
        status = store.read_status(other)
        if other.name == folder.name or status.get("kind") != "training" or monitor.judge(status) not in store.ACTIVE:
            continue
        settings = store.read_config(other)
        if mine and alike(settings) == mine and settings.get("control") in CONTROLS:
            found.setdefault(settings["control"], other.name)
    return found


def possible_controls(config: Fields) -> tuple[str, ...]:
    """Return the controls that can be run with these settings, the most telling first."""
    possible = []
    for name in CONTROLS:
        with suppress(KvlabError):
            checked(TrainConfig, {**config, "control": name})
            possible.append(name)
    return tuple(possible)


def alike(config: Fields) -> str:
    """Return the settings that a run shares with its controls, as one text; empty for unreadable settings."""
    if not config or config.get("teachers") is None:
        return ""
    return json.dumps({name: value for name, value in config.items() if name not in APART}, sort_keys=True, default=str)
