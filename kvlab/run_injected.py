"""The functional test in the report of a run: one table of start, end and change, with its controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kvlab.run_blocks import Block, Heading, Paragraph, Quoted, Table, Text, fill
from kvlab.run_functional import VARIANTS

Fields = dict[str, Any]
WHEN = ("before", "after", "change")
OF = ("kl", "delta_ce")


def blocks(report: Fields, words: Mapping[str, str]) -> Iterator[Block]:
    """Nothing for a run that was not asked for the test. ``report``: of kvlab.run_report.gather."""
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
