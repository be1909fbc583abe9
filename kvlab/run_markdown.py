"""The gathered report of a run in words: Markdown with the founding checklist's two tables and its report.

It knows no word itself: they are in kvlab.run_words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvlab.memory import readable
from kvlab.run_words import WORDS

Fields = dict[str, Any]


def markdown(report: Fields, language: str = "en") -> str:
    """The whole report of kvlab.run_report.gather."""
    return _Writer(WORDS[language]).write(report)


class _Writer:
    def __init__(self, words: dict[str, str]):
        self.words = words

    def write(self, report: Fields) -> str:
        w, run = self.words, report["run"]
        summary = w["summary"].format(
            state=run["state"],
            verdict=run["verdict"] or w["unknown"],
            done=run["steps_done"],
            steps=_or(run["steps"], w["unknown"]),
        )
        parts = [
            f"# {w['title'].format(id=run['id'])}",
            summary,
            f"## {w['success']}",
            self.criteria(report["criteria"]),
            f"## {w['checks']}",
            self.checks(report["checks"]),
            f"## {w['run']}",
            self.milestones(report["milestones"], (run["peak_memory"] or {}).get("of", "device")),
            self.conditions(report["conditions"]),
            f"## {w['report']}",
            self.fields(report),
            f"## {w['problems']}",
            self.problems(report["problems"], report["unreadable_lines"]),
            *([f"## {w['notes']}", report["notes"].strip()] if report["notes"] else []),
            f"## {w['again']}",
            f"```bash\n{report['command']}\n```",
            f"## {w['settings']}",
            self.settings(report),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def criteria(self, criteria: Sequence[Fields]) -> str:
        w = self.words
        lines = (f"- {self.state(c['met'])}: {w['criterion ' + c['name']].format(**c)}" for c in criteria)
        return "\n".join(lines)

    def checks(self, checks: Fields) -> str:
        w = self.words
        if checks["passed"] is None and not checks["rows"]:
            return w["not run"]
        rows = [(w[row["name"]], self.state(row["passed"]), row["remark"]) for row in checks["rows"]]
        failed = "; ".join(f"{f['number']}: {f['error']}" for f in checks["failed"]) or w["none"]
        facts = [(w["time run"], checks["time"]), (w["all passed"], self.yes(checks["passed"]))]
        return "\n\n".join(
            [
                _table((w["check"], w["status"], w["remark"]), rows),
                _table((w["field"], w["value"]), [*facts, (w["failed ones"], failed)]),
            ]
        )

    def milestones(self, milestones: Sequence[Fields], of: str) -> str:
        w = self.words
        names = (w["step"], w["checked"], w["status"], w["loss"], w[f"memory {of}"], w["remark"])
        return _table(
            names,
            [
                (
                    _or(row["step"], w["unknown"]),
                    row["name"],
                    w.get(str(row["state"]), w["unknown"]),
                    self.number(row["loss"]),
                    readable(row["memory"]) if row["memory"] is not None else w["unknown"],
                    row["remark"],
                )
                for row in milestones
            ],
        )

    def conditions(self, conditions: Sequence[Fields]) -> str:
        w = self.words
        if not conditions:
            return ""
        rows = [(c.get("name"), w.get(str(c.get("state")), w["unknown"]), c.get("words")) for c in conditions]
        return f"### {w['conditions']}\n\n" + _table((w["condition"], w["status"], w["remark"]), rows)

    def fields(self, report: Fields) -> str:
        w, run = self.words, report["run"]
        errors = "; ".join(str(error.get("found")) for error in run["runtime_errors"]) or w["none"]
        before, after = report["before"].get("ce"), report["after"].get("ce")
        tokens = run["tokens_per_s"]
        rows = [
            (w["start"], run["started"]),
            (w["end"], run["ended"]),
            (w["runtime error"], errors),
            (w["first loss"], self.number(run["first_loss"])),
            (w["final loss"], self.number(run["final_loss"])),
            (w["peak"], self.peak(run["peak_memory"])),
            (w["all steps"].format(steps=_or(run["steps"], "")), self.yes(run["all_steps_done"])),
            (w["throughput"], w["tokens"].format(tokens=tokens) if tokens else None),
            (w["heldout"], f"{self.number(before)} → {self.number(after)}" if before is not None else None),
        ]
        return _table((w["field"], w["value"]), [(name, _or(value, w["unknown"])) for name, value in rows])

    def peak(self, peak: Fields | None) -> str | None:
        if peak is None:
            return None
        w = self.words
        share = w["of total"].format(share=peak["share"], total=readable(peak["total"])) if peak["total"] else ""
        words = w["peak value"].format(gb=peak["gb"], share=share, phase=peak["phase"] or w["unknown"])
        return f"{words} ({peak['source'] or w['memory ' + peak['of']]})"

    def problems(self, problems: Sequence[Fields], garbage: int) -> str:
        w = self.words
        lines = []
        for problem in problems:
            error, solved = problem["error"], problem["solved"]
            known = {"kind": error.get("kind", w["unknown"]), "found": _ends(error.get("found", w["unknown"]))}
            line = f"1. {w['problem'].format(state=problem['state'], **known)}"
            if solved is None:
                line += f"\n   {w['open'].format(remedy=_one_line(error.get('remedy', w['unknown'])))}"
            else:
                step = w["from step"].format(step=solved["from_step"]) if solved["from_step"] is not None else ""
                line += f"\n   {w['resumed'].format(when=solved['resumed'], step=step)}"
            lines.append(line)
        said = "\n".join(lines) or w["no problems"]
        return said + (f"\n\n{w['garbage'].format(count=garbage)}" if garbage else "")

    def settings(self, report: Fields) -> str:
        w = self.words
        rows = [("seed", report["seed"]), ("device", report["device"]), *report["versions"].items()]
        rows += [(name, value) for name, value in report["config"].items() if name != "seed"]
        return _table((w["field"], w["value"]), [(name, _or(value, w["unknown"])) for name, value in rows])

    def state(self, passed: bool | None) -> str:
        return self.words["unknown" if passed is None else "pass" if passed else "fail"]

    def yes(self, value: bool | None) -> str:
        return self.words["unknown" if value is None else "yes" if value else "no"]

    def number(self, value: object) -> str:
        return f"{value:.4f}" if isinstance(value, int | float) else self.words["unknown"]


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(_one_line(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _ends(text: object) -> str:
    """The first and the last line: between them stands a log."""
    lines = str(text).splitlines() or [""]
    return _one_line(lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1]}")


def _one_line(value: object) -> str:
    return " ".join(str(value).split())


def _or(value: object, otherwise: str) -> Any:
    return otherwise if value is None else value
