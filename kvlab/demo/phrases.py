"""Read the parts of a word problem's scenario; the sentences are in ``english.json`` and ``chinese.json``.

Fields of a sentence: {N} name, {S} pronoun, {f} a friend, {p} place, {o} object, {m} measure word,
{v} the value at the start, {k} the number of an event.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Event(NamedTuple):
    op: str  # one of + - × ÷
    sentence: str
    gloss: str  # how the reasoning names the event


@dataclass(frozen=True)
class Scenario:
    name: str
    kind: str  # how numbers look: count, tenths, money or clock
    start: str
    unit: str
    questions: list[str]
    events: list[Event]
    objects: tuple[str, ...] | list[str] = ("",)  # in Chinese "measure word + object", separated by a space
    places: tuple[str, ...] | list[str] = ("",)


@dataclass(frozen=True)
class Language:
    code: str
    people: list[list[str]]  # name, pronoun
    context: dict[str, list[str]]  # other fields that openings may use
    openings: list[str]
    links: list[str]  # put before an event sentence
    styles: dict[str, dict[str, str | list[str]]]  # lead, steps (with {eq}, {gloss}, {k}), close
    scenarios: list[Scenario]
    marker: str  # before the answer
    gap: str  # between sentences
    op_words: dict[str, str]


def read_language(name: str) -> Language:
    """Read ``NAME.json``. A scenario without a kind extends "things": it has their events before its own."""
    fields = json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"))
    things, scenarios = fields.pop("things"), []
    for scenario in fields.pop("scenarios"):
        if "kind" not in scenario:
            scenario = things | scenario | {"events": things["events"] + scenario["events"]}
        scenarios.append(Scenario(**scenario | {"events": [Event(*event) for event in scenario["events"]]}))
    return Language(**fields, scenarios=scenarios)
