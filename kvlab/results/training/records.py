"""Read the functional test of a training run, and find the finished runs that are its controls."""

from pathlib import Path
from typing import Any

from kvlab.runs import store
from kvlab.runs.records import REPORT, Damage, Functional, Report

VARIANTS = ("projected", "mean", "shuffled")  # of these the last two are controls
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


def controls(folder: Path, config: Fields) -> list[Fields]:
    """Return the newest run of each other control (for a control, also of ``none``): id, control, before, after."""
    if not config or config.get("teachers") is None:
        return []
    mine, newest = _settings(config), {config.get("control", "none"): None}
    for other in store.listing(folder.parent)[:NEWEST]:
        if other.name == folder.name or len(newest) == 4:
            continue
        report = Report.read(other / REPORT)
        before, after = measured(report, "before"), measured(report, "after")
        control = report.config.get("control", "none")
        if not before or not after or not isinstance(control, str) or control in newest:
            continue
        if report.config and _settings(report.config) == mine:
            numbers = {"before": before, "after": after, "functional": read(report.functional)}
            newest[control] = {"id": other.name, "control": control, **numbers}
    return [run for run in newest.values() if run]


def _settings(config: Fields) -> Fields:
    return {name: value for name, value in config.items() if name not in APART}
