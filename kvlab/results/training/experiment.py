"""Judge an experiment: arms against the first one, paired by seed, for every measure that both arms have.

Nothing is called before the current look is complete: looking at a part and stopping when it looks good would call
differences that are none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kvlab.language import Message, phrase
from kvlab.request.experiment import Experiment
from kvlab.results import paired
from kvlab.results.paired import BETTER, SAME, TOO_FEW, WORSE
from kvlab.results.training import records
from kvlab.runs import experiment as experiments
from kvlab.runs import store
from kvlab.runs.lenient import finite
from kvlab.runs.records import REPORT, VERDICT, Report, Verdict

Fields = dict[str, Any]

# By measure: its words, and whether less of it is better.
MEASURES = {
    "ce": (phrase("held-out cross-entropy (nats per token)"), True),
    "kl": (phrase("functional KL on the projected cache (nats per token)"), True),
    "accuracy": (phrase("right answers (share of held-out documents that have one)"), False),
    "kv_key": (phrase("KV error of keys (target variances)"), True),
    "kv_value": (phrase("KV error of values (target variances)"), True),
    "kv_output": (phrase("KV error of head outputs (own variances)"), True),
}
# Arms that differ in these have other targets, so that their KV errors cannot be compared.
TARGETS = ("teachers", "map", "time", "layers", "row_weights", "sinks", "use_kv_projector", "use_safe_resample")
TARGETS += ("fusion", "fusion_weights", "fusion_temperature", "fit_documents")
HELPS, HELPS_NOT, UNKNOWN = "helps", "helps not", "unknown"


def gather(folder: Path) -> Fields:
    """Return everything that a page, a report and JSON show of an experiment. Raises as experiments.read."""
    experiment = experiments.read(folder)
    states = experiments.states(folder, experiment)
    configs = experiment.configs()
    runs = [_run(folder, experiment, arm, seed, state) for (arm, seed), state in states.items()]
    over = all(run["state"] in ("done", "failed") for run in runs)
    looks = len(experiment.plans) if over else len(experiment.plans) - 1
    level = paired.level_of(len(experiment.plans), experiment.looks)
    first = experiment.seeds[0]
    of = {arm: configs[first, arm] for arm in experiment.arms}
    measures = {}
    for measure in MEASURES:
        if any(run["after"].get(measure) is not None for run in runs):
            measures[measure] = _measure(measure, experiment, runs, of, level, over)
    report = {
        "id": folder.name,
        "name": experiment.name or folder.name,
        "created": experiment.created,
        "judged": experiment.judged,
        "arms": experiment.arms,
        "controls": [arm for arm in of if of[arm].control not in ("none", of[experiment.judged].control)],
        "seeds": list(experiment.seeds),
        "looks": {
            "taken": looks,
            "planned": experiment.looks,
            "level": level,
            "error_rate": paired.error_rate(len(experiment.plans), experiment.looks),
            "seeds": [list(plan) for plan in experiment.plans],
        },
        "over": over,
        "runs": runs,
        "measures": measures,
        "settings": experiment.settings,
        "versions": _versions(runs),
    }
    return report | {"verdict": verdict(report)}


def _run(folder: Path, experiment: Experiment, arm: str, seed: int, state: str) -> Fields:
    run_id = experiment.runs.get(arm, {}).get(seed)
    at = folder.parent.parent / run_id if run_id and state != "missing" else None
    report = Report.read(at / REPORT) if at else Report()
    numbers = {when: records.measured(report, when) for when in ("before", "after")}
    function = records.read(report.functional)
    for when, values in numbers.items():
        if values and function and function["reproduces"]:
            values["kl"] = function["variants"]["projected"][when]["kl"]
    return {
        "arm": arm,
        "seed": seed,
        "id": run_id,
        "state": state,
        "taken": run_id in experiment.taken,
        "verdict": Verdict.read(at / VERDICT).state if at else None,
        "versions": report.versions,
        **numbers,
    }


def _measure(
    measure: str, experiment: Experiment, runs: Sequence[Fields], configs: Fields, level: float, over: bool
) -> Fields:
    lower, margin, judged = MEASURES[measure][1], experiment.margin(measure), experiment.judged
    arms, comparisons = [], []
    for arm in experiment.arms:
        changes = dict(_changes(measure, arm, runs))
        arms.append({"arm": arm, "seeds": list(changes), "changes": list(changes.values()), **_summary(changes, level)})
        if arm == judged:
            continue
        apart = _other_target(measure, configs[judged], configs[arm])
        differences, unlike = _differences(measure, judged, arm, runs)
        found = paired.interval(list(differences.values()), level) if len(differences) > 1 else None
        called, more = None, None
        if over and not apart:
            called = paired.call(found, margin, lower) if found else TOO_FEW
        if called == TOO_FEW and found:
            following = paired.level_of(len(experiment.plans) + 1, experiment.looks)
            more = paired.more_pairs(found, margin, following)
        comparisons.append(
            {
                "against": arm,
                "seeds": list(differences),
                "differences": list(differences.values()),
                "unlike": unlike,
                "other_target": apart,
                **_summary(differences, level),
                "call": called,
                "more": more,
            }
        )
    n = next((run["before"] for run in runs if run["before"].get(measure) is not None), {})
    counts = {name: n.get(name) for name in ("documents", "tokens", "rows", "answers")}
    return {"lower_is_better": lower, "margin": margin, "n": counts, "arms": arms, "comparisons": comparisons}


def _summary(numbers: dict[int, float], level: float) -> Fields:
    if not numbers:
        return {"n": 0, "level": level, **dict.fromkeys(("mean", "sd", "low", "high"))}
    found = asdict(paired.interval(list(numbers.values()), level))
    return {name: value if name == "n" else finite(value) for name, value in found.items()}


def _changes(measure: str, arm: str, runs: Sequence[Fields]) -> Iterator[tuple[int, float]]:
    """Yield seed and after − before of every finished run of an arm."""
    for run in runs:
        numbers = finite(run["before"].get(measure)), finite(run["after"].get(measure))
        if run["arm"] == arm and run["state"] == "done" and None not in numbers:
            yield run["seed"], numbers[1] - numbers[0]


def _differences(measure: str, judged: str, other: str, runs: Sequence[Fields]) -> tuple[dict[int, float], list[int]]:
    """Return judged − other at the end by seed, and the seeds whose two runs were measured on other text."""
    of = {(run["arm"], run["seed"]): run for run in runs if run["state"] == "done"}
    differences, unlike = {}, []
    for arm, seed in of:
        if arm != judged or (other, seed) not in of:
            continue
        pair = of[judged, seed], of[other, seed]
        values = [finite(run["after"].get(measure)) for run in pair]
        if None in values:
            continue
        if len({(run["after"].get("documents"), run["after"].get("tokens")) for run in pair}) > 1:
            unlike.append(seed)
        else:
            differences[seed] = values[0] - values[1]
    return differences, unlike


def _other_target(measure: str, judged: Any, other: Any) -> bool:
    if not measure.startswith("kv_"):
        return False
    random = "random-teacher" in (judged.control, other.control)  # evaluated against the random teacher, too
    return random or any(getattr(judged, name) != getattr(other, name) for name in TARGETS)


def _versions(runs: Sequence[Fields]) -> list[Fields]:
    """Return the different versions that made the finished runs; one, if all are alike."""
    found: list[Fields] = []
    for run in runs:
        if run["state"] == "done" and run["versions"] not in found:
            found.append(run["versions"])
        run.pop("versions")
    return found


def verdict(report: Fields) -> Fields | None:
    """Judge whether the judged arm helps: lower held-out cross-entropy than every control, and than its own start.

    Returns ``state`` (HELPS, HELPS_NOT, UNKNOWN) and ``words`` as a Message; None without controls.
    """
    controls, measure = report["controls"], report["measures"].get("ce")
    if not controls:
        return None
    if not report["over"]:
        left = sum(run["state"] not in ("done", "failed") for run in report["runs"])
        words = Message.plural(
            left,
            "Not judged yet: {n} of {all} runs is not over. Nothing is called before all are.",
            "Not judged yet: {n} of {all} runs are not over. Nothing is called before all are.",
            all=len(report["runs"]),
        )
        return {"state": UNKNOWN, "words": words}
    rows = [c for c in (measure or {}).get("comparisons", ()) if c["against"] in controls]
    of = {called: [row for row in rows if row["call"] == called] for called in (BETTER, SAME, WORSE, TOO_FEW)}
    if of[WORSE] or of[SAME]:
        parts = [_against(row) for row in (*of[WORSE], *of[SAME])]
        return {"state": HELPS_NOT, "words": Message("It does not help: {parts}.", parts=parts)}
    if not rows or of[TOO_FEW]:
        parts = [_against(row) for row in of[TOO_FEW]]
        words = Message("Too few seeds to say whether it helps: {parts}.", parts=parts)
        return {"state": UNKNOWN, "words": words if parts else Message("No run was measured.")}
    own = next(arm for arm in measure["arms"] if arm["arm"] == report["judged"])
    start = {name: own[name] for name in ("mean", "low", "high", "n")}
    parts = [_against(row) for row in rows]
    if own["high"] is not None and own["high"] < 0:
        text = phrase("It helps: {parts}, and {mean:+.4f} [{low:+.4f}, {high:+.4f}] from its own start.")
        return {"state": HELPS, "words": Message(text, parts=parts, **start)}
    text = phrase(
        "It beats its controls ({parts}), but the student does not get better than it was: {mean:+.4f} [{low:+.4f}, "
        "{high:+.4f}] from its start."
    )
    return {"state": HELPS_NOT, "words": Message(text, parts=parts, **start)}


def _against(row: Fields) -> Message:
    """Say one comparison of cross-entropies."""
    values = {name: row[name] for name in ("mean", "low", "high", "n")}
    texts = {
        BETTER: phrase("better than {against} by cross-entropy ({mean:+.4f} [{low:+.4f}, {high:+.4f}], n = {n} seeds)"),
        SAME: phrase("no different from {against} ({mean:+.4f} [{low:+.4f}, {high:+.4f}], n = {n} seeds)"),
        WORSE: phrase("worse than {against} ({mean:+.4f} [{low:+.4f}, {high:+.4f}], n = {n} seeds)"),
        TOO_FEW: phrase("against {against} {mean:+.4f} [{low:+.4f}, {high:+.4f}], n = {n} seeds"),
    }
    return Message(texts[row["call"]], against=row["against"], **values)


def of_run(runs: Path, run_id: str) -> tuple[str, Fields] | None:
    """Return id and verdict of the newest experiment that judges a run, one of its judged arm; else None."""
    for folder, experiment in experiments.of_run(runs, run_id):
        if run_id in experiment.runs.get(experiment.judged, {}).values() and store.valid_id(folder.name):
            found = gather(folder)["verdict"]
            if found:
                return folder.name, found
    return None
