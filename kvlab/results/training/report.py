"""Write the gathered report of a run as one HTML file without network, and as Markdown. The template has the words."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import plotly.graph_objects as go

from kvlab.host.memory import readable
from kvlab.language import Message, phrase, say, speaking
from kvlab.results.rendering import Quoted, render
from kvlab.results.training import figures, helps, words
from kvlab.results.training.records import VARIANTS
from kvlab.runs.lenient import finite
from kvlab.runs.records import Measured
from kvlab.runs.store import STATES
from kvlab.shapes import PHASES, phase_words

Fields = dict[str, Any]
MEASURED = ("ce", "kv_key", "kv_value")
CHECKS = {
    "heads": phrase("head projection 12 → 2"),
    "heads-dims": phrase("heads and dimensions 28 → 2, 128 → 64"),
    "resampling": phrase("time resampling 80 → 50"),
    "empty": phrase("edge case T = 0"),
    "one": phrase("edge case T = 1"),
    "integration": phrase("integration"),
    "overall": phrase("overall"),
}
OF_CONTROL = phrase("the run it controls")
CACHES = {"projected": phrase("projected"), "mean": phrase("mean (control)"), "shuffled": phrase("shuffled (control)")}


def html(report: Fields, language: str = "en") -> str:
    """Write the whole report of kvlab.results.training.facts.gather as HTML."""
    with speaking(language):
        return render("training.html.j2", **_values(report), **_figures(report))


def markdown(report: Fields, language: str = "en") -> str:
    """Write the whole report of kvlab.results.training.facts.gather as Markdown, without its figures."""
    with speaking(language):
        return render("training.md.j2", **_values(report)).rstrip("\n") + "\n"


def card(report: Fields, facts: Fields, language: str = "en") -> str:
    """Write the text of the model card of a run's student, from the same report.

    ``facts``: student, base, step, usage (a program that opens it), adapter (whether it is one).
    """
    with speaking(language):
        verdict = " ".join(_verdict_lines(report))
        teachers = [Quoted(name) for name in report["config"].get("teachers", ())]
        return render("card.md.j2", **_values(report), **facts, verdict=verdict, teachers=teachers)


def _values(report: Fields) -> Fields:
    """Return the template's values: the report, its words, and the rows of its tables."""
    run = report["run"]
    met = {criterion["name"]: criterion["met"] for criterion in report["criteria"]}
    return {
        **report,
        "counts": Measured.of(report["before"]),
        "title": say("Validation run {id}", id=run["id"]),
        "state": partial(_known, STATES),
        "mark": words.mark_words,
        "verdict_lines": [line.replace("**", "") for line in _verdict_lines(report)],
        "compared_rows": helps.rows(judged) if (judged := helps.read(report["helps"])) else [],
        "compared_of": helps.counted(judged) if judged else "",
        "met": lambda name: _met(met[name]),
        "yes": lambda value: None if value is None else say("yes" if value else "no"),
        "number": _number,
        "size": _size,
        "source": words.source_words,
        "limit": _limit(report),
        "memory_name": say(words.MEMORY_OF[(run["peak_memory"] or {}).get("of", "device")]),
        "milestone_rows": [
            (row["step"], *judged[:2], _number(row["loss"]), _size(row["memory"]), judged[2])
            for row, judged in zip(report["milestones"], map(_judged, report["milestones"]))
        ],
        "condition_rows": list(map(_judged, report["conditions"])),
        "held_out_rows": list(_held_out_rows(report)),
        "functional_rows": list(_functional_rows(report)) if report["functional"] else [],
        "runtime_errors": "; ".join(_ends(error.get("found")) for error in run["runtime_errors"]),
        "peak": _peak(run["peak_memory"]),
        "parameters": f"{report['trained_parameters']:,}" if report["trained_parameters"] is not None else None,
        "check_rows": [
            (say(CHECKS[row["name"]]), _met(row["passed"]), Quoted(row["remark"]) if row["remark"] else "")
            for row in report["checks"]["rows"]
        ],
        "failed_checks": "; ".join(f"{check['number']}: {check['error']}" for check in report["checks"]["failed"]),
        "part_rows": [(_part(part), _size(part["bytes"])) for part in (report["forecast"] or {}).get("parts", ())],
        "problems": [_problem(problem) for problem in report["problems"]],
        "data_notes": [[_stored_words(note)] for note in report["data_notes"]],
        "notes": (report["notes"] or "").strip(),
        "setting_rows": list(_setting_rows(report)),
    }


def _verdict_lines(report: Fields) -> list[str]:
    """Return whether the run helps and whether it runs, in Markdown."""
    judged = [*report["milestones"], *report["conditions"]]
    checkpoints = [row for row in judged if row["name"] in words.CHECKPOINTS]
    runs = words.verdict_words(report["run"]["verdict"], checkpoints, report["run"]["steps"])
    return [helps.lead(helps.read(report["helps"])), runs]


def _judged(row: Fields) -> tuple[str, str | None, Message]:
    """Return name, state and remark of a checkpoint."""
    return _known(words.CHECKPOINTS, row["name"]), words.mark_words(row["state"]), Message.read(row["words"])


def _held_out_rows(report: Fields) -> Iterator[tuple[object, ...]]:
    runs = [(say("this run"), report)]
    runs += [(_control(other), other) for other in report["controls"]]
    names = [*MEASURED, "kv_output"] if "kv_output" in report["before"] else MEASURED
    for label, run in runs:
        before, after = run["before"], run["after"]
        yield (label, *(f"{_number(before.get(name))} → {_number(after.get(name))}" for name in names))


def _functional_rows(report: Fields) -> Iterator[tuple[object, ...]]:
    for name in VARIANTS:
        yield (say(CACHES[name]), *_changes(report["functional"]["variants"][name]))
    for other in report["controls"]:
        if other["functional"] and other["functional"]["reproduces"]:
            label = Message("projected, {run}", run=_control(other))
            yield (label, *_changes(other["functional"]["variants"]["projected"]))


def _changes(variant: Fields) -> Iterator[str]:
    for name in ("kl", "delta_ce"):
        for when in ("before", "after", "change"):
            value, error = variant[when][name], variant[when][f"{name}_se"]
            sign = "" if name == "kl" and when != "change" else "+"
            words = "–" if value is None else f"{value:{sign}.4f}"
            yield words if error is None else f"{words} ± {error:.4f}"


def _control(other: Fields) -> Message:
    """Return the name of a run that is compared with this one."""
    if other["control"] == "none":
        return Message("KV run {id}", id=Quoted(other["id"]))
    return Message("control {control}: {id}", control=Quoted(other["control"]), id=Quoted(other["id"]))


def _setting_rows(report: Fields) -> Iterator[tuple[object, object]]:
    yield say("seed"), report["seed"]
    names = {"device": Quoted(report["place"]), "precision": Quoted(report["config"].get("precision"))}
    yield say("device"), Message("{device}, precision {precision}", **names) if report["place"] else None
    for name, value in (report["versions"] | report["config"]).items():
        if name != "seed":
            yield Quoted(name), None if value is None else Quoted(value)


def _known(table: Mapping[str, str], name: object) -> str:
    """Translate a name of ``table``; quote an unknown one."""
    return say(table[name]) if isinstance(name, str) and name in table else Quoted(name)


def _part(part: Fields) -> Message | str:
    known = _known(words.PARTS, part["name"])
    return Message("{part} ({model})", part=known, model=Quoted(part["model"])) if part.get("model") else known


def _stored_words(stored: object) -> str:
    """Translate a message of a run's file; quote the finished words of an older version."""
    message = Message.read(stored or "")
    text = _ends(message)
    return Quoted(text) if text and message.template == "{words}" else text


def _ends(stored: object) -> str:
    """Return the first and the last line of a message, without the log between them."""
    lines = str(Message.read(stored)).splitlines() or [""]
    return lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1]}"


def _problem(problem: Fields) -> Fields:
    error = problem["error"]
    found, remedy = (_stored_words(error[part]) if error.get(part) else None for part in ("found", "remedy"))
    return {**problem, "kind": str(error.get("kind", "–")), "found": found, "remedy": remedy}


def _peak(peak: Fields | None) -> Message | None:
    if peak is None:
        return None
    phase = phase_words(peak["phase"]) if peak["phase"] in PHASES else Quoted(peak["phase"] or "–")
    source = words.source_words(peak["source"], peak["of"])
    facts = {"used": readable(peak["bytes"]), "phase": phase, "source": source}
    if not peak["total"]:
        return Message("{used} while {phase} ({source})", **facts)
    total = readable(peak["total"])
    return Message("{used}, {share:.0%} of {total} while {phase} ({source})", share=peak["share"], total=total, **facts)


def _met(passed: bool | None) -> str | None:
    return None if passed is None else words.mark_words("pass" if passed else "fail")


def _number(value: object) -> str:
    return "–" if finite(value) is None else f"{value:.4f}"


def _size(value: object) -> str:
    return "–" if finite(value) is None else readable(value)


def _limit(report: Fields) -> float:
    return next(criterion["limit"] for criterion in report["criteria"] if criterion["name"] == "memory")


def drawn(report: Fields) -> dict[str, Callable[[], go.Figure | None]]:
    """Return functions that draw the figures of a report, by name; None: the run logged nothing for it."""
    named = {"loss": _loss, "memory": _memory, "router": _router, "held out": _held_out}
    return {name: partial(draw, report) for name, draw in named.items()}


def _figures(report: Fields) -> Fields:
    titles = {**figures.TITLES, "memory": figures.MEMORY_TITLES[report["series"]["memory"]["of"]]}
    return {"figures": drawn(report), "title_of": lambda name: say(titles[name]), "every": report["series"]["every"]}


def _loss(report: Fields) -> go.Figure | None:
    series = report["series"]
    return figures.loss_terms(series["step"], series["raw"], series["smooth"]) if series["raw"] else None


def _memory(report: Fields) -> go.Figure | None:
    series, peak = report["series"]["memory"], report["run"]["peak_memory"]
    if peak is None:
        return None
    limit = (_limit(report), peak["total"]) if peak["total"] else None
    baseline = (report["forecast"] or {}).get("baseline")
    return figures.memory(series["seconds"], series["bytes"], series["of"], limit, baseline)


def _router(report: Fields) -> go.Figure:
    teachers = report["config"].get("teachers")
    names = list(map(str, teachers)) if isinstance(teachers, list | tuple) else []
    return figures.router(report["series"]["step"], report["series"]["router"], names)


def compared(mine: Fields, others: Sequence[Fields]) -> list[tuple[str, Fields, Fields]]:
    """Return label, numbers before and numbers after of a run and of those it is compared with, for a figure."""
    runs = []
    for run in (mine, *others):
        label = say("this run") if run is mine else say(helps.REFERENCES.get(run["control"], OF_CONTROL))
        numbers = [dict(run[when]) for when in ("before", "after")]
        if run["functional"] and run["functional"]["reproduces"]:
            of_when = run["functional"]["variants"]["projected"]
            numbers = [values | {"kl": of_when[when]["kl"]} for values, when in zip(numbers, ("before", "after"))]
        runs.append((label, *numbers))
    return runs


def _held_out(report: Fields) -> go.Figure:
    return figures.held_out(compared(report, report["controls"]))
