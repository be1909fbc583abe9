"""Turn the gathered report of a run into its sections in one language, for the Markdown and the HTML report.

The verdict's remarks are written in English; other languages say them from their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kvlab.host.memory import readable
from kvlab.results.training.blocks import Block, Figure, Heading, Items, Paragraph, Quoted, Table, Text, Verbatim, fill
from kvlab.results.training.chinese import NOT_LOADED, NOT_REACHED, REMARKS, REMEDIES
from kvlab.results.training.records import VARIANTS
from kvlab.results.training.words import WORDS

Fields = dict[str, Any]
SOURCES = {"this process": "source process", "NVML": "source nvml", "CUDA": "source cuda"}  # by their first words
TERMS = ("ce", "kv_key", "kv_value")


def sections(report: Fields, language: str = "en") -> list[Block]:
    """Everything in the report of kvlab.results.training.facts.gather. ``language``: "en" or "zh"."""
    return list(_Sections(report, language))


def source_words(source: object, of: str, words: dict[str, str]) -> Text:
    """How a memory was measured, in the words of the report."""
    known = next((name for begin, name in SOURCES.items() if str(source or "").startswith(begin)), None)
    return words[known] if known else Quoted(str(source)) if source else words[f"memory {of}"]


class _Sections:
    def __init__(self, report: Fields, language: str):
        self.report, self.run, self.language = report, report["run"], language
        self.words = WORDS[language]

    def __iter__(self) -> Iterator[Block]:
        w, report, run = self.words, self.report, self.run
        yield Heading(fill(w["title"], id=Quoted(run["id"])), level=1)
        if run["name"] != run["id"]:
            yield Paragraph(fill(w["name"], name=Quoted(run["name"])))
        yield Paragraph(
            fill(
                w["summary"],
                state=self.known("state", run["state"]),
                verdict=w.get(str(run["verdict"]), w["unknown"]),
                done=run["steps_done"],
                steps=_or(run["steps"], w["unknown"]),
            )
        )
        control = report["config"].get("control")
        if control not in (None, "none"):
            yield Paragraph(fill(w["control"], control=Quoted(str(control))))
        yield Heading(w["success"])
        yield Items([[self.criterion(c)] for c in report["criteria"]])
        yield Heading(w["run"])
        yield self.milestones(report["milestones"])
        if report["conditions"]:
            yield Heading(w["conditions"], level=3)
            yield self.conditions(report["conditions"])
        yield Figure("loss")
        yield Figure("memory")
        if report["series"]["router"]:
            yield Figure("router")
        yield Heading(w["held out"])
        yield from self.held_out()
        yield from blocks(report, w)
        yield Heading(w["report"])
        yield self.fields()
        yield Heading(w["checks"])
        yield from self.checks(report["checks"])
        yield Heading(w["forecast"])
        yield from self.forecast(report["forecast"])
        yield Heading(w["problems"])
        yield from self.problems(report["problems"], report["unreadable_lines"])
        if report["data_notes"]:
            yield Heading(w["data notes"], level=3)
            yield Items([[Quoted(note)] for note in report["data_notes"]])
        if report["notes"] and report["notes"].strip():
            yield Heading(w["notes"])
            yield Verbatim(report["notes"].strip())
        yield Heading(w["again"])
        yield Verbatim(report["command"], "bash")
        yield Heading(w["settings"])
        yield self.settings()

    # --- the checklist's tables ------------------------------------------------------------------------------

    def criterion(self, criterion: Fields) -> Text:
        words = self.words[f"criterion {criterion['name']}"]
        return (self.state(criterion["met"]), self.words["colon"], *fill(words, **criterion))

    def checks(self, checks: Fields) -> Iterator[Block]:
        w = self.words
        if checks["passed"] is None and not checks["rows"]:
            command = Quoted(f"python -m kvlab runs report {self.run['id']} --checks")
            yield Paragraph(fill(w["not run"], command=command))
            return
        rows = [(w[r["name"]], self.state(r["passed"]), self.quoted(r["remark"])) for r in checks["rows"]]
        yield Table((w["check"], w["status"], w["remark"]), rows)
        failed = "; ".join(f"{f['number']}: {f['error']}" for f in checks["failed"])
        facts = [
            (w["time run"], _or(checks["time"], w["unknown"])),
            (w["all passed"], self.yes(checks["passed"])),
            (w["failed ones"], Quoted(failed) if failed else w["none"]),
        ]
        yield Table((w["field"], w["value"]), facts)

    def milestones(self, milestones: Sequence[Fields]) -> Table:
        w, of = self.words, (self.run["peak_memory"] or {}).get("of", "device")
        names = (w["step"], w["checked"], w["status"], w["loss"], w[f"memory {of}"], w["remark"])
        rows = [
            (
                str(_or(row["step"], w["unknown"])),
                self.checkpoint(row["name"]),
                w.get(str(row["state"]), w["unknown"]),
                self.number(row["loss"]),
                self.size(row["memory"]),
                self.remark({**row["judged"], "name": row["name"], "step": row["step"], "state": row["state"]}),
            )
            for row in milestones
        ]
        return Table(names, rows)

    def conditions(self, conditions: Sequence[Fields]) -> Table:
        w = self.words
        rows = [(self.checkpoint(c.get("name")), w.get(str(c.get("state")), w["unknown"]), self.remark(c))
                for c in conditions]  # fmt: skip
        return Table((w["condition"], w["status"], w["remark"]), rows)

    def remark(self, checkpoint: Fields) -> Text:
        return remark(checkpoint, self.language)

    def fields(self) -> Table:
        w, run = self.words, self.run
        errors = "; ".join(str(error.get("found")) for error in run["runtime_errors"])
        tokens, counts = run["tokens_per_s"], self.report["documents"]
        rows = [
            (w["start"], run["started"]),
            (w["end"], run["ended"]),
            (w["runtime error"], Quoted(_ends(errors)) if errors else w["none"]),
            (w["first loss"], self.number(run["first_loss"])),
            (w["final loss"], self.number(run["final_loss"])),
            (w["peak"], self.peak(run["peak_memory"])),
            (w["all steps"].format(steps=_or(run["steps"], "")), self.yes(run["all_steps_done"])),
            (w["throughput"], w["tokens"].format(tokens=tokens) if tokens else None),
            (w["trained parameters"], f"{n:,}" if (n := self.report["trained_parameters"]) is not None else None),
            (w["documents"], fill(w["documents value"], **counts) if counts else None),
        ]
        return Table((w["field"], w["value"]), [(name, _or(value, w["unknown"])) for name, value in rows])

    def peak(self, peak: Fields | None) -> Text | None:
        if peak is None:
            return None
        w = self.words
        share = w["of total"].format(share=peak["share"], total=readable(peak["total"])) if peak["total"] else ""
        phase = self.known("phase", peak["phase"]) if peak["phase"] else w["unknown"]
        source = source_words(peak["source"], peak["of"], w)
        return fill(w["peak value"], used=readable(peak["bytes"]), share=share, phase=phase, source=source)

    # --- what else the run told ------------------------------------------------------------------------------

    def held_out(self) -> Iterator[Block]:
        w, before = self.words, self.report["before"]
        if not before:
            yield Paragraph(w["not evaluated"])
            return
        counts = {name: _or(before.get(name), w["unknown"]) for name in ("documents", "tokens", "rows")}
        yield Paragraph(fill(w["held out words"], **counts))
        runs = [{"label": w["this run"], "before": before, "after": self.report["after"]}]
        for other in self.report["controls"]:
            label = w["none run"] if other["control"] == "none" else w["control run"]
            names = {"control": Quoted(other["control"]), "id": Quoted(other["id"])}
            runs.append({**other, "label": fill(label, **names)})
        rows = [(run["label"], *(self.change(run, term) for term in TERMS)) for run in runs]
        yield Table((w["run"], *(w[term] for term in TERMS)), rows)
        if not self.report["controls"]:
            yield Paragraph(w["no control"])
        yield Figure("held out")

    def change(self, run: Fields, term: str) -> str:
        before, after = (numeric(run[when].get(term)) for when in ("before", "after"))
        return f"{self.number(before)} → {self.number(after)}"

    def forecast(self, forecast: Fields | None) -> Iterator[Block]:
        w = self.words
        if forecast is None:
            yield Paragraph(w["no forecast"])
            return
        sizes = {name: readable(forecast[name]) for name in ("lower", "upper")}
        said = fill(w["forecast words"], forecast=readable(forecast["total"]), tokens=forecast["tokens"], **sizes)
        if forecast["growth"] is None:
            yield Paragraph((*said, w["forecast unmeasured"]))
        else:
            sizes = {name: readable(forecast[name]) for name in ("peak", "baseline", "growth")}
            source = source_words(forecast["source"], "process", w)
            yield Paragraph((*said, *fill(w["forecast measured"], ratio=forecast["ratio"], source=source, **sizes)))
        rows = [(self.known("part", p["name"], p.get("model")), readable(p["bytes"])) for p in forecast["parts"]]
        yield Table((w["part"], w["size"]), rows)

    def problems(self, problems: Sequence[Fields], garbage: int) -> Iterator[Block]:
        w, items = self.words, []
        for problem in problems:
            error, solved = problem["error"], problem["solved"]
            kind, found = (Quoted(_ends(error.get(key, w["unknown"]))) for key in ("kind", "found"))
            lines = [fill(w["problem"], state=self.known("state", problem["state"]), kind=kind, found=found)]
            if solved is None:
                lines.append(fill(w["open"], remedy=self.remedy(error)))
            else:
                step = w["from step"].format(step=solved["from_step"]) if solved["from_step"] is not None else ""
                lines.append(fill(w["resumed"], when=str(solved["resumed"]), step=step))
            items.append(lines)
        yield Items(items, numbered=True) if items else Paragraph(w["no problems"])
        if garbage:
            yield Paragraph(w["garbage"].format(count=garbage))

    def remedy(self, error: Fields) -> Text:
        said = str(error.get("remedy", self.words["unknown"]))
        if self.language == "en":
            return said
        known = REMEDIES.get(str(error.get("kind")))
        return fill("{known}（{said}）", known=known, said=Quoted(said)) if known else Quoted(said)

    def settings(self) -> Table:
        w, report = self.words, self.report
        place = report["place"]
        names = {"device": Quoted(str(place)), "precision": Quoted(str(report["config"].get("precision")))}
        rows: list[tuple[Text, Text]] = [
            (w["seed"], str(_or(report["seed"], w["unknown"]))),
            (w["device"], fill(w["on device"], **names) if place else w["unknown"]),
        ]
        others = {name: value for name, value in report["config"].items() if name != "seed"}
        rows += [
            (Quoted(str(name)), Quoted(str(value)) if value is not None else w["unknown"])
            for name, value in (report["versions"] | others).items()
        ]
        return Table((w["setting"], w["value"]), rows)

    # --- words -----------------------------------------------------------------------------------------------

    def known(self, kind: str, name: object, model: object = None) -> Text:
        """A state, phase or part by its word, or to the letter."""
        word = self.words.get(f"{kind} {name}") or Quoted(str(name))
        return fill("{word} ({model})", word=word, model=Quoted(str(model))) if model else word

    def checkpoint(self, name: object) -> Text:
        return self.known("checkpoint", name)

    def state(self, passed: bool | None) -> str:
        return self.words["unknown" if passed is None else "pass" if passed else "fail"]

    def yes(self, value: bool | None) -> str:
        return self.words["unknown" if value is None else "yes" if value else "no"]

    def number(self, value: object) -> str:
        return f"{value:.4f}" if numeric(value) is not None else self.words["unknown"]

    def size(self, value: object) -> str:
        return readable(value) if numeric(value) is not None else self.words["unknown"]

    def quoted(self, text: str) -> Text:
        return Quoted(text) if text else ""


def _ends(text: object) -> str:
    """The first and the last line: between them stands a log."""
    lines = str(text).splitlines() or [""]
    return lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1]}"


def _or(value: Any, otherwise: str) -> Any:
    return otherwise if value is None else value


Fields = dict[str, Any]
WHEN = ("before", "after", "change")
OF = ("kl", "delta_ce")


def blocks(report: Fields, words: Mapping[str, str]) -> Iterator[Block]:
    """Nothing for a run that was not asked for the test. ``report``: of kvlab.results.training.facts.gather."""
    found = report["functional"]
    if found is None and report["config"].get("functional") is not True:
        return
    yield Heading(words["functional"])
    if found is None:
        yield Paragraph(words["not evaluated"])
    elif not found["reproduces"]:
        numbers = {name: _number(found[name], "{:.1e}", words) for name in ("largest_difference", "tolerance")}
        yield Paragraph(fill(words["functional unsure"], **numbers))
    elif not found["documents"]:
        yield Paragraph(words["functional too short"])
    else:
        yield Paragraph(_about(found, words))
        names = [fill(words[of], when=words[f"functional {when}"]) for of in OF for when in WHEN]
        yield Table((words["functional cache"], *names), list(_rows(report, words)))


def _about(found: Fields, words: Mapping[str, str]) -> Text:
    counts = {name: str(found[name]) for name in ("documents", "n")}
    shares = {name: _number(found[name], "{:.0%}", words) for name in ("prefix", "share_replaced")}
    own = {name: _number(found[name], "{:.0e}", words) for name in ("largest_difference", "tolerance")}
    return fill(words["functional words"], **counts, **shares, **own)


def _rows(report: Fields, words: Mapping[str, str]) -> Iterator[tuple[Text, ...]]:
    for name in VARIANTS:
        yield (words[f"cache {name}"], *_cells(report["functional"]["variants"][name], words))
    for other in report["controls"]:
        if other["functional"] and other["functional"]["reproduces"]:
            label = words["none run"] if other["control"] == "none" else words["control run"]
            label = fill(label, control=Quoted(other["control"]), id=Quoted(other["id"]))
            told = fill(words["cache of"], run=label)
            yield (told, *_cells(other["functional"]["variants"]["projected"], words))


def _cells(told: Fields, words: Mapping[str, str]) -> list[str]:
    cells = []
    for of in OF:
        for when in WHEN:
            value, error = told[when][of], told[when][f"{of}_se"]
            form = "{:.4f}" if of == "kl" and when != "change" else "{:+.4f}"
            cells.append(_number(value, form, words) + (f" ± {error:.4f}" if error is not None else ""))
    return cells


def _number(value: float | None, form: str, words: Mapping[str, str]) -> str:
    return words["unknown"] if value is None else form.format(value)


def remark(checkpoint: dict[str, Any], language: str) -> Text:
    """``checkpoint``: a row of verdict.json; what no template knows is quoted in English. ``language``: "en", "zh"."""
    said = checkpoint.get("words") or ""
    if language == "en" or not said:
        return str(said)
    name, state = str(checkpoint.get("name")), str(checkpoint.get("state"))
    value, threshold, step = (numeric(checkpoint.get(key)) for key in ("value", "threshold", "step"))
    template = REMARKS.get(name)
    if name == "models loaded" and state != "pass":
        return NOT_LOADED.get(state, "")
    if template and "{value" in template and value is None:
        return fill(NOT_REACHED[state], step=int(step)) if state in NOT_REACHED and step is not None else ""
    if not template or ("{threshold" in template and threshold is None):
        return Quoted(str(said))
    return fill(template, value=value, threshold=threshold)


def numeric(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
