"""What the functional test of a training run measured, and which finished runs are its controls."""

from pathlib import Path
from typing import Any

from kvlab.runs import store
from kvlab.runs.records import REPORT, Damage, Functional, Report

VARIANTS = ("projected", "mean", "shuffled")  # of these the last two are controls
NEWEST = 200  # runs that are looked at
APART = ("control", "functional", "eval_documents", "checkpoint_every", "device", "thresholds")  # may differ

Fields = dict[str, Any]


def read(functional: Any) -> Fields | None:
    """{variant: {"before" | "after" | "change": numbers}} and ``own``, ``documents``, ``n``; None for a run without.

    ``functional``: of report.json. ``numbers`` are kl, kl_se, delta_ce, delta_ce_se; None where not measured.
    ``reproduces``: False where at one of both times the own cache did not give the student's logits.
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
    """The held-out numbers "before" or "after" the training; empty while they are not measured."""
    numbers = getattr(report, when)
    return numbers.model_dump(exclude_unset=True) if numbers is not None and numbers.model_fields_set else {}


def controls(folder: Path, config: Fields) -> list[Fields]:
    """The newest run of each other control (``none`` for a run that is one itself): id, control, before, after."""
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
            told = {"before": before, "after": after, "functional": read(report.functional)}
            newest[control] = {"id": other.name, "control": control, **told}
    return [run for run in newest.values() if run]


def _settings(config: Fields) -> Fields:
    return {name: value for name, value in config.items() if name not in APART}
