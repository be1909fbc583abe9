"""Write an experiment as one HTML file without network, as Markdown and as JSON, and its tables for the page."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from kvlab.language import Message, phrase, plural, say, speaking
from kvlab.results.rendering import Quoted, render
from kvlab.results.training import figures
from kvlab.results.training.experiment import MEASURES
from kvlab.results.training.words import mark_words
from kvlab.results.words import sentences
from kvlab.runs import store

Fields = dict[str, Any]
REPORT_OF_FORM = {"md": "report.md", "html": "report.html", "json": "experiment.json"}
STATES = store.STATES | {"missing": phrase("not launched")}
ABOUT = phrase(
    "A difference is the first arm's number at the end minus the other arm's, of the same seed, on the same held-out "
    "text. Better and worse: its t interval excludes zero. No different: the interval lies within ± the margin. Else "
    "there are too few seeds; “more seeds to tell” would tell in 80 % of the cases if mean and spread stay. Each "
    "comparison stands for itself."
)
OTHER_TARGET = phrase("not compared: another target")


def text_of(report: Fields, form: str, language: str) -> str:
    """Return the report of kvlab.results.training.experiment.gather in a form, one of REPORT_OF_FORM."""
    if form == "json":
        return json.dumps(report, ensure_ascii=False, indent=1, default=lambda words: words.to_dict()) + "\n"
    with speaking(language):
        values = _values(report)
        if form == "md":
            return render("experiment.md.j2", **values).rstrip("\n") + "\n"
        drawn = {"figures": {"experiment": partial(figure, report)}, "title_of": lambda name: values["title"]}
        return render("experiment.html.j2", **values, **drawn, every=1)


def write(report: Fields, folder: Path, language: str = "en") -> list[Path]:
    """Write the report in every form into ``folder``; return the paths. Raises as store.disk_errors does."""
    with store.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for form, name in REPORT_OF_FORM.items():
            store.replace(folder / name, text_of(report, form, language).encode())
    return [folder / name for name in REPORT_OF_FORM.values()]


def figure(report: Fields) -> go.Figure | None:
    """Draw all measures; None while no run has ended."""
    words = {name: say(MEASURES[name][0]) for name in report["measures"]}
    return figures.experiment(report["judged"], report["measures"], words) if report["measures"] else None


def judging(report: Fields) -> str:
    """Say how many runs are over, and at which level and look the intervals stand."""
    over = sum(run["state"] in ("done", "failed") for run in report["runs"])
    failed = sum(run["state"] == "failed" for run in report["runs"])
    looks, number = report["looks"], len(report["looks"]["seeds"])
    parts = [say("{over} of {all} runs are over.", over=over, all=len(report["runs"]))]
    if failed:
        parts.append(plural(failed, "{n} of them failed.", "{n} of them failed."))
    level = {"level": looks["level"], "n": number, "planned": looks["planned"]}
    text = phrase("Intervals are of {level:.1%}: look {n} of {planned} planned.")
    if number > looks["planned"]:
        level["rate"] = looks["error_rate"]
        text = phrase(
            "Intervals are of {level:.1%}: look {n}, of which {planned} planned. With looks that nobody planned, up to "
            "{rate:.1%} of the comparisons without a difference are called different at one of them."
        )
    return sentences(*parts, say(text, **level))


def measured_on(report: Fields) -> str:
    """Say on how much held-out text the runs of a seed are measured."""
    counts = next((measure["n"] for measure in report["measures"].values()), {})
    return say(
        "Held out, of the first run: {documents} documents, {tokens} tokens, {rows} rows, {answers} answers. Other "
        "seeds have other documents, and all arms of a seed the same.",
        **{name: counts.get(name) for name in ("documents", "tokens", "rows", "answers")},
    )


def comparison_rows(report: Fields) -> Iterator[Fields]:
    """Yield one row per measure and other arm, in words."""
    for name, measure in report["measures"].items():
        for row in measure["comparisons"]:
            called = say(OTHER_TARGET) if row["other_target"] else call_words(row["call"])
            if row["unlike"]:
                called = say("{call}; other text in seeds {seeds}", call=called, seeds=row["unlike"])
            yield {
                "measure": say(MEASURES[name][0]),
                "against": row["against"],
                "difference": signed(row["mean"]),
                "interval": between(row),
                "n": row["n"],
                "margin": f"± {measure['margin']:g}",
                "call": called,
                "more": "–" if row["more"] is None else f"{row['more']}",
            }


def call_words(call: str | None) -> str:
    return say(call) if call else say("waits for all runs")


def signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}".replace("-", "−")


def between(row: Fields) -> str:
    return "–" if row["low"] is None else f"[{signed(row['low'])}, {signed(row['high'])}]"


def _values(report: Fields) -> Fields:
    counts = {run["id"] for run in report["runs"] if run["taken"]}
    rows = list(comparison_rows(report))
    return {
        **report,
        "title": say("Experiment {id}", id=report["id"]),
        "judging": judging(report),
        "about": say(ABOUT),
        "measured_on": measured_on(report),
        "taken": len(counts),
        "comparison_rows": [(row["measure"], Quoted(row["against"]), *list(row.values())[2:]) for row in rows],
        "arm_rows": list(_arm_rows(report)),
        "setting_rows": [(Quoted(arm), _settings(changes)) for arm, changes in report["arms"].items()],
        "run_rows": [_run_row(run) for run in report["runs"]],
    }


def _arm_rows(report: Fields) -> Iterator[tuple[object, ...]]:
    for name, measure in report["measures"].items():
        for arm in measure["arms"]:
            seeds = [f"{seed}: {signed(change)}" for seed, change in zip(arm["seeds"], arm["changes"])]
            words = say(MEASURES[name][0])
            yield words, Quoted(arm["arm"]), signed(arm["mean"]), between(arm), arm["n"], ", ".join(seeds) or None


def _settings(changes: Fields) -> Quoted | str:
    listed = [f"{name} {value}" for name, value in changes.items()]
    return Quoted(", ".join(listed)) if listed else say("none")


def _run_row(run: Fields) -> tuple[object, ...]:
    ce = [run[when].get("ce") for when in ("before", "after")]
    shown = "–" if None in ce else f"{ce[0]:.4f} → {ce[1]:.4f}"
    name: Quoted | Message | None = Quoted(run["id"]) if run["id"] else None
    if run["taken"]:
        name = Message("{run} (existed before)", run=name)
    return Quoted(run["arm"]), run["seed"], name, say(STATES[run["state"]]), shown, mark_words(run["verdict"])
